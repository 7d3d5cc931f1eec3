//! Plugins that reach the limit of memory that their engine has set: what the
//! caller reads, and that everything else goes on.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ekuiper_conformance::wait_until;
use ekuiper_host::{Error, EventKind, Exit, Host, PluginOptions};
use ekuiper_interop::guard::{PATIENCE, Watchdog};
use ekuiper_interop::managed::scratch;
use ekuiper_interop::plugins::{Ledger, Mirror};
use ekuiper_interop::tools;
use serde_json::json;

/// More than a plugin and its libraries need, and far less than it asks for.
const LIMIT: u64 = 512 << 20;

/// Runs a test while another plugin of the host is called, which must notice
/// nothing.
fn beside_another_plugin(host: &Host, test: impl FnOnce()) {
    let (is_over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let revert = host.function("revert").unwrap();
    let pid = host.pid("mirror");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                assert_eq!(revert.call::<String>(("abc",)).unwrap(), "cba");
                calls.fetch_add(1, Ordering::SeqCst);
            }
        });
        test();
        let before = calls.load(Ordering::SeqCst);
        wait_until("the other plugin answers", || calls.load(Ordering::SeqCst) > before);
        is_over.store(true, Ordering::SeqCst);
    });
    assert_eq!(host.pid("mirror"), pid);
    assert_eq!(host.status("mirror").unwrap().restarts, 0);
}

/// Waits for the crash of a plugin; returns how its process ended.
fn crash(events: &std::sync::mpsc::Receiver<ekuiper_host::Event>, plugin: &str) -> Exit {
    loop {
        let event = events.recv_timeout(PATIENCE).expect("no crash");
        if let (true, EventKind::Crashed { exit, .. }) = (event.plugin == plugin, event.kind) {
            return exit;
        }
    }
}

#[test]
fn a_plugin_in_rust_that_gets_no_memory_ends_and_says_at_which_limit() {
    let _watchdog = Watchdog::start();
    let (ledger, mirror, root) = (Ledger::new(), Mirror::new(), scratch());
    let host = Host::builder().ipc_dir(root.path()).plugin(ledger.folder()).plugin(mirror.folder());
    // Its backtrace has more lines than an error.
    let options = PluginOptions::new().memory(LIMIT).env("RUST_BACKTRACE", "1");
    let host = host.plugin_options("ledger", options).build().unwrap();
    let events = host.events();
    beside_another_plugin(&host, || {
        let text = host.function("text").unwrap();
        assert_eq!(text.call::<String>((3,)).unwrap(), "xxx");
        let error = text.call::<String>((4_u64 << 30,)).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("(signal 6, at its memory limit of 512 MiB)"), "{said}");
        assert_eq!(crash(&events, "ledger").memory_limit, Some(LIMIT));
        // Restarted, as after any crash.
        wait_until("it is back", || text.call::<String>((3,)).is_ok());
        assert!(text.call::<String>((4_u64 << 30,)).unwrap_err().to_string().contains("at its memory limit"));
        let status = host.status("ledger").unwrap();
        assert!(status.last_exit.unwrap().to_string().ends_with("at its memory limit of 512 MiB"));
    });
    host.shutdown();
}

/// Makes a plugin in Python whose functions take this many bytes: one raises
/// what Python does then, the other ends.
fn in_python(root: &Path) -> std::path::PathBuf {
    let folder = root.join("hungry");
    fs::create_dir(&folder).unwrap();
    let manifest = json!({ "language": "python", "executable": "hungry.py", "functions": ["take", "take_or_end"] });
    fs::write(folder.join("hungry.json"), manifest.to_string()).unwrap();
    let program = r#"
import os, traceback
from ekuiper import Function, PluginConfig, plugin

class Take(Function):
    def validate(self, args): return ""
    def is_aggregate(self): return False
    def exec(self, args, ctx): return len(bytearray(args[0]))

class TakeOrEnd(Take):
    def exec(self, args, ctx):
        try:
            return super().exec(args, ctx)
        except MemoryError:
            traceback.print_exc()
            os._exit(1)

if __name__ == "__main__":
    plugin.start(PluginConfig("hungry", {}, {}, {"take": Take, "take_or_end": TakeOrEnd}))
"#;
    fs::write(folder.join("hungry.py"), program).unwrap();
    folder
}

#[test]
fn a_plugin_in_python_answers_with_its_memory_error_or_ends_by_it() {
    let _watchdog = Watchdog::start();
    let (mirror, root) = (Mirror::new(), scratch());
    let host = Host::builder().ipc_dir(root.path()).plugin(in_python(root.path())).plugin(mirror.folder());
    let host = host.python_bin(tools::our_python().display().to_string());
    let host = host.plugin_options("hungry", PluginOptions::new().memory(LIMIT)).build().unwrap();
    let events = host.events();
    beside_another_plugin(&host, || {
        let [take, take_or_end] = ["take", "take_or_end"].map(|name| host.function(name).unwrap());
        assert_eq!(take.call::<u64>((1000,)).unwrap(), 1000);
        let pid = host.pid("hungry");
        let error = take.call::<u64>((4_u64 << 30,)).unwrap_err();
        assert!(matches!(error, Error::Function { .. }) && error.to_string().contains("MemoryError"), "{error}");
        // It goes on.
        assert_eq!((take.call::<u64>((1000,)).unwrap(), host.pid("hungry")), (1000, pid));
        let error = take_or_end.call::<u64>((4_u64 << 30,)).unwrap_err().to_string();
        assert!(error.contains("(exit code 1, at its memory limit of 512 MiB)"), "{error}");
        assert!(error.contains("MemoryError"), "{error}");
        assert_eq!(crash(&events, "hungry").memory_limit, Some(LIMIT));
        wait_until("it is back", || take.call::<u64>((1000,)).is_ok());
    });
    host.shutdown();
}
