//! What an error is about, and what became of the request that failed.

use std::fmt;
use std::sync::Arc;

/// What an error says of the request that failed: whether the plugin may have
/// carried it out, so that repeating it may carry it out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorDelivery {
    /// The request did not reach the plugin, or is undone: it can be repeated.
    NotSent,
    /// The plugin may or may not have carried out the request, or will.
    Unknown,
    /// The plugin has answered the request: repeating it carries it out again.
    Answered,
}

/// What an error is about, in words, with the plugin and the symbol that it
/// belongs to. Displayed, it is the words alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    words: String,
    plugin: Option<String>,
    symbol: Option<String>,
    delivery: ErrorDelivery,
}

impl Subject {
    /// Returns the words.
    pub fn words(&self) -> &str {
        &self.0.words
    }

    /// Returns the plugin's name, if it is about one.
    pub fn plugin(&self) -> Option<&str> {
        self.0.plugin.as_deref()
    }

    /// Returns the symbol's name, if it is about one.
    pub fn symbol(&self) -> Option<&str> {
        self.0.symbol.as_deref()
    }

    pub(super) fn delivery(&self) -> ErrorDelivery {
        self.0.delivery
    }

    /// Returns the subject of a plugin as a whole.
    pub(crate) fn of_plugin(plugin: &str) -> Self {
        Self::from(format!("plugin {plugin}")).about(plugin, None)
    }

    /// Adds the plugin and the symbol.
    pub(crate) fn about(self, plugin: &str, symbol: Option<&str>) -> Self {
        self.with(|parts| {
            parts.plugin = Some(plugin.to_owned());
            parts.symbol = symbol.map(str::to_owned);
        })
    }

    /// Returns the same with these words.
    pub(crate) fn in_words(&self, words: String) -> Self {
        self.clone().with(|parts| parts.words = words)
    }

    /// Records that nothing was sent.
    pub(crate) fn not_sent(self) -> Self {
        self.with(|parts| parts.delivery = ErrorDelivery::NotSent)
    }

    /// Records that the plugin has answered.
    pub(crate) fn answered(self) -> Self {
        self.with(|parts| parts.delivery = ErrorDelivery::Answered)
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl From<String> for Subject {
    fn from(words: String) -> Self {
        Self(Arc::new(Parts { words, plugin: None, symbol: None, delivery: ErrorDelivery::Unknown }))
    }
}

impl From<&str> for Subject {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl PartialEq<String> for Subject {
    fn eq(&self, words: &String) -> bool {
        self.words() == words
    }
}
