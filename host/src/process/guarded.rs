//! Processes that do not outlive the host: the only way in which the host, and
//! the command built on it, start a process.
//!
//! Every process is the leader of its own process group, has a
//! [guard](super::guard), and starts with no signal blocked or ignored,
//! whatever the host's own signal setup. A file that cannot be executed is an
//! error; it is never passed to a shell instead.
#![allow(unsafe_code)] // what runs before the program

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString, c_char, c_int};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid};

use super::command::CommandLine;
use super::fork::{self, Processors, clear_of_stdio};
use super::guard::{Guard, Line};
use crate::catalog::Package;
use crate::plugin_options::{ProcessLimits, Size};
use crate::program::search::find_program;

/// A process that ends with this one, however this one ends: SIGTERM, one
/// second, SIGKILL, to it and to its whole process group. Dropping it kills it
/// with its group.
///
/// How it ends cannot be known if other code of this process ignores SIGCHLD,
/// or waits for any child (`waitpid(-1)`).
#[derive(Debug)]
pub struct GuardedProcess {
    pid: Pid,
    /// Present until the process has been waited for.
    guard: Option<Arc<Guard>>,
}

/// The step before the program's own that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Prepare,
    EnterFolder,
    LimitMemory,
    LimitDescriptors,
    LimitProcessors,
    Execute,
}

/// What differs from an ordinary start.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// The environment has only the variables of `env`, which otherwise replace
    /// this process's own of their names.
    pub(crate) clears_env: bool,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) limits: ProcessLimits,
    /// The program's file, to be executed whatever its path leads to by then.
    pub(crate) program: Option<File>,
}

/// Why a process was not started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The system refuses something that every start needs.
    System(&'static str, io::Error),
    /// A limit cannot be set.
    Limit(String),
    /// The program cannot be executed in its folder.
    Program(io::Error),
}

impl GuardedProcess {
    /// Starts `program` in `folder`, with this process's environment and an
    /// empty stdin. A name without a slash is looked up in `PATH`.
    ///
    /// # Errors
    /// The operating system's, for the program, the folder, or the process.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
        stdout: impl Into<OwnedFd>,
        stderr: impl Into<OwnedFd>,
    ) -> io::Result<Self> {
        let started = Self::start_with(program, arguments, folder, Setup::default(), stdout, stderr);
        started.map_err(|failure| explain(failure.into()))
    }

    /// Starts a plugin's program as the host does, in its folder and by its
    /// interpreter, with `argument` in place of the launch options. An
    /// environment that its manifest asks for is created first, if it is not
    /// there; `is_cancelled` aborts that.
    ///
    /// # Errors
    /// The interpreter or the environment cannot be used, or the program cannot
    /// be executed.
    pub fn start_plugin(
        package: &Package,
        python_bin: Option<&str>,
        argument: &str,
        is_cancelled: &dyn Fn() -> bool,
        stdout: impl Into<OwnedFd>,
        stderr: impl Into<OwnedFd>,
    ) -> crate::Result<Self> {
        let line = CommandLine::new(package, python_bin, argument, is_cancelled)?;
        let started = Self::start_with(&line.program, &line.args, &line.directory, Setup::default(), stdout, stderr);
        started.map_err(|failure| line.cannot_start(&package.name, failure.into()))
    }

    /// Starts a program. The errors are the operating system's own.
    pub(crate) fn start_with(
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
        setup: Setup,
        stdout: impl Into<OwnedFd>,
        stderr: impl Into<OwnedFd>,
    ) -> Result<Self, NotStarted> {
        let refused = |resource| move |error| NotStarted::System(resource, error);
        let limits = setup.limits;
        let cage = Cage::new(limits).map_err(refused("the processors that it may use"))?;
        let image = Image::new(program, arguments, folder, setup).map_err(NotStarted::Program)?;
        let nothing: OwnedFd = std::fs::File::open("/dev/null").map_err(refused("/dev/null"))?.into();
        let streams = [nothing, stdout.into(), stderr.into()].map(clear_of_stdio);
        let [stdin, stdout, stderr] = streams;
        let streams: io::Result<_> = (|| Ok([stdin?, stdout?, stderr?]))();
        let streams = streams.map_err(refused("a descriptor"))?;
        let (mut report, reporter) = io::pipe().map_err(refused("a pipe"))?;
        let reporter = clear_of_stdio(reporter.into()).map_err(refused("a descriptor"))?;
        let refused_guard = refused("a guard process");
        let guard = Guard::of_this_process().map_err(refused_guard)?;
        let line = guard.line().map_err(refused_guard)?;
        // SAFETY: `be_program` makes system calls on memory allocated before;
        // no allocation, no lock, no panic.
        let spawned = unsafe { fork::spawn(|| be_program(&image, &cage, &streams, &line, reporter.as_fd())) };
        let pid = spawned.map_err(refused("a process"))?;
        guard.enlist(pid, &line);
        drop((streams, reporter));
        let mut started = Self { pid, guard: Some(guard) };
        let mut failure = [0; 5];
        match report.read_exact(&mut failure) {
            // The execution closed the other end: it succeeded.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(started),
            outcome => {
                let _ = started.reap();
                outcome.map_err(refused("the outcome of its start"))?;
                let [step, errno @ ..] = failure;
                let error = io::Error::from_raw_os_error(c_int::from_ne_bytes(errno));
                Err(match step {
                    step if step == Step::Prepare as u8 => NotStarted::System("a process group and signals", error),
                    step if step == Step::EnterFolder as u8 => NotStarted::Program(io::Error::new(
                        error.kind(),
                        format!("its folder {}: {error}", folder.display()),
                    )),
                    step if step == Step::Execute as u8 => NotStarted::Program(error),
                    step => NotStarted::Limit(limits.problem(step, &error)),
                })
            }
        }
    }

    /// Returns the id of the process and of its group.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the process's end, and kills the rest of its group.
    ///
    /// # Errors
    /// The operating system cannot tell how it ended.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        let _ = wait_for_end(self.pid);
        self.reap()
    }

    /// Returns whether the process has ended. What it has started may go on.
    pub fn has_ended(&self) -> bool {
        has_ended(self.pid)
    }

    /// Kills the rest of the group, whose leader has ended.
    pub(crate) fn end_group(&mut self) {
        if self.guard.is_some() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Kills the rest of the group, and reaps its leader, whose id may be
    /// reused from then on: the guard has forgotten it.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.end_group();
        let Some(guard) = self.guard.take() else { return Err(Errno::CHILD.into()) };
        guard.dismiss(self.pid);
        let status = fork::wait_for(self.pid.as_raw_nonzero().get(), 0)?.ok_or(Errno::CHILD)?;
        fork::reap_orphans(self.pid);
        Ok(ExitStatus::from_raw(status))
    }
}

