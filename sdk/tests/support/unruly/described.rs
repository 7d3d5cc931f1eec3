//! Symbols that describe themselves, and a definition with a mistake.

use ekuiper_sdk::prelude::*;

pub(crate) fn add(plugin: Plugin) -> Plugin {
    let plugin = plugin
        .version("v1.2.3")
        .source("strict", || Strict)
        .sink("strict", || Strict)
        .source("undescribable", || Undescribable)
        .function("clamp", describe(clamp).doc("Limits a value.").arguments(["value", "low", "high"]));
    match std::env::var_os("UNRULY_MISTAKE") {
        Some(_) => plugin.function("misnamed", describe(clamp).arguments(["value"])),
        None => plugin,
    }
}

fn clamp(value: f64, low: f64, high: Option<f64>) -> f64 {
    value.max(low).min(high.unwrap_or(f64::MAX))
}

/// A symbol that reads nothing of its configuration.
struct Strict;

fn fields() -> [Field; 3] {
    let server = DataType::Struct(vec![
        Field::new("host", DataType::String),
        Field::new("port", DataType::Int).default_value(1883),
    ]);
    [
        Field::new("topic", DataType::String).doc("Where to publish."),
        Field::new("servers", DataType::list(server)).optional(),
        Field::new("interval", DataType::Int).default_value(100),
    ]
}

impl Source for Strict {
    fn describe() -> SourceDescription {
        SourceDescription::new().doc("Emits nothing.").datasource("A topic.").config(fields())
    }

    fn open(&mut self, _ctx: &SourceContext) -> Result<()> {
        Ok(())
    }
}

impl Sink for Strict {
    fn describe() -> SinkDescription {
        SinkDescription::new().config(fields())
    }

    fn collect(&mut self, _ctx: &SinkContext, _data: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// A source whose description panics, if the test wants that.
struct Undescribable;

impl Source for Undescribable {
    fn describe() -> SourceDescription {
        assert!(std::env::var_os("UNRULY_UNDESCRIBABLE").is_none(), "no words for it");
        SourceDescription::new()
    }

    fn open(&mut self, _ctx: &SourceContext) -> Result<()> {
        Ok(())
    }
}
