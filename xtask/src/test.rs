//! All tests there are.

use crate::Result;
use crate::process::{cargo, execute};
use crate::{python, tools};

/// Sets up, runs the tests of the wheel for Python, and `cargo test` over the
/// whole workspace with every transport; or `cargo test` with the `arguments`
/// that are given instead.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut tools = tools::set_up()?;
    for (name, what) in [("KUIPERD", "a kuiperd binary"), ("KUIPER_ETC", "its etc folder")] {
        if std::env::var_os(name).is_none() {
            tools.note(format!("the tests under a real eKuiper: set {name} to {what}"));
        }
    }
    // The tests of plugins in Python start it.
    python::install(&tools)?;
    if arguments.is_empty() {
        python::test(&[])?;
    }
    let mut test = cargo();
    test.arg("test");
    match arguments {
        [] => test.args(["--workspace", "--all-features"]),
        chosen => test.args(chosen),
    };
    let tested = execute(tools.for_command(&mut test));
    tools.report_skipped();
    tested
}
