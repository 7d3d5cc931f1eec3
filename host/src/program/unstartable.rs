//! Explanation of why a program could not be started. The operating system
//! reports one error number for many causes, and names none of the files it
//! looked for: a missing loader and a carriage return both yield "No such file
//! or directory".
//!
//! Nothing here is checked before an execution has failed.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use super::search::in_path;

/// Number of bytes of a script's first line that the kernel reads
/// (`BINPRM_BUF_SIZE`).
const FIRST_LINE: usize = 256;

/// Maximum nesting of interpreters that are scripts, as in the kernel.
const DEPTH: usize = 5;

/// Maximum number of symbolic links in a path, as in the kernel.
const LINKS: usize = 40;

/// Returns why `program` could not be executed in `folder`, as a clause that
/// follows its path; `None` if the system's error says it already.
pub(crate) fn reason(program: &Path, folder: &Path, error: &io::Error) -> Option<String> {
    if let Some(reason) = reason_of_file(program) {
        return Some(reason);
    }
    of_content(program, folder, Errno::from_raw_os_error(error.raw_os_error()?), DEPTH)
}

/// Returns why the file at `path` can be neither a program nor a script,
/// whatever its content.
pub(crate) fn reason_of_file(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => None,
        Ok(found) if found.is_dir() => Some("is a folder, not a program".into()),
        Ok(_) => Some("is not a file".into()),
        Err(error) => Some(match (error.kind(), fs::read_link(path)) {
            (io::ErrorKind::NotFound, Ok(target)) => {
                format!("is a symbolic link to {}, which does not exist", target.display())
            }
            (io::ErrorKind::NotFound, _) => "does not exist".into(),
            (io::ErrorKind::PermissionDenied, _) => match closed_folder(path, LINKS) {
                Some(folder) => format!(
                    "cannot be reached: the folder {} cannot be entered by {}: give it the right with chmod or chown",
                    folder.display(),
                    this_user()
                ),
                None => format!("cannot be reached: {error}"),
            },
            _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                "is a symbolic link that leads back to itself, or through too many others".into()
            }
            _ => format!("cannot be reached: {error}"),
        }),
    }
}

/// Returns why the file at `path` is skipped in a search for programs.
pub(crate) fn reason_of_place(path: &Path) -> Option<String> {
    reason_of_file(path).or_else(|| of_permissions(path))
}

/// Returns the first folder on the path that cannot be entered, following at
/// most this many links.
fn closed_folder(path: &Path, links: usize) -> Option<PathBuf> {
    let mut folders: Vec<_> = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
    folders.reverse();
    let closed = folders.into_iter().find(|folder| !is_allowed(folder));
    let at = closed.unwrap_or(path);
    match (fs::read_link(at), links) {
        (Ok(target), 1..) => {
            let target = at.parent().unwrap_or(at).join(target);
            let behind = closed_folder(&target, links - 1);
            behind.or_else(|| closed.map(|_| target))
        }
        _ => closed.map(Path::to_owned),
    }
}

fn is_allowed(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) != Err(Errno::ACCESS)
}

fn this_user() -> String {
    format!("this process's user {}", rustix::process::geteuid().as_raw())
}

/// Returns why an existing file cannot be executed.
fn of_content(path: &Path, folder: &Path, errno: Errno, depth: usize) -> Option<String> {
    let of_interpreter = || of_interpreter(path, folder, errno, depth.checked_sub(1)?);
    match errno {
        Errno::ACCESS => of_permissions(path).or_else(of_interpreter),
        Errno::NOEXEC => Some(of_format(path).or_else(of_interpreter).unwrap_or_else(|| {
            "is no program for this machine, and no script that begins with #!: build it for this machine".into()
        })),
        Errno::LOOP if ScriptLine::read(&File::open(path).ok()?).is_some() => Some(
            "has a #! line that leads back to itself, or to a script behind too many others: name a program in it"
                .into(),
        ),
        Errno::TXTBSY => Some("is being written: start it when it is complete".into()),
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::IO => of_interpreter(),
        #[cfg(target_os = "linux")]
        Errno::LIBBAD => of_interpreter(),
        _ => None,
    }
}

