//! The other process of a measurement: this executable again, as a plugin or as
//! one of the peers that are not plugins.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use ekuiper_core::Chain;

use crate::{Error, Result, peer, plugin};

/// Name under which the executable is started as the other process.
pub const NAME: &str = "bench-plugin";

/// Returns whether this process was started under that name.
pub fn is_one() -> bool {
    let own = std::env::args_os().next().unwrap_or_default();
    Path::new(&own).file_name().is_some_and(|name| name == NAME)
}

/// Does what the arguments say.
pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let served = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["raw", rest @ ..] => peer::raw::serve(rest),
        #[cfg(feature = "peers")]
        ["grpc", path] => peer::grpc::serve(Path::new(path)),
        _ if plugin::folder() == peer::frames::NAME => peer::frames::serve(),
        _ => return plugin::run(),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::tell(format_args!("{NAME}: {}", Chain(&error)));
            ExitCode::FAILURE
        }
    }
}

/// A child process that ends with its owner.
pub(crate) struct Child(std::process::Child);

impl Child {
    /// Starts `program` under our [`NAME`].
    pub(crate) fn start(program: &Path, arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg0(NAME).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        Self::spawn(&mut command)
    }

    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let what = format!("start {}", Path::new(command.get_program()).display());
        // Ctrl-C in a terminal goes to this process only, which ends the child.
        command.process_group(0);
        command.spawn().map(Self).map_err(Error::io(what))
    }

    /// Returns the pipes to its standard input and from its standard output, once.
    #[cfg(feature = "peers")]
    pub(crate) fn pipes(&mut self) -> Option<(std::process::ChildStdin, std::process::ChildStdout)> {
        Some((self.0.stdin.take()?, self.0.stdout.take()?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns whether the child has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
