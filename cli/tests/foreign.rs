//! Programs for another processor than this machine's: they are tried, since
//! the kernel may run them, itself or in an emulator.
#![cfg(target_arch = "x86_64")] // the one that these programs are foreign to
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::checked::check;
use support::{Bench, Ran, finish, write_program};

/// What each program says on its stderr, before it ends with code 7.
const WORDS: &[u8] = b"this is another processor\n";

const I386: u16 = 3;
const AARCH64: u16 = 183;

/// A whole static program for Linux: it writes [`WORDS`], and exits.
fn program(machine: u16) -> Vec<u8> {
    let length = u8::try_from(WORDS.len()).unwrap();
    let (is_64, base, code) = match machine {
        I386 => {
            let text = 0x0804_8000_u32 + 52 + 32 + 34;
            let mut code = vec![0xb8, 4, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0xb9];
            code.extend(text.to_le_bytes());
            code.extend([0xba, length, 0, 0, 0, 0xcd, 0x80]);
            code.extend([0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80]);
            (false, 0x0804_8000, code)
        }
        _ => {
            // mov x0, #2; adr x1, WORDS; mov x2, #length; mov x8, #64; svc #0
            // mov x0, #7; mov x8, #93; svc #0
            let write = [0xd280_0040, 0x1000_00e1, 0xd280_0002 | u32::from(length) << 5, 0xd280_0808, 0xd400_0001];
            let exit = [0xd280_00e0, 0xd280_0ba8, 0xd400_0001];
            (true, 0x40_0000, write.into_iter().chain(exit).flat_map(u32::to_le_bytes).collect())
        }
    };
    elf(machine, is_64, base, &[code, WORDS.to_vec()].concat(), 1)
}

/// A program for i386 that names a loader which does not exist.
fn with_a_loader() -> Vec<u8> {
    elf(I386, false, 0, b"/no/such/ld-linux.so.2\0", 3)
}

