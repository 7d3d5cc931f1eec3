//! Programs of other processors, which the kernel starts in qemu.
//!
//! Debian's packages register qemu with the kernel for the whole machine. Here
//! that is done in a namespace of the command's own, which needs no rights and
//! leaves nothing behind.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Target;
use crate::Result;
use crate::process::{display, execute_as, find};

/// Registers the first argument for programs that begin with the second, and
/// runs the rest.
const REGISTER: &str = r#"mount -t binfmt_misc none /proc/sys/fs/binfmt_misc &&
printf %s ":emulator:M::$2:$3:$1:F" >/proc/sys/fs/binfmt_misc/register && shift 3 && exec "$@""#;

/// What compares the start of a program but its kind of system, and that it may
/// lie anywhere in memory.
const MASK: &str = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";

/// The starts of programs, and the folders of Debian's C libraries for them.
const PROCESSORS: [Processor; 2] = [
    Processor {
        name: "aarch64",
        magic: r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
        glibc: "/usr/aarch64-linux-gnu",
        package: "libc6-arm64-cross",
    },
    Processor {
        name: "arm",
        magic: r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00",
        glibc: "/usr/arm-linux-gnueabihf",
        package: "libc6-armhf-cross",
    },
];

struct Processor {
    name: &'static str,
    magic: &'static str,
    glibc: &'static str,
    package: &'static str,
}

/// How a target's programs are run.
pub(super) struct Emulator {
    /// Present if it is not this machine's processor.
    registered: Option<(String, &'static Processor)>,
    has_glibc: bool,
}

impl Emulator {
    /// Finds what runs the target's programs, of which `mirror` is one.
    ///
    /// # Errors
    /// Something is missing: one sentence that names it.
    pub(super) fn find(target: &Target, mirror: &Path) -> Result<Self> {
        if target.is_own() {
            return Self { registered: None, has_glibc: target.has_glibc() }.tried(mirror);
        }
        let processor = PROCESSORS.iter().find(|processor| processor.name == target.processor);
        let processor = processor.ok_or_else(|| format!("no emulator is known for {}", target.processor))?;
        let names = [format!("qemu-{}-static", processor.name), format!("qemu-{}", processor.name)];
        let found = names.iter().find_map(|name| find(name)).ok_or_else(|| {
            format!("there is no {} (install the Debian package qemu-user-static)", names.join(" and no "))
        })?;
        if target.has_glibc() && !Path::new(processor.glibc).is_dir() {
            return Err(format!(
                "there is no glibc for {} (install the Debian package {})",
                processor.name, processor.package
            ));
        }
        let registered = Some((found.display().to_string(), processor));
        Self { registered, has_glibc: target.has_glibc() }.tried(mirror)
    }

    /// Checks that a plugin of the target runs.
    fn tried(self, mirror: &Path) -> Result<Self> {
        let mut command = self.run(Command::new(mirror).arg("--describe"));
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("unshare cannot be run: {error}"))?;
        if output.status.success() {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next_back().unwrap_or("it said nothing");
        Err(format!("its programs cannot be run here (qemu needs Linux 6.7 and user namespaces): {said}"))
    }

    /// Runs a command that runs the target's programs.
    pub(super) fn execute(&self, command: &Command) -> Result<()> {
        let place = if self.registered.is_some() { " (in qemu)" } else { "" };
        execute_as(&format!("{}{place}", display(command)), &mut self.run(command))
    }

    /// Returns the same command, where the kernel runs the target's programs.
    pub(super) fn run(&self, command: &Command) -> Command {
        let mut whole = match &self.registered {
            None => Command::new(command.get_program()),
            Some((emulator, processor)) => {
                let mut unshare = Command::new("unshare");
                unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", REGISTER, "sh", emulator]);
                unshare.args([processor.magic, MASK]).arg(command.get_program());
                if self.has_glibc {
                    unshare.env("QEMU_LD_PREFIX", processor.glibc);
                }
                unshare
            }
        };
        whole.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => whole.env(name, value),
                None => whole.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            whole.current_dir(folder);
        }
        whole
    }
}