fn of_permissions(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    if found.mode() & 0o111 == 0 {
        return Some(match looks_like_a_program(path) {
            true => format!("is not executable: chmod +x {}", path.display()),
            false => "is not executable, and neither a program nor a script that begins with #!".into(),
        });
    }
    #[cfg(target_os = "linux")]
    if rustix::fs::statvfs(path).is_ok_and(|place| place.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC)) {
        return Some("lies on a file system that is mounted noexec: move it elsewhere, or mount that with exec".into());
    }
    (!is_allowed(path)).then(|| {
        format!(
            "may not be executed by {}: it belongs to user {}, group {}, and its mode is {:03o}",
            this_user(),
            found.uid(),
            found.gid(),
            found.mode() & 0o777
        )
    })
}

/// Returns what is wrong with the loader of a program, or with the interpreter
/// of a script.
fn of_interpreter(path: &Path, folder: &Path, errno: Errno, depth: usize) -> Option<String> {
    let file = File::open(path).ok()?;
    if let Some(line) = ScriptLine::read(&file) {
        if let Some(reason) = line.of_carriage_return(path) {
            return Some(reason);
        }
        // A relative path is resolved in the plugin's working directory.
        let interpreter = folder.join(&line.interpreter);
        if let Some(reason) = reason_of_file(&interpreter) {
            return Some(format!(
                "has a #! line that names the interpreter {}, which {reason}: install it, or correct the line",
                line.interpreter.display()
            ));
        }
        // Making a file of another kind executable would not help.
        if fs::metadata(&interpreter).is_ok_and(|found| found.mode() & 0o111 == 0)
            && !looks_like_a_program(&interpreter)
        {
            return Some(format!(
                "has a #! line that names the interpreter {}, which is no program: correct the line",
                line.interpreter.display()
            ));
        }
        let reason = of_content(&interpreter, folder, errno, depth)?;
        return Some(format!("is run by the interpreter {}, which {reason}", interpreter.display()));
    }
    let loader = loader(&file)?;
    if loader.as_os_str().is_empty() {
        return Some("names an empty path as its loader: build it again".into());
    }
    match reason_of_file(&loader) {
        Some(reason) => match elf_words(&read_up_to(&file, 0, 20)).and_then(|(_, machine)| foreign_name(machine)) {
            Some(name) => Some(format!(
                "is built for {name} and needs the loader {}, which {reason}: link it statically, install the C \
                 library of that processor, or build it for this one, {}",
                loader.display(),
                std::env::consts::ARCH
            )),
            None => Some(format!("needs the loader {}, which {reason}: {}", loader.display(), cure(&loader))),
        },
        None if errno == Errno::ACCESS => {
            let reason = of_permissions(&loader)?;
            Some(format!("needs the loader {}, which {reason}", loader.display()))
        }
        None => {
            Some(format!("needs the loader {}, which is none for this machine: {}", loader.display(), cure(&loader)))
        }
    }
}

fn looks_like_a_program(path: &Path) -> bool {
    // A file that cannot be read may be a program.
    File::open(path).map_or(true, |file| {
        let start = read_up_to(&file, 0, 4);
        start.starts_with(b"#!") || start.starts_with(b"\x7fELF")
    })
}

fn cure(loader: &Path) -> String {
    let name = loader.file_name().unwrap_or_default().to_string_lossy();
    let machine = std::env::consts::ARCH;
    if name.contains("musl") {
        format!(
            "the program was built for musl, which this system has not; link it statically, build it for glibc \
             ({machine}-unknown-linux-gnu), or install musl"
        )
    } else if name.starts_with("ld-linux") || name.starts_with("ld64") || name.starts_with("ld.so") {
        format!(
            "the program was built for glibc, which this system has not, or not for this kind of program; link it \
             statically, build it for musl ({machine}-unknown-linux-musl), or install glibc"
        )
    } else {
        "build the program for this system, or link it statically".into()
    }
}

/// The first line of a script.
struct ScriptLine {
    interpreter: PathBuf,
    /// The rest of the line, as one argument.
    argument: Vec<u8>,
}

