//! Completions and manual pages, made from the command's own arguments.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;

use support::Bench;

#[test]
fn each_shell_has_completions() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = bench.run(&["completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        assert!(ran.stdout.contains("package") && ran.stdout.contains("init-timeout"), "{shell}: {}", ran.stdout);
    }
    let script = bench.path().join("completions.bash");
    fs::write(&script, bench.run(&["completions", "bash"]).stdout).unwrap();
    // What a person gets who types `ekuiper-plugin pack` and the tab.
    let typed = "source \"$0\"; COMP_WORDS=(ekuiper-plugin pack); COMP_CWORD=1; _ekuiper__plugin ekuiper-plugin pack \
                 ekuiper-plugin; echo \"${COMPREPLY[@]}\"";
    let offered = std::process::Command::new("bash").args(["-c", typed]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout), "package\n", "{offered:?}");
    assert!(bench.run(&["completions", "ed"]).code == Some(2));
}

#[test]
fn each_command_has_a_page() {
    let bench = Bench::new();
    let page = bench.run(&["man"]).stdout;
    assert!(page.contains(".TH ekuiper-plugin 1") && page.contains("ekuiper\\-plugin\\-package(1)"), "{page}");
    let folder = bench.path().join("share/man1");
    let ran = bench.run(&["man", folder.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""), "{ran:?}");
    for command in ["", "-new", "-call", "-source", "-sink", "-run", "-package", "-completions", "-man"] {
        let page = fs::read_to_string(folder.join(format!("ekuiper-plugin{command}.1"))).unwrap();
        assert!(page.contains(".TH ekuiper-plugin") && page.contains("init\\-timeout"), "{command}: {page}");
    }
    let file = bench.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = bench.fails(1, &["man", file.to_str().unwrap()]);
    assert!(error.starts_with("cannot make ") && fs::read_to_string(file).unwrap() == "mine", "{error}");
}
