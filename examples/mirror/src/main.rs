//! A portable plugin with a source, sinks and functions.

mod file;
mod random;

use ekuiper_sdk::prelude::*;

fn main() -> ExitCode {
    plugin().run()
}

fn plugin() -> Plugin {
    Plugin::new("mirror")
        .version(concat!("v", env!("CARGO_PKG_VERSION")))
        .source("random", random::RandomSource::default)
        .sink("file", file::FileSink::default)
        // Under eKuiper 2, `file` names the engine's built-in sink.
        .sink("lines", file::FileSink::default)
        .function("echo", describe(|value: Value| value).doc("Returns its argument.").arguments(["value"]))
        .function(
            "revert",
            describe(revert)
                .doc("The text backwards.")
                .arguments(["text"])
                .example("revert('hello')")
                .volatility(Volatility::Immutable)
                .idempotent()
                .parallel(),
        )
        .function(
            "exceeds",
            describe(|value: f64, limit: f64| value > limit)
                .doc("Whether the value is above the limit.")
                .arguments(["value", "limit"])
                .example("exceeds(21.5, 20)")
                .volatility(Volatility::Immutable)
                .idempotent()
                .parallel(),
        )
        .aggregate(
            "average",
            describe(average).doc("The mean of the values; null without values.").arguments(["values"]),
        )
}

fn revert(text: String) -> String {
    text.chars().rev().collect()
}

/// The mean of the values; `None` without values.
fn average(values: Vec<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::description::Manifest;
    use ekuiper_sdk::testing;

    #[test]
    fn the_manifest_lists_what_the_plugin_describes() {
        let described = plugin().description().unwrap();
        let made = described.manifest("mirror").unwrap();
        let written = Manifest::parse(include_str!("../mirror.json")).unwrap();
        assert_eq!((&written.version, written.language), (&made.version, made.language));
        for (mut written, made) in
            [(written.sources, made.sources), (written.sinks, made.sinks), (written.functions, made.functions)]
        {
            written.sort();
            assert_eq!(written, made);
        }
        let revert = described.functions.iter().find(|function| function.name == "revert").unwrap();
        assert_eq!((revert.arguments[0].name.as_str(), revert.result.to_string().as_str()), ("text", "string"));
        let fields = &described.sources[0].config.as_ref().unwrap().fields;
        let interval = fields.iter().find(|field| field.name == "interval").unwrap();
        assert_eq!(
            (interval.default.clone(), interval.doc.as_str()),
            (Some(json!(100)), "Milliseconds between two rows.")
        );
    }

    #[test]
    fn functions_compute() {
        assert_eq!(testing::function(revert).call::<String>(("hello",)), Ok("olleh".into()));
        assert_eq!(testing::aggregate(average).call::<f64>((vec![1.0, 2.0, 6.0],)), Ok(3.0));
        assert_eq!(testing::aggregate(average).call::<Value>((Vec::<f64>::new(),)), Ok(Value::Null));
        let error = testing::function(revert).validate((1, 2)).unwrap_err();
        assert_eq!(error, "takes 1 argument, got 2");
    }
}