impl ScriptLine {
    fn read(file: &File) -> Option<Self> {
        let start = read_up_to(file, 0, FIRST_LINE);
        let rest = start.strip_prefix(b"#!")?;
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or(rest);
        let line = trim(line);
        let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | 0)).unwrap_or(line.len());
        let interpreter = PathBuf::from(std::ffi::OsStr::from_bytes(&line[..end]));
        Some(Self { interpreter, argument: trim(&line[end..]).to_owned() })
    }

    fn of_carriage_return(&self, path: &Path) -> Option<String> {
        let ends = |text: &[u8]| text.ends_with(b"\r");
        (ends(self.interpreter.as_os_str().as_bytes()) || ends(&self.argument)).then(|| {
            format!(
                "has a #! line that ends with a carriage return, as files from Windows do: sed -i 's/\\r$//' {}",
                path.display()
            )
        })
    }
}

/// Returns why a script's interpreter exited with this code before it ran the
/// script; `None` if the file is no script, or its `#!` line seems correct.
pub(crate) fn reason_of_end(path: &Path, code: i32) -> Option<String> {
    if code == 0 {
        return None;
    }
    let line = ScriptLine::read(&File::open(path).ok()?)?;
    if let Some(reason) = line.of_carriage_return(path) {
        return Some(reason);
    }
    // Exit codes of `env` for a program that it cannot execute or find.
    if ![126, 127].contains(&code) || line.interpreter.file_name()? != "env" {
        return None;
    }
    let argument = String::from_utf8_lossy(&line.argument);
    let is_option = |word: &&str| word.starts_with('-') || word.contains('=');
    let name = argument.split_ascii_whitespace().find(|word| !is_option(word))?;
    match super::search::find_program(name) {
        Some(_) => None,
        None => Some(match in_path(name).find_map(|path| Some((reason_of_place(&path)?, path))) {
            Some((reason, path)) => format!("is run by the interpreter {}, which {reason}", path.display()),
            None => format!(
                "has a #! line that names the interpreter {name}, which is nowhere in PATH: install it, or correct the line"
            ),
        }),
    }
}

/// Returns why a file with this content is neither a program nor a script.
fn of_format(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let start = read_up_to(&file, 0, FIRST_LINE);
    if let Some(line) = start.strip_prefix(b"#!") {
        let is_whole = line.contains(&b'\n') || start.len() < FIRST_LINE;
        return match ScriptLine::read(&file)?.interpreter.as_os_str().is_empty() {
            true => Some("has a #! line that names no interpreter: name one, as in #!/bin/sh".into()),
            false if !is_whole => Some(format!("has a #! line of more than {} bytes: shorten it", FIRST_LINE - 1)),
            false => None,
        };
    }
    Some(match start.as_slice() {
        [] => "is empty: build the plugin again".into(),
        elf if elf.starts_with(b"\x7fELF") => return of_elf(elf),
        [b'M', b'Z', ..] => "is a program for Windows: build it for Linux".into(),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
            "is a program for macOS, or Java's: build it for Linux".into()
        }
        [b'P', b'K', 3, 4, ..] => "is a zip archive, not a program: extract it".into(),
        text if text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start().starts_with(b"#!") => {
            "has something before its #! (a byte order mark, or an empty line): it must be the very first".into()
        }
        _ => "is neither a program for Linux nor a script that begins with #!".into(),
    })
}

/// Returns an ELF header's type and machine; `None` if they are not there. Byte
/// order at 5, type at 16, machine at 18 (elf(5)).
fn elf_words(header: &[u8]) -> Option<(u16, u16)> {
    let (order, kind, machine) = (*header.get(5)?, number(header, 16)?, number(header, 18)?);
    Some(match order {
        2 => (kind.swap_bytes(), machine.swap_bytes()),
        _ => (kind, machine),
    })
}

