//! The examples of async engines in the guide, so that they are compiled:
//! `conformance/tests/guide.rs` finds each of them here.

#![allow(dead_code, reason = "it is only compiled")]

#[rustfmt::skip]
mod an_engine_on_tasks {
    use ekuiper_host::{AsyncSink, AsyncSource, Host};
    use futures::{SinkExt, StreamExt};
    use serde_json::{Value, json};

    async fn forward(host: &Host) -> ekuiper_host::Result<()> {
        let revert = host.function_async("revert").await?;
        let random = host.source("random").rule("rule1").config(json!({ "interval": 10, "count": 100 }));
        let mut source: AsyncSource<Value> = random.open_async().await?;
        let mut sink: AsyncSink = host.sink("file").rule("rule1").require_ack(true).open_async().await?;
        while let Some(tuple) = source.next().await {
            let mut row = tuple?.message;
            let reversed: String = revert.call_async((&row["name"],))?.await?;
            row["reversed"] = reversed.into();
            sink.feed(row).await?;                  // waits while the window is full
        }
        source.close().await?;
        sink.close().await
    }
}
