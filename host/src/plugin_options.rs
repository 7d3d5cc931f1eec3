//! What an engine decides about one plugin: environment, working directory and
//! limits of its processes, the checksum of its program, and how its functions
//! are called.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ekuiper_core::printable;

use crate::{CallOptions, Error, Result};

/// Settings of one plugin's processes, for
/// [`HostBuilder::plugin_options`](crate::HostBuilder::plugin_options). They
/// apply to each of its processes: after a restart, of an update and in its
/// trial, in a pool. The default changes nothing.
///
/// ```
/// use ekuiper_host::{Host, PluginOptions};
///
/// # fn main() -> ekuiper_host::Result<()> {
/// let options = PluginOptions::new().env("MODE", "small").memory(256 << 20).descriptors(256).processors(1);
/// let host = Host::builder().plugin_options("mirror", options).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it does nothing until a host has it"]
pub struct PluginOptions {
    pub(crate) clears_env: bool,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) limits: ProcessLimits,
    pub(crate) sha256: Option<String>,
    functions: BTreeMap<String, FunctionOptions>,
}

/// How a function is called, where its caller says nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FunctionOptions {
    pub(crate) calls: CallOptions,
    pub(crate) processes: Option<usize>,
}

/// Limits of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessLimits {
    /// In bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) descriptors: Option<u64>,
    pub(crate) processors: Option<usize>,
}

impl PluginOptions {
    /// Returns the options that change nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an environment variable, in place of the host's own.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Passes on none of the host's environment variables: the plugin has those
    /// of [`env`](PluginOptions::env) alone. A Python plugin may need `HOME`,
    /// a script `PATH`.
    pub fn clear_env(mut self) -> Self {
        self.clears_env = true;
        self
    }

    /// Sets the working directory. Default: the folder of its program.
    pub fn dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.dir = Some(path.into());
        self
    }

    /// Limits the private memory of each process, in bytes: heap, stacks of
    /// threads and other private writable memory, whether it is used yet or not
    /// (`RLIMIT_DATA`). A process beyond it gets no more memory from the system:
    /// most programs end then, and errors name the limit.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// Sets how many files and sockets each process may have open
    /// (`RLIMIT_NOFILE`). More than the host itself may have is an error at the
    /// plugin's start.
    pub fn descriptors(mut self, number: u64) -> Self {
        self.limits.descriptors = Some(number);
        self
    }

    /// Limits each process to so many of the processors that the host may use.
    /// Which ones is chosen at each start, in turn.
    pub fn processors(mut self, number: usize) -> Self {
        self.limits.processors = Some(number);
        self
    }

    /// Sets the SHA-256 that the plugin's executable must have, in hexadecimal
    /// digits: the file that its manifest names, in Python the script. It is
    /// checked at each start, and a plugin with another one is not started.
    ///
    /// Of a program that is no script, the very file that was checked is
    /// executed, also if another one is put in its place meanwhile. A script is
    /// read again by its interpreter. Neither interpreters nor libraries and
    /// modules are checked, nor is what is written into the file while it is
    /// checked.
    pub fn sha256(mut self, digits: impl Into<String>) -> Self {
        self.sha256 = Some(digits.into().to_ascii_lowercase());
        self
    }

    /// Sets the options of a function's calls, which its handles and pools have
    /// from their start: [`Function::options`](crate::Function::options).
    pub fn calls(mut self, function: impl Into<String>, options: CallOptions) -> Self {
        self.functions.entry(function.into()).or_default().calls = options;
        self
    }

    /// Sets the size of a function's [pools](crate::FunctionPoolBuilder::size)
    /// that are given none, whatever the plugin says of the function.
    pub fn processes(mut self, function: impl Into<String>, number: usize) -> Self {
        self.functions.entry(function.into()).or_default().processes = Some(number);
        self
    }

    /// Returns how a function is called.
    pub(crate) fn function(&self, name: &str) -> FunctionOptions {
        self.functions.get(name).copied().unwrap_or_default()
    }

    /// Checks what can be wrong whatever the plugin is; makes the directory
    /// absolute.
    pub(crate) fn checked(mut self, plugin: &str) -> Result<Self> {
        let wrong = |problem: String| Error::PluginOption { plugin: plugin.to_owned(), problem };
        for (name, value) in &self.env {
            let shown = name.to_string_lossy();
            let shown = printable::excerpt(&shown);
            if name.is_empty() || name.as_bytes().iter().any(|byte| [b'=', 0].contains(byte)) {
                return Err(wrong(format!("{shown:?} cannot be the name of an environment variable")));
            }
            if value.as_bytes().contains(&0) {
                return Err(wrong(format!("the environment variable {shown} has a zero byte")));
            }
        }
        if let Some(digits) = &self.sha256
            && (digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        {
            return Err(wrong(format!("{:?} is no SHA-256: 64 hexadecimal digits", printable::excerpt(digits))));
        }
        let ProcessLimits { memory, descriptors, processors } = self.limits;
        for (what, is_zero) in [
            ("memory", memory == Some(0)),
            ("descriptors", descriptors == Some(0)),
            ("processors", processors == Some(0)),
        ] {
            if is_zero {
                return Err(wrong(format!("a limit of no {what} lets nothing run")));
            }
        }
        if let Some((name, _)) = self.functions.iter().find(|(_, options)| options.processes == Some(0)) {
            return Err(wrong(format!("no process of function {} lets nothing run", printable::excerpt(name))));
        }
        if let Some(dir) = &self.dir {
            let absolute = std::path::absolute(dir);
            self.dir = Some(absolute.map_err(|error| wrong(format!("the directory {}: {error}", dir.display())))?);
        }
        Ok(self)
    }

    /// Returns the directory, or the default one.
    pub(crate) fn dir_or<'a>(&'a self, default: &'a Path) -> &'a Path {
        self.dir.as_deref().unwrap_or(default)
    }
}

