//! `check`: what is wrong with a plugin before it is shipped. The files here;
//! `check_trial` has what is found when the plugin is started.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::checked::{Checked, check};
use support::raw_zip::{self, Entry};
use support::{Bench, example};

/// A manifest of a native plugin with the function `f`.
const MANIFEST: &[u8] = br#"{"version":"v1","language":"go","executable":"run","functions":["f"]}"#;

/// A script that is never started.
const SCRIPT: &[u8] = b"#!/bin/sh\nexit 3\n";

fn program<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { mode: 0o100_755, ..Entry::file(name, content) }
}

fn folder(name: &str) -> Entry<'_> {
    Entry { mode: 0o040_755, ..Entry::file(name, b"") }
}

/// Checks a zip of these entries, without starting anything. Nothing is left.
fn of_zip(entries: &[Entry<'_>]) -> Checked {
    let bench = Bench::new();
    let path = bench.path().join("given.zip");
    raw_zip::write(&path, entries);
    check(&bench, &path, &["--no-start"])
}

/// Checks a zip with this manifest and a script.
fn of_manifest(manifest: Value) -> Checked {
    of_zip(&[Entry::file("p.json", manifest.to_string().as_bytes()), program("run", SCRIPT)])
}

/// Checks a zip with this program.
fn of_program(content: &[u8]) -> Checked {
    of_zip(&[Entry::file("p.json", MANIFEST), program("run", content)])
}

/// Checks a zip of a plugin with a source, a sink and a function, and these
/// files of theirs.
fn of_files(files: &[(&str, &str)]) -> Checked {
    let manifest =
        br#"{"version":"v1","language":"go","executable":"run","sources":["s"],"sinks":["k"],"functions":["f"]}"#;
    let mut entries = vec![Entry::file("p.json", manifest), program("run", SCRIPT)];
    entries.extend(["sources/", "sinks/", "functions/"].map(folder));
    entries.extend(files.iter().map(|(name, content)| Entry::file(name, content.as_bytes())));
    of_zip(&entries)
}

#[test]
fn a_zip_that_cannot_be_unpacked_safely_is_one_error() {
    let link = Entry { mode: 0o120_777, ..Entry::file("lib.so", b"/etc/passwd") };
    let pipe = Entry { mode: 0o010_644, ..Entry::file("pipe", b"") };
    let cases = [
        (Entry::file("../x", b""), "entry ../x leads out of the plugin's folder"),
        (Entry::file("lib/../../x", b""), "leads out of the plugin's folder"),
        (Entry::file("/etc/x", b""), "entry /etc/x is an absolute path"),
        (Entry::file("lib\\x", b""), "has a backslash in its name"),
        (Entry::file("a\u{1b}[2Jb", b""), "has a control character in its name"),
        (link, "entry lib.so is a symbolic link: put the file itself into the zip"),
        (pipe, "is a device, a pipe or a socket"),
        (Entry::file("run", b""), "lists an entry twice"),
        (Entry::file("q.json", b"{}"), "2 files that may be the manifest: p.json, q.json"),
    ];
    for (bad, wanted) in cases {
        let checked = of_zip(&[Entry::file("p.json", MANIFEST), program("run", SCRIPT), bad]);
        checked.only("error", "archive", wanted);
    }
    of_zip(&[]).only("error", "archive", "has no manifest: NAME.json must be at its root");
    let nested = of_zip(&[Entry::file("p/p.json", MANIFEST), program("p/run", SCRIPT)]);
    nested.only("error", "archive", "zip the folder's content instead of the folder");
}

#[test]
fn what_is_no_zip_is_one_error() {
    let whole = Bench::new().path().with_extension("zip");
    raw_zip::write(&whole, &[Entry::file("p.json", MANIFEST), program("run", SCRIPT)]);
    let bytes = fs::read(&whole).unwrap();
    fs::remove_file(&whole).unwrap();
    for content in [&b"hello"[..], b"", b"PK\x03\x04", &bytes[..bytes.len() / 2], &bytes[..bytes.len() - 1]] {
        let bench = Bench::new();
        let path = bench.path().join("none.zip");
        fs::write(&path, content).unwrap();
        check(&bench, &path, &[]).only("error", "archive", "none.zip is not a zip, or it is damaged");
    }
    let mut damaged = bytes;
    let place = damaged.windows(SCRIPT.len()).position(|bytes| bytes == SCRIPT).unwrap();
    damaged[place] ^= 1;
    let bench = Bench::new();
    let path = bench.path().join("damaged.zip");
    fs::write(&path, damaged).unwrap();
    check(&bench, &path, &[]).only("error", "archive", "entry run cannot be unpacked");
}

#[test]
fn a_bomb_of_3_gb_is_refused_before_it_is_unpacked_whether_it_says_so_or_not() {
    let zeros = raw_zip::zeros(3_000_000_000);
    assert!(zeros.len() < 20_000_000);
    let bomb = |announced| Entry { method: 8, announced, ..Entry::file("lib", &zeros) };
    let checked = of_zip(&[Entry::file("p.json", MANIFEST), program("run", SCRIPT), bomb(3_000_000_000)]);
    checked.only("error", "archive", "is larger than 2048 MiB, unpacked, which is the limit");
    let checked = of_zip(&[Entry::file("p.json", MANIFEST), program("run", SCRIPT), bomb(1000)]);
    checked.only("error", "archive", "File is larger than its declared uncompressed size");
}

#[test]
fn what_only_ekuipers_unzipper_needs_is_an_error() {
    let deep = Entry::file("lib/deep/x", b"");
    let good = [Entry::file("p.json", MANIFEST), program("run", SCRIPT), folder("lib/"), folder("lib/deep/"), deep];
    of_zip(&good).is_good();
    let missing = [Entry::file("p.json", MANIFEST), program("run", SCRIPT), Entry::file("lib/deep/x", b"")];
    of_zip(&missing).only("error", "archive", "there is no entry for the folder lib before it");
    let late =
        [Entry::file("p.json", MANIFEST), program("run", SCRIPT), Entry::file("lib/deep/x", b""), folder("lib/")];
    of_zip(&late).only("error", "archive", "makes one folder level at a time");
    // One level is made.
    of_zip(&[Entry::file("p.json", MANIFEST), program("run", SCRIPT), Entry::file("lib/x", b"")]).is_good();
    of_zip(&[Entry::file("./p.json", MANIFEST), program("run", SCRIPT)]).only("error", "archive", "letter by letter");
    let plain = of_zip(&[Entry::file("p.json", MANIFEST), Entry::file("run", SCRIPT)]);
    plain.only(
        "error",
        "archive",
        "has the mode 644 in the zip: eKuiper gives the file this mode, and cannot execute it",
    );
    let closed = Entry { mode: 0o100_000, ..Entry::file("data", b"x") };
    let closed = of_zip(&[Entry::file("p.json", MANIFEST), program("run", SCRIPT), closed]);
    closed.only("warning", "archive", "may not be read by its owner");
}

#[test]
fn a_manifest_that_ekuiper_refuses_is_an_error() {
    let good = json!({ "version": "v1", "language": "go", "executable": "run", "functions": ["f"] });
    of_manifest(good.clone()).is_good();
    let with = |field: &str, value: Value| {
        let mut manifest = good.clone();
        manifest[field] = value;
        of_manifest(manifest)
    };
    for language in ["rust", "executable"] {
        let wanted = format!("is {language:?}, which eKuiper refuses: it accepts \"go\" and \"python\" only");
        with("language", language.into()).only("error", "manifest", &wanted);
    }
    with("language", "cobol".into()).only("error", "manifest", "unknown language \"cobol\"");
    with("name", "other".into()).only("error", "manifest", "but the file p.json is the manifest of \"p\"");
    with("Name", 5.into()).only("error", "manifest", "is 5, but the file p.json is the manifest of \"p\"");
    with("name", "p".into()).is_good();
    with("executable", "./run".into()).only("error", "manifest", "eKuiper looks for an entry of exactly this name");
    with("executable", "../run".into()).only("error", "manifest", "must be a path inside the plugin's folder");
    with("executable", "no".into()).only("error", "program", "does not exist");
    with("version", 1.into()).only("error", "manifest", "\"version\" must be a string; it is 1");
    with("functions", json!([])).only("error", "manifest", "it lists no source, sink or function");
    with("functions", json!(["f", "f"])).only("error", "manifest", "function \"f\" is listed twice");
    with("fucntions", json!([])).only_of("note", "manifest", "is a field that means nothing to eKuiper");
    with("soruces", json!([])).has("warning", "manifest", "did you mean \"sources\"?");
    of_zip(&[Entry::file("p.json", b"{"), program("run", SCRIPT)]).only(
        "error",
        "manifest",
        "the manifest is not valid",
    );
    let marked = [b"\xef\xbb\xbf", MANIFEST].concat();
    let marked = of_zip(&[Entry::file("p.json", &marked), program("run", SCRIPT)]);
    marked.only("error", "manifest", "begins with a byte order mark, which eKuiper does not read");
    let python = json!({ "version": "v1", "language": "python", "executable": "run", "functions": ["f"],
        "virtualEnvType": "venv" });
    of_manifest(python).only("error", "manifest", "is \"venv\", which eKuiper refuses");
}

#[test]
fn a_name_that_ekuiper_cannot_use_is_an_error() {
    let of = |kind: &str, name: &str| {
        let mut manifest = json!({ "version": "v1", "language": "go", "executable": "run" });
        manifest[kind] = json!([name]);
        of_manifest(manifest)
    };
    let long = "x".repeat(300);
    for (name, wanted) in [
        ("a b", "has a space in its name"),
        ("a/b", "has a slash in its name"),
        ("../b", "has a slash in its name"),
        ("\u{202e}b", "has an unprintable character in its name"),
        (long.as_str(), "has a name of 300 bytes, which is too long"),
        ("a\u{1b}[2J", "has a control character in its name"),
        ("", "name is empty"),
    ] {
        for kind in ["functions", "sinks"] {
            let checked = of(kind, name);
            checked.only("error", "manifest", wanted);
            assert!(!checked.stdout.contains(['\u{1b}', '\u{202e}']), "{checked:?}");
        }
    }
    of("functions", &long[..100]).only(
        "error",
        "manifest",
        "the path of its socket in /tmp is longer than the system allows",
    );
    of("functions", "a-b").only("warning", "manifest", "only between backquotes");
    of("functions", "Upper").only("error", "manifest", "eKuiper has a function of this name, which hides the plugin's");
    of("sinks", "mqtt").only("error", "manifest", "eKuiper has a sink of this name, which hides the plugin's");
    let long = format!("{}.json", "p".repeat(100));
    let checked = of_zip(&[Entry::file(&long, MANIFEST), program("run", SCRIPT)]);
    checked.only("error", "manifest", "the path of its socket in /tmp is longer than the system allows");
    of_zip(&[Entry::file("my plugin.json", MANIFEST), program("run", SCRIPT)]).only("error", "manifest", "has a space");
}

#[test]
fn files_that_ekuiper_cannot_read_are_errors() {
    let yaml = ("sources/s.yaml", "default:\n  a: 1\n");
    of_files(&[yaml]).is_good();
    of_files(&[]).only("error", "files", "is missing: eKuiper refuses a plugin without one for each source");
    for (content, wanted) in [
        ("", "is empty"),
        ("- a\n", "must be a mapping of configurations, and is a list"),
        ("default: 5\n", "must have a mapping of fields under \"default\", which is a single value"),
        ("other: {}\n", "has no configuration \"default\""),
        ("default: {\n", "is not YAML: line "),
        ("default:\n  a: 1\n  a: 2\n", "is not YAML: "),
    ] {
        of_files(&[("sources/s.yaml", content)]).only("error", "files", wanted);
    }
    let about = r#"{"about":{"trial":false},"libs":[],"properties":"#;
    of_files(&[yaml, ("sinks/k.json", &format!("{about}[]}}"))]).is_good();
    for (name, content, wanted) in [
        ("sinks/k.json", "{", "is not JSON: line 1: "),
        ("sinks/k.json", "", "is not JSON: "),
        ("sinks/k.json", "{}", "it needs an object \"about\""),
        ("sinks/k.json", &format!("{about}{{}}}}"), "\"properties\" must be a list of fields"),
        ("sources/s.json", &format!("{about}[]}}"), "must be an object of lists"),
        ("functions/f.json", "{\"functions\":[]}x", "is not JSON: "),
        ("functions/f.json", "{\"functions\":[{}]}", "must be an object with a name"),
        ("functions/internal.json", "{}", "replaces a file of eKuiper's own"),
        ("sources/mqtt.yaml", "default: {}", "replaces a file of eKuiper's own"),
    ] {
        of_files(&[yaml, (name, content)]).only("error", "files", wanted);
    }
    let other = format!("{about}[]}}");
    of_files(&[yaml, ("sinks/other.json", &other)]).only_of("note", "files", "describes no sink of the manifest");
}

/// A header of a native program, which has no content; with a loader if one is
/// named.
fn elf(machine: u16, is_64: bool, kind: u16, loader: &str) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    elf.resize(16, 0);
    elf.extend(kind.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    let header = if is_64 { 64u64 } else { 52 };
    let size = if is_64 { 56u64 } else { 32 };
    let word = |elf: &mut Vec<u8>, value: u64| match is_64 {
        true => elf.extend(value.to_le_bytes()),
        false => elf.extend((value as u32).to_le_bytes()),
    };
    let has_loader = u16::from(!loader.is_empty());
    word(&mut elf, 0x1000);
    word(&mut elf, header);
    word(&mut elf, 0);
    elf.extend(0u32.to_le_bytes());
    for value in [header as u16, size as u16, has_loader, 0, 0, 0] {
        elf.extend(value.to_le_bytes());
    }
    if has_loader == 1 {
        let (at, length) = (header + size, loader.len() as u64 + 1);
        elf.extend(3u32.to_le_bytes());
        if is_64 {
            elf.extend(4u32.to_le_bytes());
        }
        for value in [at, at, at, length, length] {
            word(&mut elf, value);
        }
        if !is_64 {
            elf.extend(4u32.to_le_bytes());
        }
        word(&mut elf, 1);
        elf.extend(loader.as_bytes());
        elf.push(0);
    }
    elf
}

#[test]
fn a_program_runs_in_the_images_of_its_processor_and_library() {
    const EXECUTABLE: u16 = 2;
    let (amd64, arm64, arm, riscv) = (62, 183, 40, 243);
    let all = |processor: &str| -> Vec<String> {
        ["alpine", "slim", "slim-python", "alpine-python"].map(|image| format!("{image} linux/{processor}")).to_vec()
    };
    for (machine, is_64, processor) in [(amd64, true, "amd64"), (arm64, true, "arm64"), (arm, false, "arm/v7")] {
        let checked = of_program(&elf(machine, is_64, EXECUTABLE, ""));
        assert_eq!(checked.summary["images"], json!(all(processor)), "{checked:?}");
        assert_eq!(checked.problems(), 0, "{checked:?}");
    }
    let checked = of_program(&elf(arm64, true, EXECUTABLE, "/lib/ld-musl-aarch64.so.1"));
    assert_eq!(checked.summary["images"], json!(["alpine linux/arm64", "alpine-python linux/arm64"]));
    let checked = of_program(&elf(arm, false, EXECUTABLE, "/lib/ld-linux-armhf.so.3"));
    assert_eq!(checked.summary["images"], json!(["slim linux/arm/v7", "slim-python linux/arm/v7"]));
    checked.only_of("warning", "images", "does not start in eKuiper's default image, alpine: it needs glibc");
    let checked = of_program(&elf(riscv, true, EXECUTABLE, ""));
    assert_eq!(checked.summary["images"], json!([]));
    checked.only_of("warning", "images", "runs in none of eKuiper's images: it is built for riscv64");
}

#[test]
fn what_is_no_program_is_an_error() {
    for (content, wanted) in [
        (&b""[..], "is empty"),
        (b"hello", "is neither a program for Linux nor a script that begins with #!"),
        (b"MZ\x90\0", "is a program for Windows, and eKuiper runs on Linux"),
        (b"\xcf\xfa\xed\xfe\x07\0\0\x01", "is a program for macOS"),
        (b"\x7fELF", "is a damaged program: "),
        (b"#!/bin/sh\r\n", "a #! line that ends with a carriage return"),
        (b"#!\n", "names no interpreter"),
        (&elf(62, true, 1, ""), "is an object file, not a program"),
        (&elf(62, true, 3, ""), "is a shared library, not a program"),
    ] {
        of_program(content).only("error", "program", wanted);
    }
    let python = json!({ "version": "v1", "language": "python", "executable": "run", "functions": ["f"] });
    let checked =
        of_zip(&[Entry::file("p.json", python.to_string().as_bytes()), program("run", &elf(62, true, 2, ""))]);
    checked.only("error", "program", "is a native program, and the manifest says \"language\": \"python\"");
    of_program(b"#!/usr/bin/env node\n").only("warning", "images", "which none of eKuiper's images has");
    let bash = of_program(b"#!/bin/bash\n");
    assert_eq!(bash.summary["images"], json!(["slim", "slim-python"]));
}

#[test]
fn an_install_script_is_checked_and_run_only_when_that_is_asked_for() {
    let of = |script: &str, arguments: &[&str]| {
        let bench = Bench::new();
        let path = bench.path().join("given.zip");
        let script = script.replace("MARK", bench.path().join("mark").to_str().unwrap());
        let install = Entry::file("install.sh", script.as_bytes());
        raw_zip::write(&path, &[Entry::file("p.json", MANIFEST), program("run", SCRIPT), install]);
        let checked = check(&bench, &path, &[&["--no-start"], arguments].concat());
        (checked, bench.path().join("mark").exists())
    };
    let good = "#!/bin/sh\nset -e\ntouch MARK\n[ -f run ]\necho done\n";
    let (checked, is_run) = of(good, &[]);
    checked.is_good();
    assert!(!is_run);
    let (checked, is_run) = of(good, &["--install"]);
    checked.is_good();
    assert!(is_run);
    let (checked, _) = of("echo one; echo two >&2; exit 7\n", &["--install"]);
    checked.only("error", "install", "has failed (exit status: 7) and wrote:\none\ntwo");
    of("if true; then\n", &[]).0.only("error", "install", "is no shell script that /bin/sh understands: ");
    of("# [[ a comment ]]\nif [[ -f x ]]; then :; fi\n", &[]).0.only("warning", "install", "line 2 has \"[[\"");
    of("pip install 'x==1.0'\n", &[]).0.is_good();
    of("echo a\r\n", &[]).0.has("warning", "install", "has carriage returns at the ends of lines");
}

#[test]
fn an_install_script_changes_nothing_in_the_author_s_folder() {
    let bench = Bench::new();
    let plugin = bench.script("exit 3");
    fs::write(plugin.join("install.sh"), "echo new > made-by-install\n").unwrap();
    let checked = check(&bench, &plugin, &["--no-start", "--install"]);
    assert_eq!(checked.summary["facts"]["install"], "install.sh has succeeded", "{checked:?}");
    assert!(!plugin.join("made-by-install").exists());
}

#[test]
fn what_is_no_plain_file_is_not_opened() {
    let manifest = |language: &str| json!({ "version": "v1", "language": language, "executable": "run", "sources": ["s"], "functions": ["f"] });
    for (language, area, name) in [
        ("go", "program", "run"),
        ("python", "program", "run"),
        ("go", "install", "install.sh"),
        ("go", "files", "functions/f.json"),
        ("go", "files", "sources/s.yaml"),
    ] {
        let bench = Bench::new();
        let folder = bench.plugin("p", &manifest(language).to_string());
        support::write_program(&folder.join("run"), SCRIPT);
        fs::create_dir(folder.join("sources")).unwrap();
        fs::create_dir(folder.join("functions")).unwrap();
        fs::write(folder.join("sources/s.yaml"), "default: {}").unwrap();
        let _ = fs::remove_file(folder.join(name));
        // A pipe without a writer hangs who opens it.
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, folder.join(name), kind, rustix::fs::Mode::RWXU, 0).unwrap();
        check(&bench, &folder, &["--no-start"]).only("error", area, "is no plain file");
    }
}

