//! Sources that misbehave.

use std::sync::mpsc;
use std::time::Duration;

use ekuiper_sdk::prelude::*;

use crate::Settings;

pub(crate) fn add(plugin: Plugin) -> Plugin {
    plugin
        .source("counter", Counter::default)
        .source("flood", Flood::default)
        .source("waiting", Waiting::default)
        .source("reporter", || Reporter)
        .source("silent", Silent::default)
        .source("unmakable", || -> Counter { panic!("boom in make") })
}

/// A source that emits numbers until it is stopped.
#[derive(Default)]
struct Counter {
    settings: Settings,
    topic: String,
}

impl Source for Counter {
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        self.settings = config.parse()?;
        self.topic = datasource.into();
        self.settings.enter("configure")
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        self.settings.enter("open")?;
        tracing::info!("counting for {}", self.topic);
        let place = json!([ctx.rule_id(), ctx.op_id(), ctx.instance_id()]);
        for n in 0.. {
            ctx.emit_with_meta(&json!({ "n": n, "topic": self.topic }), &place)?;
            if !ctx.sleep(Duration::from_millis(1)) {
                break;
            }
        }
        self.settings.note("stopped")
    }

    fn close(&mut self, _ctx: &SourceContext) -> Result<()> {
        self.settings.enter("close")
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if self.settings.panic_in == "drop" {
            panic!("boom in drop");
        }
    }
}

/// A source that emits as fast as the engine reads, and never checks for a stop.
#[derive(Default)]
struct Flood(Settings);

impl Source for Flood {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        self.0 = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        loop {
            ctx.emit(&json!({ "text": "x".repeat(1000) }))?;
        }
    }

    fn close(&mut self, _ctx: &SourceContext) -> Result<()> {
        self.0.note("close")
    }
}

/// A source that blocks in its own wait, which `on_stop` ends.
#[derive(Default)]
struct Waiting(Settings);

impl Source for Waiting {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        self.0 = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let (end, ended) = mpsc::channel::<()>();
        let _bad = (self.0.panic_in == "hook").then(|| ctx.on_stop(|| panic!("boom in hook")));
        let settings = self.0.clone();
        let _hook = ctx.on_stop(move || {
            let _ = settings.enter("on_stop");
            drop(end);
        });
        ctx.emit(&json!({ "ready": true }))?;
        let _ = ended.recv();
        Ok(())
    }

    fn close(&mut self, _ctx: &SourceContext) -> Result<()> {
        self.0.note("close")
    }
}

/// A source that ends by itself without a tuple, or fails; a forgotten hook holds
/// its context.
#[derive(Default)]
struct Silent(Settings);

impl Source for Silent {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        self.0 = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let held = ctx.clone();
        std::mem::forget(ctx.on_stop(move || drop(held)));
        self.0.enter("open")
    }
}

/// A source that reports an error, continues, and fails.
struct Reporter;

impl Source for Reporter {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        ctx.emit_error("a \"bad\" record")?;
        if let Err(error) = ctx.emit(&f64::NAN) {
            ctx.emit_error(&Chain(&error).to_string())?;
        }
        ctx.emit(&json!({ "still": "here" }))?;
        Err("the sensor is gone".into())
    }
}
