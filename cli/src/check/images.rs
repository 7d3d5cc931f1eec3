//! eKuiper's images, and in which of them a program runs.

use super::program::{Library, Native, Processor};

/// An image of eKuiper's; each is made for three processors.
pub(super) struct Image {
    /// The end of the tag; the first is the default, without one.
    pub(super) name: &'static str,
    system: System,
    pub(super) has_python: bool,
    /// Its Python has the official module `ekuiper`.
    pub(super) has_module: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    /// Alpine, with musl.
    Alpine,
    /// Debian 12, with glibc 2.36.
    Debian,
}

/// The glibc of Debian 12.
const GLIBC: (u32, u32) = (2, 36);

/// Further libraries of the image's system.
const DEBIANS: [&str; 4] = ["libgcc_s.so.1", "libstdc++.so.6", "libz.so.1", "libcrypt.so.1"];

pub(super) const IMAGES: [Image; 4] = [
    Image { name: "alpine", system: System::Alpine, has_python: false, has_module: false },
    Image { name: "slim", system: System::Debian, has_python: false, has_module: false },
    Image { name: "slim-python", system: System::Debian, has_python: true, has_module: true },
    Image { name: "alpine-python", system: System::Alpine, has_python: true, has_module: false },
];

/// The processors that each image is made for.
const PROCESSORS: [Processor; 3] = [Processor::Amd64, Processor::Arm64, Processor::ArmV7];

impl Image {
    /// Returns why a native program does not run in the image.
    pub(super) fn refuses(&self, program: &Native, packaged: impl Fn(&str) -> bool) -> Option<String> {
        if !PROCESSORS.contains(&program.processor) {
            return Some(format!(
                "it is built for {}, and the images are for amd64, arm64 and arm/v7",
                program.processor.name()
            ));
        }
        match (&program.library, self.system) {
            (Library::Static, _) | (Library::Musl { .. }, System::Alpine) => {}
            (Library::Glibc { version, .. }, System::Debian) if *version > GLIBC => {
                return Some(format!(
                    "it needs glibc {}.{}, and the image has {}.{}",
                    version.0, version.1, GLIBC.0, GLIBC.1
                ));
            }
            (Library::Glibc { loader, .. }, System::Debian) if loader.ends_with("ld-linux.so.3") => {
                return Some("it is built for ARM without hard floats".into());
            }
            (Library::Glibc { .. }, System::Debian) => {}
            (Library::Glibc { .. }, System::Alpine) => return Some("it needs glibc, and the image has musl".into()),
            (Library::Musl { .. }, System::Debian) => return Some("it needs musl, and the image has glibc".into()),
            (Library::Other { loader }, _) => return Some(format!("it needs the loader {loader}")),
        }
        let has = |name: &str| (self.system == System::Debian && DEBIANS.contains(&name)) || packaged(name);
        program.needs.iter().find(|name| !has(name)).map(|name| format!("it needs {name}, which the image has not"))
    }

    /// Returns whether the image has this interpreter of scripts.
    pub(super) fn has_interpreter(&self, interpreter: &str, argument: &str) -> bool {
        let is_python = |name: &str| self.has_python && ["python", "python3", "python3.12"].contains(&name);
        match interpreter {
            "/usr/bin/env" => {
                ["sh"].contains(&argument)
                    || is_python(argument)
                    || (self.system == System::Debian && ["bash", "perl"].contains(&argument))
            }
            "/bin/sh" => true,
            "/bin/bash" | "/usr/bin/bash" | "/usr/bin/sh" | "/bin/dash" | "/usr/bin/perl" => {
                self.system == System::Debian
            }
            // Not Debian's or Alpine's own Python.
            other => other.strip_prefix("/usr/local/bin/").is_some_and(is_python),
        }
    }

    /// The image's name for this processor, as in a report.
    pub(super) fn for_processor(&self, processor: Processor) -> String {
        format!("{} linux/{}", self.name, processor.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(processor: Processor, library: Library, needs: &[&str]) -> Vec<&'static str> {
        let program = Native { processor, library, needs: needs.iter().map(|name| (*name).to_owned()).collect() };
        IMAGES.iter().filter(|image| image.refuses(&program, |_| false).is_none()).map(|image| image.name).collect()
    }

    #[test]
    fn a_program_runs_where_its_library_is() {
        let glibc = |version| Library::Glibc { loader: "/lib64/ld-linux-x86-64.so.2".into(), version };
        let musl = Library::Musl { loader: "/lib/ld-musl-aarch64.so.1".into() };
        assert_eq!(fits(Processor::ArmV7, Library::Static, &[]).len(), 4);
        assert_eq!(fits(Processor::Amd64, glibc((2, 36)), &["libgcc_s.so.1"]), ["slim", "slim-python"]);
        assert!(fits(Processor::Amd64, glibc((2, 38)), &[]).is_empty());
        assert!(fits(Processor::Amd64, glibc((2, 17)), &["libpq.so.5"]).is_empty());
        assert_eq!(fits(Processor::Arm64, musl.clone(), &[]), ["alpine", "alpine-python"]);
        assert!(fits(Processor::Arm64, musl, &["libgcc_s.so.1"]).is_empty());
        assert!(fits(Processor::Other("riscv64"), Library::Static, &[]).is_empty());
    }

    #[test]
    fn an_interpreter_is_in_some_images() {
        let has = |interpreter, argument| {
            IMAGES
                .iter()
                .filter(|image| image.has_interpreter(interpreter, argument))
                .map(|image| image.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(has("/bin/sh", "").len(), 4);
        assert_eq!(has("/bin/bash", ""), ["slim", "slim-python"]);
        assert_eq!(has("/usr/bin/env", "python3"), ["slim-python", "alpine-python"]);
        assert!(has("/usr/bin/python3", "").is_empty() && has("/usr/bin/env", "node").is_empty());
    }
}