/// A zip of `examples/mirror`, as `package` writes it.
fn mirror(bench: &Bench) -> PathBuf {
    let zip = bench.path().join("mirror.zip");
    let ran = bench.run(&["package", &example("mirror"), "--target", "native", "-o", zip.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    zip
}

#[test]
fn a_rust_plugin_is_good_as_a_folder_and_as_a_zip() {
    let bench = Bench::new();
    let configs =
        ["--config", r#"file={"path":"/dev/null"}"#, "--config", r#"lines={"path":"/dev/null"}"#, "--no-build"];
    let zip = mirror(&bench);
    for path in [Path::new(&example("mirror")), &zip] {
        let checked = check(&bench, path, &configs);
        let is_native = |finding: &&Value| finding["area"] != "images";
        let found: Vec<_> = checked.findings.iter().filter(is_native).map(|finding| &finding["subject"]).collect();
        // Which is for another engine's users.
        assert_eq!(found, ["sink file"], "{checked:?}");
        assert_eq!(checked.code, Some(0));
        let tried = "4 of 4 functions, 1 of 1 source, 2 of 2 sinks tried and found good";
        assert_eq!(checked.summary["facts"]["symbols"], tried, "{checked:?}");
    }
    // Without a configuration the sinks are not tried, which is said.
    let checked = check(&bench, &zip, &[]);
    checked.has("note", "symbols", "was not tried: its configuration needs \"path\"");
}

#[test]
fn a_report_for_people_says_what_to_do() {
    let bench = Bench::new();
    let path = bench.path().join("given.zip");
    let manifest = br#"{"version":"v1","language":"rust","executable":"run","functions":["a b"]}"#;
    raw_zip::write(&path, &[Entry::file("p.json", manifest), program("run", SCRIPT)]);
    let ran = bench.run(&["check", path.to_str().unwrap(), "--no-start"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stdout.starts_with(&format!("p v1: {}\n\n  archive   2 entries", path.display())), "{ran:?}");
    let wanted = "error: manifest: language: is \"rust\", which eKuiper refuses: it accepts \"go\" and \"python\" only\n    \
                  → write \"language\": \"go\", which stands for any native program\n";
    assert!(ran.stdout.contains(wanted), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("\n\nfailed: 2 errors, 0 warnings, 0 notes\n"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'));
    bench.assert_nothing_is_left();
}

#[test]
fn what_keeps_the_command_from_working_is_no_finding() {
    let bench = Bench::new();
    let none = bench.path().join("none");
    let sentence = bench.fails(1, &["check", none.to_str().unwrap()]);
    assert!(sentence.contains("cannot read the folder"), "{sentence}");
    let sentence = bench.fails(2, &["check", "x", "--config", "no"]);
    assert!(sentence.contains("--config takes a symbol and its configuration"), "{sentence}");
    let sentence = bench.fails(2, &["check", "x", "--config", "no=5"]);
    assert!(sentence.contains("must be a JSON object"), "{sentence}");
    let empty = bench.path().join("empty");
    fs::create_dir(&empty).unwrap();
    check(&bench, &empty, &[]).only("error", "manifest", "needs a file empty.json");
}