impl Drop for GuardedProcess {
    fn drop(&mut self) {
        let _ = self.reap();
    }
}

/// Option to wait for a child that has not executed its program yet: it would
/// send no SIGCHLD, and ordinary waits do not see it.
const ANY_CHILD: WaitIdOptions = WaitIdOptions::from_bits_retain(fork::ANY_CHILD.cast_unsigned() as _);

/// Waits until a guarded process has ended, without reaping it, so that its id
/// is not reused. `None` if how it ended cannot be known.
pub(crate) fn wait_for_end(pid: Pid) -> Option<WaitIdStatus> {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | ANY_CHILD) {
            Err(Errno::INTR) => {}
            ended => return ended.ok().flatten(),
        }
    }
}

/// Returns whether a guarded process that is not reaped yet has ended.
pub(crate) fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG | ANY_CHILD;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// Turns the new process into the program, or reports why that failed.
fn be_program(image: &Image, cage: &Cage, streams: &[OwnedFd; 3], line: &Line, reporter: BorrowedFd<'_>) -> ! {
    let (step, error) = match prepare(streams, line) {
        Err(error) => (Step::Prepare, error),
        Ok(()) => image.execute(cage),
    };
    let mut failure = [step as u8, 0, 0, 0, 0];
    failure[1..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
    let _ = rustix::io::write(reporter, &failure);
    fork::end()
}

fn prepare(streams: &[OwnedFd; 3], line: &Line) -> io::Result<()> {
    for (stream, number) in streams.iter().zip(0..) {
        // SAFETY: a system call without memory; nothing in this process uses
        // the descriptor that is replaced.
        if unsafe { libc::dup2(stream.as_raw_fd(), number) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    rustix::process::setpgid(None, None)?;
    line.lead()?;
    fork::default_signals()
}

/// A program, arguments and environment in the form of the system call. Not
/// `execvp`, which the standard library uses: it passes a file of unknown
/// format to `/bin/sh`, whose error message is misleading.
struct Image {
    program: CString,
    folder: CString,
    arguments: Pointers,
    environment: Pointers,
    /// Executed instead of what the path leads to.
    file: Option<OwnedFd>,
}

impl Image {
    fn new(program: &Path, arguments: &[OsString], folder: &Path, setup: Setup) -> io::Result<Self> {
        let found = match program.as_os_str().as_bytes().contains(&b'/') {
            true => program.to_owned(),
            false => find_program(&program.to_string_lossy()).ok_or(Errno::NOENT)?,
        };
        let words = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
        let Setup { clears_env, env, program: file, limits: _ } = setup;
        let inherited = std::env::vars_os().filter(|(name, _)| !clears_env && !env.contains_key(name));
        let own = env.iter().map(|(name, value)| (name.clone(), value.clone()));
        let variables = inherited.chain(own).map(|(name, value)| {
            let mut variable = name.into_vec();
            variable.push(b'=');
            variable.extend_from_slice(value.as_bytes());
            CString::new(variable)
        });
        Ok(Self {
            program: c_string(found.as_os_str())?,
            folder: c_string(folder.as_os_str())?,
            arguments: Pointers::new(words.map(c_string).collect::<io::Result<_>>()?),
            environment: Pointers::new(variables.collect::<Result<_, _>>()?),
            file: file.map(|file| clear_of_stdio(file.into())).transpose()?,
        })
    }

    /// Executes the program; returns only on failure.
    fn execute(&self, cage: &Cage) -> (Step, io::Error) {
        if let Err(errno) = rustix::process::chdir(&*self.folder) {
            return (Step::EnterFolder, errno.into());
        }
        if let Err(failure) = cage.enter() {
            return failure;
        }
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: null-terminated strings, and null-terminated lists of them,
        // which live as long as this does.
        unsafe {
            match &self.file {
                Some(file) => fork::execute_file(file, &self.program, arguments, environment),
                None => {
                    libc::execve(self.program.as_ptr(), arguments, environment);
                }
            }
        }
        (Step::Execute, io::Error::last_os_error())
    }
}

/// Limits in the form of the system calls, which the new process sets itself.
struct Cage {
    limits: ProcessLimits,
    processors: Option<Processors>,
}

impl Cage {
    fn new(limits: ProcessLimits) -> io::Result<Self> {
        let processors = limits.processors.map(Processors::new).transpose()?;
        Ok(Self { limits, processors })
    }

    /// Sets the limits of this process, which is to execute a program.
    fn enter(&self) -> Result<(), (Step, io::Error)> {
        let limit = |resource, most: Option<u64>, step| match most {
            None => Ok(()),
            Some(_) => rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })
                .map_err(|errno| (step, errno.into())),
        };
        limit(Resource::Data, self.limits.memory, Step::LimitMemory)?;
        limit(Resource::Nofile, self.limits.descriptors, Step::LimitDescriptors)?;
        match &self.processors {
            None => Ok(()),
            Some(processors) => processors.restrict().map_err(|error| (Step::LimitProcessors, error)),
        }
    }
}

impl ProcessLimits {
    /// Says which limit could not be set.
    fn problem(&self, step: u8, error: &io::Error) -> String {
        let (what, resource) = match step {
            step if step == Step::LimitMemory as u8 => {
                (format!("memory to {}", Size(self.memory.unwrap_or_default())), Resource::Data)
            }
            step if step == Step::LimitDescriptors as u8 => {
                (format!("descriptors to {}", self.descriptors.unwrap_or_default()), Resource::Nofile)
            }
            _ => {
                return format!("its processors cannot be limited to {}: {error}", self.processors.unwrap_or_default());
            }
        };
        let own = rustix::process::getrlimit(resource).maximum;
        let own =
            own.map_or_else(String::new, |own| format!("; the host's own limit is {own}, and cannot be exceeded"));
        format!("it cannot limit {what}: {error}{own}")
    }
}

impl From<NotStarted> for io::Error {
    fn from(failure: NotStarted) -> Self {
        match failure {
            NotStarted::System(_, error) | NotStarted::Program(error) => error,
            NotStarted::Limit(problem) => Self::other(problem),
        }
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// Strings, and the null-terminated list of their addresses.
struct Pointers {
    _strings: Vec<CString>,
    addresses: Vec<*const c_char>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let ends = std::iter::once(std::ptr::null());
        let addresses = strings.iter().map(|string| string.as_ptr()).chain(ends).collect();
        Self { _strings: strings, addresses }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.addresses.as_ptr()
    }
}

/// Adds to an error of a shortage what to do about it.
fn explain(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::AGAIN | Errno::NOMEM) => io::Error::new(
            error.kind(),
            format!(
                "{error}: it needs a process, and another one, a guard that shares the host's memory, if there is none \
                 yet; raise the limit of processes (ulimit -u, pids.max) or of memory"
            ),
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn start(program: &str) -> io::Result<GuardedProcess> {
        GuardedProcess::start(Path::new(program), &[], Path::new("/"), nothing(), nothing())
    }

    /// Returns whether this is the process of one test, since its limits would
    /// apply to other tests too; otherwise runs the test in one.
    fn is_alone(test: &str) -> bool {
        const ALONE: &str = "EKUIPER_GUARDED_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let (own, test) = (std::env::current_exe().unwrap(), format!("process::guarded::tests::{test}"));
        #[allow(clippy::disallowed_methods)] // it is this test's own
        let output = std::process::Command::new(own).args(["--exact", &test]).env(ALONE, "").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[test]
    fn a_start_without_its_guard_fails_with_the_reason() {
        if !is_alone("a_start_without_its_guard_fails_with_the_reason") {
            return;
        }
        // Root has no limit, but a thread of it can be a user without other
        // processes: the limit then hits the guard, or the process itself.
        let counts: &[u64] = match rustix::process::getuid() {
            user if user.is_root() => {
                let user = rustix::process::Uid::from_raw(3_141_592);
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
                &[1, 2]
            }
            _ => &[0],
        };
        for count in counts {
            let limit = Rlimit { current: Some(*count), maximum: Some(1000) };
            rustix::process::setrlimit(Resource::Nproc, limit).unwrap();
            let error = start("/bin/true").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert!(error.to_string().contains("it needs a process"), "{error}");
        }
    }

    #[test]
    fn what_the_system_refuses_is_no_fault_of_the_program() {
        if !is_alone("what_the_system_refuses_is_no_fault_of_the_program") {
            return;
        }
        let try_start = |program, streams: [OwnedFd; 2]| {
            let [stdout, stderr] = streams;
            GuardedProcess::start_with(Path::new(program), &[], Path::new("/"), Setup::default(), stdout, stderr)
        };
        let mut refusals = Vec::new();
        for spare in 0..100 {
            let streams = [nothing(), nothing()];
            let lowest = nothing().as_raw_fd();
            let former = rustix::process::getrlimit(Resource::Nofile);
            let current = Some(lowest.unsigned_abs().into()).map(|lowest: u64| lowest + spare);
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current, ..former }).unwrap();
            let started = try_start("/bin/true", streams);
            rustix::process::setrlimit(Resource::Nofile, former).unwrap();
            match started {
                Ok(_) => break,
                Err(NotStarted::System(resource, error)) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                    refusals.push(resource);
                }
                Err(other) => panic!("with {spare} descriptors the program is at fault: {other:?}"),
            }
        }
        assert!(refusals.contains(&"a pipe") && refusals.contains(&"a guard process"), "{refusals:?}");
        let wrong = try_start("/no/such/program", [nothing(), nothing()]);
        assert!(matches!(wrong, Err(NotStarted::Program(_))), "{wrong:?}");
    }

    #[test]
    fn how_it_ends_is_known_and_nothing_is_left() {
        if !is_alone("how_it_ends_is_known_and_nothing_is_left") {
            return;
        }
        let process = start("/bin/false").unwrap();
        let (pid, guard) = (process.pid(), process.guard.as_ref().unwrap().pid());
        assert_eq!(process.wait().unwrap().code(), Some(1));
        let dropped = start("/bin/cat").unwrap();
        let (other, other_guard) = (dropped.pid(), dropped.guard.as_ref().unwrap().pid());
        drop(dropped);
        for pid in [pid, guard, other, other_guard] {
            assert!(fork::wait_for(pid.as_raw_nonzero().get(), 0).is_err(), "{pid} is no child any more");
        }
    }

    /// What the path leads to by then does not matter.
    #[test]
    fn an_open_file_is_executed_and_not_its_path() {
        let setup = Setup { program: Some(File::open("/bin/false").unwrap()), ..Setup::default() };
        let started =
            GuardedProcess::start_with(Path::new("/bin/true"), &[], Path::new("/"), setup, nothing(), nothing());
        assert_eq!(started.unwrap().wait().unwrap().code(), Some(1));
    }

    #[test]
    fn what_the_kernel_does_not_know_is_handed_to_no_shell() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "exit 0\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = start(script.to_str().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC));
    }
}
