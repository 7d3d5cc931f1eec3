//! The runtimes that a task may run on.

use std::future::Future;

/// Runs a test on each runtime, one after the other; it gets the runtime's
/// name.
pub fn on_each_runtime<F: Future<Output = ()>>(test: impl Fn(&'static str) -> F) {
    futures::executor::block_on(test("futures"));
    smol::block_on(test("smol"));
    let builder = |mut builder: tokio::runtime::Builder| builder.enable_all().build().unwrap();
    builder(tokio::runtime::Builder::new_current_thread()).block_on(test("tokio"));
    builder(tokio::runtime::Builder::new_multi_thread()).block_on(test("tokio, several threads"));
}