/// A size of memory, as people write it.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.into_iter().find(|(shift, _)| self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Words by which programs end that get no memory: of Rust, Python, Go and the
/// JVM, C++, the C library, and the loader of libraries.
const OUT_OF_MEMORY: [&str; 6] = [
    "memory allocation of ",
    "memoryerror",
    "out of memory",
    "bad_alloc",
    "cannot allocate memory",
    "failed to map segment",
];

impl ProcessLimits {
    /// Returns whether a process says, in this line of its output, that it gets
    /// no more memory, which is limited.
    pub(crate) fn is_told_by(&self, line: &str) -> bool {
        if self.memory.is_none() {
            return false;
        }
        let line = line.to_lowercase();
        OUT_OF_MEMORY.iter().any(|words| line.contains(words))
    }

    /// Returns the limit of memory, if it has ended a process, which has said so
    /// before.
    pub(crate) fn reached(&self, has_told: bool, code: Option<i32>, signal: Option<i32>) -> Option<u64> {
        let has_failed = signal.is_some() || code.is_some_and(|code| code != 0);
        self.memory.filter(|_| has_failed && has_told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_said_before_anything_starts() {
        let options = PluginOptions::new;
        for (options, problem) in [
            (options().env("", "x"), "\"\" cannot be the name of an environment variable"),
            (options().env("A=B", "x"), "\"A=B\" cannot be the name of an environment variable"),
            (options().env("A", "x\0"), "the environment variable A has a zero byte"),
            (options().sha256("12"), "\"12\" is no SHA-256: 64 hexadecimal digits"),
            (options().memory(0), "a limit of no memory lets nothing run"),
            (options().descriptors(0), "a limit of no descriptors lets nothing run"),
            (options().processors(0), "a limit of no processors lets nothing run"),
            (options().dir(""), "the directory : "),
        ] {
            let error = options.checked("p").unwrap_err().to_string();
            assert!(error.starts_with(&format!("the options of plugin p: {problem}")), "{error}");
        }
        let options = options().dir("x").sha256("AB".repeat(32)).checked("p").unwrap();
        assert_eq!(options.sha256.as_deref(), Some(&*"ab".repeat(32)));
        assert_eq!(options.dir, Some(std::env::current_dir().unwrap().join("x")));
    }

    #[test]
    fn a_process_that_got_no_memory_has_reached_its_limit() {
        let limits = ProcessLimits { memory: Some(64 << 20), ..Default::default() };
        for line in ["memory allocation of 7 bytes failed", "MemoryError", "fatal error: runtime: out of memory"] {
            assert!(limits.is_told_by(line), "{line}");
            assert!(!ProcessLimits::default().is_told_by(line), "{line}");
        }
        assert!(!limits.is_told_by("all is well"));
        let told = Some(64 << 20);
        assert_eq!(limits.reached(true, None, Some(6)), told);
        assert_eq!(limits.reached(true, Some(1), None), told);
        assert_eq!(limits.reached(true, Some(0), None), None);
        assert_eq!(limits.reached(false, None, Some(9)), None);
    }

    #[test]
    fn sizes_are_readable() {
        let sizes = [1 << 30, 64 << 20, 1536, 1000, 0].map(|size| Size(size).to_string());
        assert_eq!(sizes, ["1 GiB", "64 MiB", "1536 bytes", "1000 bytes", "0 bytes"]);
    }
}
