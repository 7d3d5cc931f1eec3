//! What a plugin on our module `ekuiper` logs, as its engine reads it.

// The support reads features of the SDK's that this crate has not.
#![allow(clippy::unwrap_used, unexpected_cfgs, reason = "only tests are here")]

#[path = "../../sdk/tests/support/mod.rs"]
mod support;

use std::process::Command;

use ekuiper_core::message::CallKind;
use ekuiper_interop::tools;
use serde_json::json;

use support::{Plugin, watchdog};

/// `logging` is loaded by the first symbol, unless the program has done so: for
/// the author there is no difference.
#[test]
fn what_a_symbol_logs_is_there_once_with_its_name() {
    let _watchdog = watchdog();
    for settings in [&[("PYTHONDONTWRITEBYTECODE", "1")][..], &[("logs_early", "1")]] {
        let mut plugin = Plugin::start_as(settings, |launch| {
            let mut command = Command::new(tools::our_python());
            command.arg("-u").arg(tools::root().join("interop/plugins/faulty/main.py")).arg(launch);
            command
        });
        for symbol in ["loud", "louder"] {
            let mut function = plugin.start_function(symbol);
            assert_eq!(function.call(CallKind::Exec, &json!([symbol])), Ok(json!(null)));
            let said = format!("I was told {symbol}");
            let line = plugin.log.wait_for(&[&said]);
            assert!(line.contains(&format!(" INFO {symbol} main.py:")), "{line}");
        }
        assert_eq!(plugin.log.text().matches("I was told").count(), 2, "{}", plugin.log.text());
    }
}
