//! The plugin `plugin-name`: its symbols, and the names that rules call them by.

// [function]
mod function;
// [/function]
// [sink]
mod sink;
// [/sink]
// [source]
mod source;
// [/source]

use ekuiper_sdk::prelude::*;

// [sink]
use sink::Lines;
// [/sink]
// [source]
use source::Ticks;
// [/source]
// [sink|source]

// [/sink|source]
fn main() -> ExitCode {
    plugin().run()
}

/// What the plugin consists of. Its manifest is made from this.
fn plugin() -> Plugin {
    Plugin::new(env!("CARGO_PKG_NAME"))
        .version(concat!("v", env!("CARGO_PKG_VERSION")))
        // [function]
        .function(
            "plugin_name_double",
            describe(function::double)
                .doc("Twice the value.")
                .arguments(["value"])
                .example("plugin_name_double(temperature)"),
        )
        // [/function]
        // [source]
        .source("plugin_name_ticks", Ticks::default)
        // [/source]
        // [sink]
        .sink("plugin_name_lines", Lines::default)
        // [/sink]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_plugin_describes_itself() {
        let description = super::plugin().description().unwrap();
        assert_eq!(description.name, "plugin-name");
    }
}
