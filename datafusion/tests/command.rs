//! The command `ekuiper-sql` with a real plugin.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn command(plugins: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ekuiper-sql"));
    command.arg("--plugins").arg(plugins.join("plugins"));
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn rows_are_a_table_json_or_csv() {
    let folder = common::plugins();
    let sql = "SELECT count, revert('ab') AS r FROM random LIMIT 2";
    for (form, expected) in [
        ("table", "+-------+----+\n| count | r  |\n+-------+----+\n| 1     | ba |\n| 2     | ba |\n+-------+----+\n"),
        ("json", "{\"count\":1,\"r\":\"ba\"}\n{\"count\":2,\"r\":\"ba\"}\n"),
        ("csv", "count,r\n1,ba\n2,ba\n"),
    ] {
        let (code, stdout, stderr) = output(command(folder.path()).args(["--output", form, sql]));
        assert_eq!((code, stdout.as_str()), (Some(0), expected), "{stderr}");
    }
}

#[test]
fn an_error_has_an_exit_code_and_says_what_to_write() {
    let folder = common::plugins();
    let (code, stdout, stderr) = output(command(folder.path()).arg("SELECT echo(1)"));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("the type of the function echo is unknown"), "{stderr}");
    let (code, _, stderr) = output(command(folder.path()).arg("SELECT average(value) FROM random"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("this query needs all rows, but a source of it has no end: read a part"), "{stderr}");
    let declared = ["--function", "echo(int) int", "--output", "csv", "SELECT echo(1) AS x; SELECT echo(2) AS x"];
    let (code, stdout, stderr) = output(command(folder.path()).args(declared));
    assert_eq!((code, stdout.as_str()), (Some(0), "x\n1\nx\n2\n"), "{stderr}");
}

#[test]
fn an_interrupt_ends_an_endless_query() {
    let folder = common::plugins();
    let sql = ["--output", "json", "SELECT count FROM random"];
    let mut running = command(folder.path()).args(sql).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "{\"count\":1}");
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    for line in lines {
        line.unwrap();
    }
    assert_eq!(running.wait().unwrap().code(), Some(130));
}
