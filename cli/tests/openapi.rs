//! `/openapi.json`, and what `serve` does with the requests that it allows, and
//! with others: schemathesis makes them. Skipped, loudly, where that is not
//! installed; continuous integration has it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use support::Bench;
use support::served::{Server, package};

const TOKEN: &str = "0123456789abcdef";

#[test]
fn requests_are_answered_as_the_document_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let schemathesis = root.join(".tools/python/bin/schemathesis");
    if !schemathesis.exists() {
        let text = format!("the requests of /openapi.json: there is no {}", schemathesis.display());
        assert!(std::env::var_os("CI").is_none(), "{text}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {text}: `cargo xtask tools` installs it");
        return;
    }
    let bench = Bench::new();
    let token = bench.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    ask(schemathesis.as_ref(), &[], "");
    let header = format!("Authorization: Bearer {TOKEN}");
    ask(schemathesis.as_ref(), &["--token-file", &token.display().to_string()], &header);
}

/// Makes requests to a server with these arguments, with this header.
fn ask(schemathesis: &Path, arguments: &[&str], header: &str) {
    let bench = Bench::new();
    let server = Server::start_with(&bench, &[&["--listen", "127.0.0.1:0"], arguments].concat(), &[]);
    let headers = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let (status, said) = server.ask("POST", "/plugins/portables", &package(&bench, "v1"), &headers);
    assert_eq!(status, 201, "{said}");
    let mut command = Command::new(schemathesis);
    command.args(["run", &format!("http://{}/openapi.json", server.address)]).current_dir(bench.path());
    if !header.is_empty() {
        command.args(["--header", header]);
    }
    // The engine refuses with 400 what others say 404 to.
    // A plugin that is away, or late, is one of the 5xx that the document names.
    command.args(["--exclude-checks", "positive_data_acceptance,not_a_server_error"]);
    // What they answer may have no end, and the last is sent lines alone, which
    // schemathesis cannot make.
    for path in ["/logs", "/sources/{name}", "/sinks/{name}"] {
        command.args(["--exclude-path", path]);
    }
    // The same requests each time.
    command.args(["--max-examples", "30", "--seed", "1", "--generation-deterministic", "--request-timeout", "60"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" passed"), "{said}");
    // It is as well as before.
    assert_eq!(server.ask("GET", "/healthz", "", "").0, 200);
    server.end();
}
