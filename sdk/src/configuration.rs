//! The configuration of a symbol at its start, compared with its description.

use ekuiper_core::description::{ConfigFields, UnknownField};
use ekuiper_core::message::SymbolKind;
use serde::de::Error as _;

use crate::error::text_of;
use crate::panic::catch_panic;
use crate::{BoxError, Config, Error, Result};

/// What a source or sink says about its configuration.
pub(crate) struct Described {
    kind: SymbolKind,
    /// The fields; `None` if they are unknown.
    fields: Option<ConfigFields>,
}

impl Described {
    pub(crate) fn new(kind: SymbolKind, fields: Option<ConfigFields>) -> Self {
        Self { kind, fields }
    }

    /// Configures a symbol, if the configuration fits its description. Unknown
    /// fields are logged.
    ///
    /// # Errors
    /// The configuration does not fit, or an error or panic of `configure`.
    pub(crate) fn configure(&self, config: &Config, configure: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(fields) = &self.fields else { return catch_panic(configure) };
        let unknown = fields.unknown(self.kind, config.as_map());
        for field in &unknown {
            tracing::warn!("{field}");
        }
        let misfit = |misfit: ekuiper_core::description::Misfit| {
            BoxError::from(Error::Config { field: misfit.field, source: serde_json::Error::custom(misfit.text) })
        };
        let checked = fields.check(config.as_map()).map_err(misfit);
        checked.and_then(|()| catch_panic(configure)).map_err(|error| explained(error, &unknown))
    }
}

/// An error about a field, with the given field that was probably meant to be
/// this one.
fn explained(error: BoxError, unknown: &[UnknownField]) -> BoxError {
    let text = text_of(&*error);
    let is_about = |unknown: &&UnknownField| match (&unknown.meant, error.downcast_ref()) {
        (Some(meant), Some(Error::Config { field, .. })) => meant == field,
        // Of a language binding, or of an author's own reading.
        (Some(meant), _) => text.contains(meant.as_str()),
        (None, _) => false,
    };
    match unknown.iter().find(is_about) {
        Some(misspelt) => format!("{text}; {misspelt}").into(),
        None => error,
    }
}