/// An ELF file with one program header of this type, for what follows it.
fn elf(machine: u16, is_64: bool, base: u64, content: &[u8], kind: u32) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    elf.resize(16, 0);
    let (header, entry) = if is_64 { (64_u16, 56_u16) } else { (52, 32) };
    let word = |elf: &mut Vec<u8>, value: u64| match is_64 {
        true => elf.extend(value.to_le_bytes()),
        false => elf.extend(u32::try_from(value).unwrap().to_le_bytes()),
    };
    let at = u64::from(header + entry);
    elf.extend([2_u16, machine].map(u16::to_le_bytes).concat());
    elf.extend(1_u32.to_le_bytes());
    [base + at, header.into(), 0].into_iter().for_each(|value| word(&mut elf, value));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([header, entry, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // A program is loaded with its headers; a loader's name is read alone.
    let is_loaded = kind == 1;
    let offset = if is_loaded { 0 } else { at };
    let size = if is_loaded { at } else { 0 } + u64::try_from(content.len()).unwrap();
    elf.extend(kind.to_le_bytes());
    if is_64 {
        elf.extend(5_u32.to_le_bytes());
    }
    [offset, base + offset, base + offset, size, size].into_iter().for_each(|value| word(&mut elf, value));
    if !is_64 {
        elf.extend(5_u32.to_le_bytes());
    }
    word(&mut elf, 0x1000);
    elf.extend(content);
    elf
}

/// A plugin with this program.
fn plugin(bench: &Bench, program: &[u8]) -> PathBuf {
    let name = bench.unique("foreign");
    let folder = bench.plugin(&name, r#"{"language":"go","executable":"run","functions":["f"]}"#);
    write_program(&folder.join("run"), program);
    folder
}

fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: a program for another processor: {reason}");
}

/// Whether this kernel runs the program itself.
fn runs(program: &Path) -> bool {
    Command::new(program).stderr(Stdio::null()).status().is_ok()
}

#[test]
fn a_program_that_the_kernel_runs_itself_is_started() {
    let bench = Bench::new();
    let plugin = plugin(&bench, &program(I386));
    let said = bench.fails(1, &["call", plugin.to_str().unwrap(), "f"]);
    let run = plugin.join("run");
    if !runs(&run) {
        skip("this kernel runs none of i386 (CONFIG_IA32_EMULATION)");
        assert!(said.contains("is built for x86, this machine is x86_64: build it for this one"), "{said}");
        return;
    }
    assert!(said.contains("exit code 7") && said.ends_with("this is another processor"), "{said}");
    // Of the checked file, too.
    let options = options(&bench, &plugin);
    let said = bench.fails(1, &["call", plugin.to_str().unwrap(), "f", "--plugin-options", options.to_str().unwrap()]);
    assert!(said.contains("exit code 7") && said.ends_with("this is another processor"), "{said}");
    let ran = bench.run(&["check", plugin.to_str().unwrap()]);
    assert!(ran.stdout.contains("this is another processor"), "it was not started: {ran:?}");
}

#[test]
fn a_loader_of_another_processor_is_named_with_it() {
    let bench = Bench::new();
    let plugin = plugin(&bench, &with_a_loader());
    let whole = bench.path().join("whole");
    write_program(&whole, &program(I386));
    if !runs(&whole) {
        return skip("this kernel runs none of i386 (CONFIG_IA32_EMULATION)");
    }
    let said = bench.fails(1, &["call", plugin.to_str().unwrap(), "f"]);
    let wanted =
        "is built for x86 and needs the loader /no/such/ld-linux.so.2, which does not exist: link it statically";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn only_what_the_kernel_refuses_is_explained_by_its_processor() {
    let bench = Bench::new();
    let plugin = plugin(&bench, &program(AARCH64));
    if runs(&plugin.join("run")) {
        return skip("this machine runs those of aarch64, so it refuses none");
    }
    let said = bench.fails(1, &["call", plugin.to_str().unwrap(), "f"]);
    let wanted = "is built for aarch64, this machine is x86_64: build it for this one, or have the kernel run such";
    assert!(said.contains(wanted), "{said}");
    let checked = check(&bench, &plugin, &[]);
    checked.is_good();
    checked.has("note", "start", "was not started: it is built for arm64, and this machine is amd64");
}

/// The options of a plugin whose program is checked before it is executed.
fn options(bench: &Bench, plugin: &Path) -> PathBuf {
    let summed = Command::new("sha256sum").arg(plugin.join("run")).output().unwrap();
    let sum = String::from_utf8(summed.stdout[..64].to_vec()).unwrap();
    let name = plugin.file_name().unwrap().to_str().unwrap();
    let path = bench.path().join("options.toml");
    std::fs::write(&path, format!("[{name}]\nsha256 = '{sum}'\n")).unwrap();
    path
}

/// Registers qemu with the kernel in a namespace of its own, as Debian's
/// packages do for the machine, and then runs the rest of the arguments.
const EMULATED: &str = r#"set -e
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf %s ":qemu-aarch64:M::$magic:$mask:$emulator:F" >/proc/sys/fs/binfmt_misc/register
exec "$@"
"#;

/// Runs a command where the kernel runs programs of aarch64 in qemu; `None`
/// where that cannot be had.
fn emulated(bench: &Bench, arguments: &[&str]) -> Option<Ran> {
    let namespace = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", EMULATED, "sh"]);
        unshare
    };
    let able = namespace().arg("true").stderr(Stdio::piped()).output().unwrap();
    if !able.status.success() {
        let said = String::from_utf8_lossy(&able.stderr);
        let said = said.lines().next_back().unwrap_or("there is no qemu-aarch64: the Debian package qemu-user-static");
        skip(&format!("no emulator can be registered in a namespace of this test's own (Linux 6.7): {said}"));
        return None;
    }
    let mut command = namespace();
    command.arg(env!("CARGO_BIN_EXE_ekuiper-plugin")).args(arguments).env("TMPDIR", bench.path().join("tmp"));
    Some(finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
}

#[test]
fn a_program_that_the_kernel_runs_in_an_emulator_is_started() {
    let bench = Bench::new();
    let plugin = plugin(&bench, &program(AARCH64));
    let folder = plugin.to_str().unwrap();
    let options = options(&bench, &plugin);
    // The checked file has no path that the emulator could open.
    let checked = ["--plugin-options", options.to_str().unwrap()];
    for more in [&[][..], &checked] {
        let Some(ran) = emulated(&bench, &[&["call", folder, "f"], more].concat()) else { return };
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("exit code 7"), "{ran:?}");
        assert!(ran.stderr.trim_end().ends_with("this is another processor"), "{ran:?}");
        bench.assert_nothing_is_left();
    }
    let Some(ran) = emulated(&bench, &["check", folder]) else { return };
    assert!(ran.stdout.contains("this is another processor"), "it was not started: {ran:?}");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    bench.assert_nothing_is_left();
}
