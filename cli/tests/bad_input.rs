//! Bad input: the command reports every problem in one sentence, in bounded
//! time, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use support::{Bench, example, finish, liar, write_program};

/// Returns the arguments of a call of a plugin's function `f`.
fn call<'a>(plugin: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["call", plugin.to_str().unwrap(), "f", "1"];
    arguments.extend(more);
    arguments
}

#[test]
fn no_manifest() {
    let bench = Bench::new();
    let folder = bench.path().join("empty");
    std::fs::create_dir(&folder).unwrap();
    let error = bench.fails(1, &call(&folder, &[]));
    let said = "has no manifest: a plugin named empty needs a file empty.json there, which `ekuiper-plugin package` writes \
                for one that describes itself";
    assert!(error.ends_with(said), "{error}");
    let error = bench.fails(1, &call(&bench.path().join("none"), &[]));
    assert!(error.contains("cannot read the folder") && error.contains("No such file"), "{error}");
}

#[test]
fn a_manifest_that_is_not_json() {
    let bench = Bench::new();
    let error = bench.fails(1, &call(&bench.plugin("broken", "{\n  \"language\": go\n}"), &[]));
    assert!(error.contains("broken.json: the manifest is not valid") && error.contains("line 2 column 15"), "{error}");
}

#[test]
fn an_unknown_language() {
    let bench = Bench::new();
    let manifest = r#"{"language":"cobol","executable":"run","functions":["f"]}"#;
    let error = bench.fails(1, &call(&bench.plugin("old", manifest), &[]));
    assert!(error.contains(r#"unknown language "cobol": use "go""#), "{error}");
}

#[test]
fn an_executable_that_cannot_run() {
    let bench = Bench::new();
    let dud = bench.unique("dud");
    let folder = bench.plugin(&dud, r#"{"language":"go","executable":"run","functions":["f"]}"#);
    let run = folder.join("run");
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(
        error.starts_with(&format!("plugin {dud}: ")) && error.contains("does not exist: build the plugin"),
        "{error}"
    );

    std::fs::write(&run, "#!/bin/sh\n").unwrap();
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(error.contains("is not executable: chmod +x"), "{error}");
}

/// The operating system's error for these names no file, and often the wrong
/// one.
#[test]
fn a_program_whose_loader_or_interpreter_is_missing() {
    let bench = Bench::new();
    let dud = bench.unique("dud");
    let folder = bench.plugin(&dud, r#"{"language":"go","executable":"run","functions":["f"]}"#);
    let run = folder.join("run");
    let own = std::fs::read(env!("CARGO_BIN_EXE_ekuiper-plugin")).unwrap();
    let refused = |content: &[u8]| {
        write_program(&run, content);
        let error = bench.fails(1, &call(&folder, &[]));
        assert!(error.starts_with(&format!("plugin {dud}: ")) && !error.contains("os error"), "{error}");
        error
    };

    let loader = own.windows(4).position(|bytes| bytes == b"/lib").filter(|at| *at < 4096).unwrap();
    let length = own[loader..].iter().position(|byte| *byte == 0).unwrap();
    let mut musl = own.clone();
    let name = b"/lib/ld-musl-no.so.1";
    musl[loader..loader + length].fill(0);
    musl[loader..loader + name.len()].copy_from_slice(name);
    let error = refused(&musl);
    assert!(error.contains("needs the loader /lib/ld-musl-no.so.1, which does not exist"), "{error}");
    assert!(error.contains("was built for musl") && error.contains("link it statically"), "{error}");

    let mut glibc = musl;
    glibc[loader..loader + name.len()].copy_from_slice(b"/lib/ld-linux-no.so1");
    let error = refused(&glibc);
    assert!(error.contains("which does not exist: the program was built for glibc"), "{error}");

    let error = refused(b"#!/no/such/interpreter\n");
    assert!(error.contains("names the interpreter /no/such/interpreter, which does not exist"), "{error}");
    for script in [&b"#!/bin/sh\r\nexit 0\r\n"[..], b"#!/bin/sh -e\r\n", b"#!/usr/bin/env sh\r\nexit 0\r\n"] {
        let error = refused(script);
        assert!(error.contains("ends with a carriage return") && error.contains("sed -i"), "{error}");
    }
    let error = refused(b"#!/usr/bin/env no-such-snake\n");
    assert!(error.contains("names the interpreter no-such-snake, which is nowhere in PATH"), "{error}");
    // A script's interpreter may be a script whose own interpreter is missing.
    let middle = folder.join("middle");
    write_program(&middle, b"#!/no/such/interpreter\n");
    let error = refused(format!("#!{}\n", middle.display()).as_bytes());
    assert!(error.contains("middle, which has a #! line that names the interpreter /no/such"), "{error}");
    std::fs::set_permissions(&middle, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = refused(format!("#!{}\n", middle.display()).as_bytes());
    assert!(error.contains("middle, which is not executable: chmod +x"), "{error}");
}

#[test]
fn a_file_that_is_no_program() {
    let bench = Bench::new();
    let dud = bench.unique("dud");
    let folder = bench.plugin(&dud, r#"{"language":"go","executable":"run","functions":["f"]}"#);
    let run = folder.join("run");
    let mut foreign = std::fs::read(env!("CARGO_BIN_EXE_ekuiper-plugin")).unwrap();
    foreign[18..20].copy_from_slice(&22u16.to_le_bytes());
    let own = std::fs::read(env!("CARGO_BIN_EXE_ekuiper-plugin")).unwrap();
    let mut object = own[..4096].to_vec();
    object[16..18].copy_from_slice(&1u16.to_le_bytes());
    let long = format!("#!/bin/{}\n", "x".repeat(300));
    for (content, said) in [
        (&foreign[..], "is built for s390x, this machine is"),
        (&own[..10], "is not a complete program"),
        (&object, "is a part of a program"),
        (b"", "is empty: build the plugin again"),
        (b"echo hello\n", "is neither a program for Linux nor a script that begins with #!"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "has something before its #!"),
        (b"\n#!/bin/sh\n", "has something before its #!"),
        (b"#!\nexit 0\n", "names no interpreter"),
        (long.as_bytes(), "has a #! line of more than 255 bytes"),
        (b"MZ\x90\0", "is a program for Windows"),
        (b"\xcf\xfa\xed\xfe....", "is a program for macOS"),
        (b"PK\x03\x04....", "is a zip archive"),
    ] {
        write_program(&run, content);
        let error = bench.fails(1, &call(&folder, &[]));
        assert!(error.starts_with(&format!("plugin {dud}: ")) && error.contains(said), "{said}: {error}");
    }
    std::fs::remove_file(&run).unwrap();
    std::os::unix::fs::symlink("/no/such/program", &run).unwrap();
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(error.contains("is a symbolic link to /no/such/program, which does not exist"), "{error}");
    std::fs::remove_file(&run).unwrap();
    std::fs::create_dir(&run).unwrap();
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(error.contains("is a folder, not a program"), "{error}");
}

/// As a user other than root, who may enter every folder.
#[test]
fn a_program_that_this_user_may_not_reach() {
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let bench = Bench::new();
    let dud = bench.unique("dud");
    let folder = bench.plugin(&dud, r#"{"language":"go","executable":"bin/run","functions":["f"]}"#);
    let (tmp, bin) = (bench.path().join("tmp"), folder.join("bin"));
    std::fs::create_dir(&bin).unwrap();
    write_program(&bin.join("run"), b"#!/bin/sh\nexit 0\n");
    let own = bench.path().join("command");
    std::fs::copy(env!("CARGO_BIN_EXE_ekuiper-plugin"), &own).unwrap();
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    allow(&tmp, 0o777);
    allow(bench.path(), 0o755);
    let refused = || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&own).args(call(&folder, &[]));
        command.env("TMPDIR", &tmp).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ran = finish(command.spawn().unwrap());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        ran.stderr
    };
    allow(&bin.join("run"), 0o744);
    let error = refused();
    assert!(error.contains("may not be executed by this process's user 65534: it belongs to user 0"), "{error}");
    allow(&bin, 0o700);
    let error = refused();
    assert!(error.contains(&format!("the folder {} cannot be entered by", bin.display())), "{error}");
}

#[test]
fn a_program_on_a_file_system_without_execution() {
    let bench = Bench::new();
    let folder = bench.plugin("dud", r#"{"language":"go","executable":"run","functions":["f"]}"#);
    let mount = "mount -t tmpfs -o noexec tmpfs \"$0\" && cp /bin/true \"$0/run\"";
    let mounted = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        let own = env!("CARGO_BIN_EXE_ekuiper-plugin");
        command.args(["-m", "sh", "-c", script]).args([&folder, &folder.join("dud.json")]).arg(own);
        command
            .env("TMPDIR", bench.path().join("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(command.spawn().unwrap())
    };
    if mounted(mount).code != Some(0) {
        eprintln!("SKIPPED: this user can mount nothing");
        return;
    }
    let ran = mounted(&format!(
        "json=$(cat \"$1\") && {mount} && echo \"$json\" >\"$0/dud.json\" && exec \"$2\" call \"$0\" f 1"
    ));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("run lies on a file system that is mounted noexec"), "{ran:?}");
}

/// In a folder where every user may create files, and remove only their own.
#[test]
fn a_stale_socket_of_another_user() {
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let bench = Bench::new();
    let folder = bench.plugin("dud", r#"{"language":"go","executable":"run","functions":["f"]}"#);
    write_program(&folder.join("run"), b"#!/bin/sh\nexit 0\n");
    let (own, sockets) = (bench.path().join("command"), bench.path().join("sockets"));
    std::fs::copy(env!("CARGO_BIN_EXE_ekuiper-plugin"), &own).unwrap();
    std::fs::create_dir(&sockets).unwrap();
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    allow(bench.path(), 0o755);
    allow(&sockets, 0o1777);
    let socket = sockets.join("plugin_dud.ipc");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    for mode in [0o600, 0o777] {
        allow(&socket, mode);
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&own);
        command.args(call(&folder, &["--ipc-dir", sockets.to_str().unwrap()]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ran = finish(command.spawn().unwrap());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let said = "the socket belongs to user 0, and this process's user is 65534; who may is to remove";
        assert!(ran.stderr.contains(said) && ran.stderr.contains(socket.to_str().unwrap()), "{ran:?}");
        assert!(socket.exists());
    }
}

#[test]
fn a_python_that_is_no_interpreter() {
    let bench = Bench::new();
    let snake = bench.unique("snake");
    let folder = bench.plugin(&snake, r#"{"language":"python","executable":"snake.py","functions":["f"]}"#);
    std::fs::write(folder.join("snake.py"), "").unwrap();
    let file = bench.path().join("python");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let place = bench.path().to_str().unwrap();
    for (python, said) in
        [(place, "is a folder, not a program"), (file.to_str().unwrap(), "is not executable: chmod +x")]
    {
        let error = bench.fails(1, &call(&folder, &["--python-bin", python]));
        assert!(error.starts_with(&format!("plugin {snake}: {python} {said}")), "{error}");
        assert!(error.ends_with("or name the interpreter with python_bin (--python-bin)"), "{error}");
    }
    // By its name, the file is skipped, as in a shell, but mentioned in the
    // error.
    let mut command = bench.command(&call(&folder, &["--python-bin", "python"]));
    let ran = finish(command.env("PATH", place).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert!(ran.stderr.contains(&format!("{} is not executable", file.display())), "{ran:?}");
    let text = bench.path().join("notes");
    std::fs::write(&text, "").unwrap();
    for (python, said) in [
        (
            text.to_str().unwrap(),
            "notes is not executable, and neither a program nor a script that begins with #!: install",
        ),
        (".", "is a folder, not a program: install"),
        (" ", ": \" \" was not found: python_bin (--python-bin) must name a Python"),
        (
            "python3 -u",
            "\"python3 -u\" was not found: python_bin (--python-bin) takes a program's name or path, without",
        ),
        ("/bin/sh", "it was run by /bin/sh, which has to be a Python interpreter (--python-bin)"),
        ("/bin/true", "it was run by /bin/true, which has to be a Python interpreter (--python-bin)"),
    ] {
        let error = bench.fails(1, &call(&folder, &["--python-bin", python]));
        assert!(error.contains(said), "{error}");
    }
    let ran = bench.run(&call(&folder, &["--python-bin", ""]));
    assert!(ran.code == Some(2) && ran.stderr.contains("value is required for '--python-bin"), "{ran:?}");
    std::fs::remove_file(folder.join("snake.py")).unwrap();
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(error.contains("snake.py does not exist: build the plugin, or correct \"executable\""), "{error}");
}

/// The script defines its symbols, and ends without serving them.
#[test]
fn a_python_script_that_starts_nothing() {
    let bench = Bench::new();
    let folder =
        bench.plugin(&bench.unique("snake"), r#"{"language":"python","executable":"snake.py","functions":["f"]}"#);
    let script = folder.join("snake.py");
    for (text, said) in [
        ("", "(exit code 0), it wrote nothing: SCRIPT must call plugin.start(…), or its Plugin's run(), at its end"),
        (
            "print('hi')",
            "(exit code 0): SCRIPT must call plugin.start(…), or its Plugin's run(), at its end; it last wrote:\n  hi",
        ),
        ("import sys\nif 0: plugin.start(c)\nprint('no broker')", "(exit code 0), it last wrote:\n  no broker"),
        ("import sys\nsys.exit(3)", "(exit code 3), it wrote nothing"),
    ] {
        std::fs::write(&script, text).unwrap();
        let error = bench.fails(1, &call(&folder, &[]));
        assert!(error.ends_with(&said.replace("SCRIPT", script.to_str().unwrap())), "{error}");
    }
}

/// The plugin's output is shown, and neither floods nor controls a terminal.
#[test]
fn a_plugin_that_writes_much_and_oddly_before_it_fails() {
    let bench = Bench::new();
    let error =
        bench.fails(1, &call(&bench.script("printf 'a\\033[2Jb\\rc\\n'; head -c 3000000 /dev/zero; exit 5"), &[]));
    assert!(error.contains("it last wrote:\n  a\\u{1b}[2Jb\\rc\n"), "{error}");
    assert!(error.len() < 2000 && error.ends_with('…'), "{}", error.len());
}

#[test]
fn links_that_lead_back_to_themselves() {
    let bench = Bench::new();
    let folder = bench.plugin("dud", r#"{"language":"go","executable":"run","functions":["f"]}"#);
    std::os::unix::fs::symlink("run", folder.join("run")).unwrap();
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(
        error.contains("run is a symbolic link that leads back to itself, or through too many others: build"),
        "{error}"
    );
}

#[test]
fn a_misspelt_field_of_a_manifest() {
    let bench = Bench::new();
    let folder = bench.plugin("dud", r#"{"language":"go","executable":"run","functions":["f"],"soruces":["s"]}"#);
    let ran = bench.run(&call(&folder, &[]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(r#"dud.json: unknown field "soruces": did you mean "sources"?"#), "{ran:?}");
    assert!(ran.stderr.contains("does not exist: build the plugin"), "{ran:?}");
}

/// The file has no end, and is not read to it.
#[test]
fn a_pipeline_that_is_no_file_of_a_users() {
    let bench = Bench::new();
    let error = bench.fails(1, &["run", "/dev/zero"]);
    assert!(error.starts_with("/dev/zero: it is larger than a pipeline may be (16 MiB)"), "{error}");
}

/// Nonsensical numbers are usage errors, before anything is started.
#[test]
fn numbers_of_options_that_make_no_sense() {
    let bench = Bench::new();
    let mut wrong: Vec<Vec<&str>> = Vec::new();
    for seconds in ["nan", "inf", "1e30", "0", "-1"] {
        wrong.push(vec!["bench", "--seconds", seconds]);
    }
    for option in ["--init-timeout", "--send-timeout", "--recv-timeout", "--timeout", "--count", "--max-errors"] {
        for number in ["-1", "nan", "1e3", "", "99999999999999999999"] {
            wrong.push(vec!["source", "/no", "s", option, number]);
        }
        if option != "--max-errors" {
            wrong.push(vec!["source", "/no", "s", option, "0"]);
        }
    }
    wrong.extend(["0", "-1", "1e9"].map(|number| vec!["call", "/no", "f", "--repeat", number]));
    wrong.extend(["0", "-1", "65536"].map(|number| vec!["bench", "--rounds", number]));
    wrong.push(vec!["bench", "--only", "callz"]);
    wrong.push(vec!["bench", "--peer", "pigeon"]);
    for arguments in wrong {
        let ran = bench.run(&arguments);
        assert!(ran.code == Some(2) && ran.stdout.is_empty(), "{arguments:?}: {ran:?}");
        let said = ran
            .stderr
            .lines()
            .find(|line| line.starts_with("error: invalid value") || line.contains("there is no peer"));
        assert!(said.is_some(), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn no_conda_for_a_plugin_that_asks_for_it() {
    let bench = Bench::new();
    let manifest =
        r#"{"language":"python","executable":"snake.py","virtualEnvType":"conda","env":"e","functions":["f"]}"#;
    let folder = bench.plugin("snake", manifest);
    std::fs::write(folder.join("snake.py"), "").unwrap();
    let mut command = bench.command(&call(&folder, &[]));
    let ran = finish(command.env("PATH", "/no").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.starts_with("ekuiper-plugin: plugin snake: conda was not found"), "{ran:?}");
}

#[test]
fn a_python_that_does_not_exist() {
    let bench = Bench::new();
    let folder = bench.plugin("snake", r#"{"language":"python","executable":"snake.py","functions":["f"]}"#);
    std::fs::write(folder.join("snake.py"), "").unwrap();
    let error = bench.fails(1, &call(&folder, &["--python-bin", "/no/python"]));
    assert_eq!(
        error,
        "plugin snake: /no/python does not exist: install Python 3, or name the interpreter with python_bin (--python-bin)"
    );
}

#[test]
fn fault_09_a_plugin_that_exits_at_once() {
    let bench = Bench::new();
    let folder = bench.script("echo preparing; echo 'no licence' >&2; exit 3");
    // The default init timeout is a minute, which the test must not wait for.
    let error = bench.fails(1, &call(&folder, &[]));
    assert!(error.contains("ended before its handshake (exit code 3)"), "{error}");
    assert!(error.contains("preparing") && error.ends_with("no licence"), "{error}");

    let bench = Bench::new();
    let error = bench.fails(1, &call(&bench.script("exit 0"), &[]));
    assert!(
        error.ends_with(
            "(exit code 0), it wrote nothing: its program must call its SDK's run or start, and end when that returns"
        ),
        "{error}"
    );

    let bench = Bench::new();
    let error = bench.fails(1, &call(&bench.script("kill -SEGV $$"), &[]));
    assert!(error.contains("ended before its handshake (signal 11)"), "{error}");
}

#[test]
fn a_plugin_that_never_shakes_hands() {
    let bench = Bench::new();
    // With a child of its own: the whole group must go.
    let folder = bench.script("echo thinking; sh -c 'sleep 600' & sleep 600");
    let error = bench.fails(1, &call(&folder, &["--init-timeout", "500ms"]));
    assert!(error.contains("did not complete its handshake within 500ms (it wrote: thinking)"), "{error}");
}

#[test]
fn a_plugin_that_answers_garbage() {
    let bench = Bench::new();
    let error = bench.fails(1, &call(&liar(&bench, "b'HELLO, engine'", "return None"), &[]));
    assert!(error.contains("sent \"HELLO, engine\" instead of a handshake"), "{error}");

    let bench = Bench::new();
    let error = bench.fails(1, &call(&liar(&bench, "b'handshake'", "return b'no such thing here'"), &[]));
    assert!(error.contains("did not start function f: no such thing here"), "{error}");

    let bench = Bench::new();
    let say = "threading.Thread(target=channel, args=(folder + '/func_f.ipc', b'handshake', lambda call: b'<html>'), \
               daemon=True).start(); return b'ok'";
    let error = bench.fails(1, &call(&liar(&bench, "b'handshake'", say), &[]));
    assert!(error.contains("argument check of function f failed: the function's reply is not valid"), "{error}");
}

#[test]
fn a_plugin_that_dies_in_the_middle_of_a_call() {
    let bench = Bench::new();
    let say = "threading.Thread(target=channel, args=(folder + '/func_f.ipc', b'handshake', lambda call: os._exit(7)), \
               daemon=True).start(); return b'ok'";
    let error = bench.fails(1, &call(&liar(&bench, "b'handshake'", say), &[]));
    assert!(error.contains("outcome unknown") && error.contains("exit code 7"), "{error}");
}

#[test]
fn a_plugin_that_never_answers() {
    let bench = Bench::new();
    let wait = "threading.Event().wait()";
    let error = bench.fails(1, &call(&liar(&bench, "b'handshake'", wait), &["--init-timeout", "1s"]));
    assert!(error.contains("did not answer within 1s: start function f"), "{error}");
}

#[test]
fn symbols_that_do_not_exist() {
    let bench = Bench::new();
    let folder = bench.script("sleep 600");
    let path = folder.to_str().unwrap();
    let error = bench.fails(1, &["call", path, "g"]);
    assert_eq!(error, "there is no function g: the plugins serve f");
    let error = bench.fails(1, &["source", path, "f"]);
    assert_eq!(error, "there is no source f: the plugins serve no source");
    let error = bench.fails(1, &["sink", path, "f"]);
    assert_eq!(error, "there is no sink f: the plugins serve no sink");
}

#[test]
fn json_that_does_not_parse() {
    let bench = Bench::new();
    let folder = bench.script("sleep 600");
    let path = folder.to_str().unwrap();
    let error = bench.fails(2, &["call", path, "f", "1", "hello"]);
    assert_eq!(
        error,
        r#"argument 2 is not JSON: expected value at line 1 column 1 in hello; text needs quotes: '"hello"'"#
    );
    let error = bench.fails(2, &["source", path, "s", "--config", r#"{"a":}"#]);
    assert_eq!(error, r#"--config is not JSON: expected value at line 1 column 6 in {"a":}"#);
    let error = bench.fails(2, &["sink", path, "s", "--config", "7"]);
    assert!(error.starts_with("--config must be a JSON object"), "{error}");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let bench = Bench::new();
    for arguments in
        [&[][..], &["call"], &["call", "x", "f", "--repeat", "0"], &["dance"], &["run", "x", "--init-timeout", "soon"]]
    {
        let ran = bench.run(arguments);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("Usage:") || ran.stderr.contains("--help"), "{ran:?}");
    }
}

#[test]
fn pipelines_that_are_wrong() {
    let bench = Bench::new();
    let file = bench.path().join("pipeline.toml");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        bench.fails(1, &["run", file.to_str().unwrap()])
    };
    // Each error is one sentence.
    for (text, told) in [
        (
            "plugins = ['p']\n[source]\nsymbol = 's'\ncuont = 5\n",
            "line 4, column 1: unknown field `cuont`, expected one of `symbol`, `datasource`, `config`, `count`",
        ),
        ("plugins = ['p']\n", "line 1, column 1: missing field `source`"),
        ("", "line 1, column 1: missing field `plugins`"),
        ("plugins = ['p']\nä = \n", "line 2, column 1: invalid unquoted key"),
        ("plugins = ['p']\n'ä' = 'ö' x\n", "line 2, column 11: "),
        ("plugins = ['p']\n[source]\nsymbol = \"s\n", "line 3, column 12: invalid basic string"),
        ("plugins = ['p']\n[source]\nsymbol = 's'\nsymbol = 's'", "line 4, column 1: duplicate key"),
        (
            "plugins = ['p']\n[source]\nsymbol = 's'\nconfig = { a = nan }",
            "line 4, column 10: config field a is NaN, which cannot be sent to a plugin",
        ),
        ("plugins = ['p']\n[source]\nsymbol = 's'\nconfig = { a = 18446744073709551616 }", "line 4, column 16: "),
    ] {
        let error = run(text);
        assert!(error.starts_with(&format!("{}, {told}", file.display())), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = run("plugins = []\n[source]\nsymbol = 's'\n");
    assert!(error.contains("name at least one plugin's folder"), "{error}");
    let error = run("plugins = ['p']\n[source]\nsymbol = 's'\ncount = 0\n");
    assert!(error.ends_with("count is 0: it must be at least 1, or absent for all rows"), "{error}");
    let error = bench.fails(1, &["run", "/no/such.toml"]);
    assert!(error.starts_with("cannot read /no/such.toml"), "{error}");
}

#[test]
fn a_socket_folder_that_cannot_be_written() {
    let bench = Bench::new();
    let folder = bench.script("sleep 600");
    // Not even root can.
    let error = bench.fails(1, &call(&folder, &["--ipc-dir", "/proc/sockets"]));
    assert!(error.starts_with("cannot use /proc/sockets as the socket folder"), "{error}");
    let long = bench.path().join("x".repeat(100));
    let error = bench.fails(1, &call(&folder, &["--ipc-dir", long.to_str().unwrap()]));
    assert!(
        error.contains("the system allows at most 107") && error.contains("choose a shorter socket folder"),
        "{error}"
    );
}

#[test]
fn an_unknown_transport() {
    let bench = Bench::new();
    let folder = bench.script("sleep 600");
    let error = bench.fails(1, &call(&folder, &["--transport", "pigeon"]));
    assert!(error.starts_with("unknown transport pigeon: this host is built with uds"), "{error}");
}

/// Reported at once, not after minutes of measuring.
#[test]
fn results_of_a_measurement_that_could_not_be_written() {
    let bench = Bench::new();
    let place = bench.path().to_str().unwrap();
    for file in [place, "/no/such/folder/file", "/proc/results"] {
        let error = bench.fails(1, &["bench", "--only", "calls", "--json", file]);
        assert!(error.starts_with(&format!("cannot write {file}: ")), "{error}");
    }
}

/// Interrupted by a signal: no process and no file is left, an older file is
/// unchanged, and what was measured is printed.
#[test]
fn a_measurement_that_is_interrupted() {
    use std::io::BufRead;
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let bench = Bench::new();
        let (old, new) = (bench.path().join("old.json"), bench.path().join("new.json"));
        std::fs::write(&old, "old").unwrap();
        for (file, subject) in [(&old, "calls"), (&new, "sources")] {
            let mut command =
                bench.command(&["bench", "--only", subject, "--seconds", "30", "--json", file.to_str().unwrap()]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            while !line.contains("round 1 of 5") {
                line.clear();
                assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it has ended");
            }
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
            let ran = finish(child);
            assert_eq!(ran.code, Some(130), "{ran:?}");
            let mut said = String::new();
            std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
            assert!(said.starts_with("interrupted: ") && !said.contains("FAILED"), "{said}");
            bench.assert_nothing_is_left();
        }
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
        assert!(!new.exists());
    }
}

#[test]
fn an_address_that_another_live_host_uses() {
    let bench = Bench::new();
    let folder = bench.script("sleep 600");
    let sockets = bench.path().join("sockets");
    std::fs::create_dir(&sockets).unwrap();
    let arguments = call(&folder, &["--ipc-dir", sockets.to_str().unwrap(), "--init-timeout", "20s"]);
    let first = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();
    let socket = sockets.join(format!("plugin_{name}.ipc"));
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(std::time::Instant::now() < patience, "the first host does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = bench.run(&arguments);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.stderr.contains("is in use by a live process: stop it, or choose another socket folder"),
        "{second:?}"
    );
    assert!(socket.exists(), "the first host's socket is left alone");

    // An interrupt ends the first command in the middle of its start.
    rustix::process::kill_process(rustix::process::Pid::from_child(&first), rustix::process::Signal::INT).unwrap();
    let first = finish(first);
    assert_eq!(first.code, Some(130), "{first:?}");
    assert!(!socket.exists());
    bench.assert_nothing_is_left();
}

#[test]
fn wrong_arguments_are_told_in_the_functions_own_words() {
    let bench = Bench::new();
    let mirror = example("mirror");
    // The build's progress precedes the sentence.
    let last = |arguments: &[&str]| {
        let ran = bench.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        bench.assert_nothing_is_left();
        ran.stderr.lines().last().unwrap().to_owned()
    };
    assert_eq!(
        last(&["call", &mirror, "revert", "1", "2"]),
        "ekuiper-plugin: function revert: takes 1 argument, got 2"
    );
    let error = last(&["call", &mirror, "revert", "5"]);
    assert!(error.starts_with("ekuiper-plugin: function revert: invalid argument 1"), "{error}");
    let error = last(&["source", &mirror, "random", "--config", r#"{"interval":"soon"}"#]);
    assert!(error.contains("config field interval"), "{error}");
}
