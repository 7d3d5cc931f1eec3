//! In place of `runtime` on systems where plugins are only developed.

use std::process::ExitCode;

use ekuiper_core::description::DESCRIBE;

use crate::definition::Definition;

/// Says what can be done instead of serving an engine.
pub(crate) fn run(plugin: Definition, _: Vec<String>) -> ExitCode {
    eprintln!(
        "plugin {}: engines are served on Linux; here its symbols can be tested with `ekuiper_sdk::testing`, and \
         {DESCRIBE} prints its description",
        plugin.name
    );
    ExitCode::FAILURE
}
