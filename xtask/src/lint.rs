//! What is checked besides the tests.

use std::process::Command;

use crate::Result;
use crate::process::{cargo, display, execute, output, root};
use crate::tools::{self, CARGO_DENY, MDBOOK, Tools};
use crate::{cross, oldest, publish};

/// The crates that have transports as features, and those transports.
const WITH_TRANSPORTS: [&str; 6] =
    ["ekuiper-sdk", "ekuiper-host", "ekuiper-manager", "ekuiper-cli", "ekuiper-bench", "mirror"];
const TRANSPORTS: [&str; 4] = ["uds", "nng", "zeromq", "shm"];

/// The crates that have columns as a feature, and what it needs.
const WITH_COLUMNS: [(&str, &str); 6] = [
    ("ekuiper-core", "arrow"),
    ("ekuiper-core", "arrow-c-data"),
    ("ekuiper-sdk", "arrow,uds"),
    ("ekuiper-host", "arrow59,uds"),
    ("ekuiper-host", "c-data,uds"),
    ("ekuiper-bench", "columns,uds"),
];

/// Systems that authors develop plugins on, and what they need there: the SDK,
/// and on Unix the command as well, without https, whose C part needs the
/// system's own compiler.
const ON_UNIX: &[&str] = &["ekuiper-sdk", "mirror", "ekuiper-host", "ekuiper-manager", "ekuiper-cli"];
const ON_WINDOWS: &[&str] = &["ekuiper-core", "ekuiper-sdk", "mirror"];
const WITHOUT_HTTPS: &[&str] = &["--no-default-features", "--features", "uds,bench"];
const DEVELOPED_ON: [(&str, &[&str], &[&str]); 3] = [
    ("aarch64-apple-darwin", ON_UNIX, WITHOUT_HTTPS),
    ("x86_64-unknown-freebsd", ON_UNIX, WITHOUT_HTTPS),
    ("x86_64-pc-windows-gnu", ON_WINDOWS, &[]),
];

/// Everything, in the order of what fails fastest.
pub(crate) fn run() -> Result<()> {
    let mut tools = tools::set_up()?;
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    light_trees()?;
    let check = |arguments: &[&str]| execute(tools.for_command(cargo().args(arguments)));
    check(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])?;
    for package in WITH_TRANSPORTS {
        for transport in TRANSPORTS {
            check(&["check", "--package", package, "--no-default-features", "--features", transport])?;
        }
    }
    for (package, features) in WITH_COLUMNS {
        check(&["check", "--package", package, "--no-default-features", "--features", features])?;
    }
    for (system, packages, features) in DEVELOPED_ON {
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        match cross::install(system) {
            Ok(()) => {
                let mut check = cargo();
                check.args(["check", "--target", system]).args(packages).args(features);
                execute(check.env("RUSTFLAGS", "-D warnings"))?
            }
            Err(reason) => tools.note(format!("what authors need on {system}: {reason}")),
        }
    }
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "-D warnings");
    execute(tools.for_command(&mut doc))?;
    publish::packages(false, &tools)?;
    guide(&tools)?;
    deny(&mut tools)?;
    oldest::check(&mut tools)?;
    tools.report_skipped();
    Ok(())
}

/// What the default builds of an author, an engine and a user have to carry: no
/// charts, no columns, no C but libc's, and no async runtime; the command has a
/// runtime, which answers requests over HTTP, and the cryptography of https, which is
/// partly C.
fn light_trees() -> Result<()> {
    let is_heavy = |name: &str| {
        let is_c = name.ends_with("-sys") && !["linux-raw-sys", "libc"].contains(&name);
        is_c || name.starts_with("arrow") || ["plotters", "tonic"].contains(&name)
    };
    let is_the_commands = |name: &str| ["ring", "tokio", "async-std", "smol", "async-executor"].contains(&name);
    for package in ["ekuiper-sdk", "ekuiper-host", "ekuiper-cli"] {
        let tree = output(cargo().args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"]))?;
        let mut names = tree.lines().filter_map(|line| line.split(' ').next());
        if let Some(name) = names.find(|name| is_heavy(name) || (package != "ekuiper-cli" && is_the_commands(name))) {
            return Err(format!("{package} depends on {name}: its default build must stay small and pure Rust"));
        }
    }
    Ok(())
}

/// Builds the guide, which may not draw a warning.
fn guide(tools: &Tools) -> Result<()> {
    let mut build = Command::new(tools.cargo_tool(&MDBOOK)?);
    build.args(["build", "docs", "--dest-dir"]).arg(root().join("target/guide")).env("MDBOOK_LOG", "warn");
    let text = display(&build);
    eprintln!("xtask: {text}");
    let output = build.output().map_err(|error| format!("cannot run {text}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && said.trim().is_empty() { Ok(()) } else { Err(format!("{text} says: {said}")) }
}

/// Licences, sources, duplicates; advisories where their database can be had.
fn deny(tools: &mut Tools) -> Result<()> {
    let program = tools.cargo_tool(&CARGO_DENY)?;
    let deny = |what: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(root()).args(["--log-level", "error", "--all-features", "check"]).args(what);
        command
    };
    execute(&mut deny(&["bans", "licenses", "sources"]))?;
    match output(&mut deny(&["advisories"])) {
        Ok(_) => Ok(()),
        Err(text) if text.contains("failed to fetch advisory database") => {
            tools.note("the advisories: their database cannot be reached from here".into());
            Ok(())
        }
        Err(text) => Err(text),
    }
}