/// Explains an ELF header.
fn of_elf(header: &[u8]) -> Option<String> {
    const INCOMPLETE: &str = "is not a complete program: build it again";
    let Some((kind, machine)) = elf_words(header) else { return Some(INCOMPLETE.into()) };
    if let Some(name) = foreign_name(machine) {
        let own = std::env::consts::ARCH;
        return Some(format!(
            "is built for {name}, this machine is {own}: build it for this one, or have the kernel run such programs \
             in an emulator (Debian packages qemu-user-static and binfmt-support)"
        ));
    }
    // ET_EXEC, ET_DYN.
    Some(match kind {
        2 | 3 => INCOMPLETE.into(),
        _ => "is a part of a program (an object file, or a core dump), not one that can be run".to_owned(),
    })
}

/// Returns the machine's name, if it is not this program's own: its programs may
/// run here nevertheless.
fn foreign_name(machine: u16) -> Option<&'static str> {
    let own = MACHINES.iter().find(|(name, _)| *name == std::env::consts::ARCH);
    if own.is_none_or(|(_, number)| *number == machine) {
        return None;
    }
    Some(MACHINES.iter().find(|(_, number)| *number == machine).map_or("another machine", |(name, _)| name))
}

/// Machines by Rust's name and ELF's number.
const MACHINES: &[(&str, u16)] = &[
    ("x86_64", 62),
    ("aarch64", 183),
    ("arm", 40),
    ("x86", 3),
    ("riscv64", 243),
    ("powerpc64", 21),
    ("s390x", 22),
    ("loongarch64", 258),
    ("mips", 8),
];

/// Returns the loader named by an ELF file of this machine's byte order.
fn loader(file: &File) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    let header = read_up_to(file, 0, 64);
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    // Position of the program headers; in each of them: type, offset and size.
    let is_64 = header.get(4) == Some(&2);
    let (table, entry, count) = match is_64 {
        true => (word(&header, 32, 8)?, word(&header, 54, 2)?, word(&header, 56, 2)?),
        false => (word(&header, 28, 4)?, word(&header, 42, 2)?, word(&header, 44, 2)?),
    };
    (0..count).find_map(|index| {
        let entry = read_up_to(file, table.checked_add(index * entry)?, 56);
        if word(&entry, 0, 4)? != PT_INTERP {
            return None;
        }
        let (offset, size) = match is_64 {
            true => (word(&entry, 8, 8)?, word(&entry, 32, 8)?),
            false => (word(&entry, 4, 4)?, word(&entry, 16, 4)?),
        };
        let name = read_up_to(file, offset, usize::try_from(size).ok()?.min(4096));
        let name = name.split(|byte| *byte == 0).next()?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Reads an unsigned number in this machine's byte order.
fn word(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?;
    let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    Some(match cfg!(target_endian = "big") {
        true => bytes.iter().fold(0, add),
        false => bytes.iter().rev().fold(0, add),
    })
}

fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// Reads at most this many bytes.
fn read_up_to(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Ok(count @ 1..) = file.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64)) {
        filled += count;
    }
    bytes.truncate(filled);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn script(path: &Path, text: &str) -> String {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        #[allow(clippy::disallowed_methods)] // it is this test's own
        let error = std::process::Command::new(path).spawn().unwrap_err();
        reason(path, Path::new("/"), &error).unwrap_or_default()
    }

    #[test]
    fn a_line_that_names_itself_or_no_program_is_to_be_corrected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        let said = script(&path, &format!("#!{}\n", path.display()));
        assert!(said.contains("leads back to itself"), "{said}");
        let said = script(&path, "#!/etc/passwd\n");
        assert!(said.contains("/etc/passwd, which is no program: correct the line"), "{said}");
    }

    /// Access to folders depends on the user: as root, the check runs on a
    /// thread of another user.
    #[test]
    fn a_closed_folder_behind_links_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("python"), "").unwrap();
        symlink(closed.join("python"), folder.path().join("first")).unwrap();
        symlink("first", folder.path().join("second")).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let path = folder.path().join("second");
        let said = std::thread::spawn(move || {
            if rustix::process::geteuid().is_root() {
                let user = rustix::process::Uid::from_raw(3_141_592);
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            }
            reason_of_file(&path)
        });
        let said = said.join().unwrap().unwrap_or_default();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(said.contains(&format!("the folder {} cannot be entered", closed.display())), "{said}");
    }
}
