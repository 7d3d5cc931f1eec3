//! What an engine asks an error: which plugin, which symbol, and whether the
//! request reached the plugin.

use super::{Error, ErrorDelivery};

impl Error {
    /// Returns the name of the plugin that this error is about, if it is about
    /// one: [`Folder`](Error::Folder), [`SocketFolder`](Error::SocketFolder),
    /// [`UnknownTransport`](Error::UnknownTransport) and
    /// [`Stopped`](Error::Stopped) are about none, and neither is a shortage
    /// of the host itself.
    pub fn plugin(&self) -> Option<&str> {
        match self {
            Self::NoManifest { name, .. } | Self::DuplicatePlugin { name, .. } => Some(name),
            Self::NoSuchPlugin(plugin) => Some(plugin),
            Self::DuplicateSymbol { second, .. } => Some(second),
            Self::Manifest { path, .. } => path.file_stem()?.to_str(),
            Self::Executable { plugin, .. }
            | Self::ProgramNotFound { plugin, .. }
            | Self::Environment { plugin, .. }
            | Self::Spawn { plugin, .. }
            | Self::PluginOption { plugin, .. }
            | Self::NotServed { plugin, .. }
            | Self::EarlyExit { plugin, .. }
            | Self::NoHandshake { plugin, .. }
            | Self::Garbage { plugin, .. }
            | Self::NotPoolable { plugin, .. }
            | Self::Refused { plugin, .. }
            | Self::Timeout { plugin, .. }
            | Self::Expired { plugin, .. }
            | Self::QueueFull { plugin, .. }
            | Self::NoColumns { plugin, .. }
            | Self::OutcomeUnknown { plugin, .. }
            | Self::Exited { plugin, .. }
            | Self::Away { plugin, .. }
            | Self::Stopping { plugin }
            | Self::Updating { plugin }
            | Self::Update { plugin, .. }
            | Self::MissingSymbols { plugin, .. }
            | Self::TrialEnded { plugin }
            | Self::Broken { plugin, .. }
            | Self::Replaced { plugin, .. }
            | Self::Function { plugin, .. }
            | Self::Source { plugin, .. }
            | Self::Overrun { plugin, .. }
            | Self::Sink { plugin, .. }
            | Self::NotCollected { plugin, .. }
            | Self::NotStopped { plugin, .. }
            | Self::SinkBroken { plugin, .. }
            | Self::Config { plugin, .. } => Some(plugin),
            Self::Shortage { what, .. }
            | Self::System { what, .. }
            | Self::Transport { what, .. }
            | Self::Message { what, .. }
            | Self::InUse { wanted: what, .. }
            | Self::NotRestored { what, .. } => what.plugin(),
            Self::Folder { .. }
            | Self::NoSuchSymbol { .. }
            | Self::SocketFolder { .. }
            | Self::UnknownTransport { .. }
            | Self::Stopped => None,
        }
    }

    /// Returns the name of the symbol that this error is about, if it is about
    /// one: an error of a plugin as a whole, of its start or its end, is not.
    pub fn symbol(&self) -> Option<&str> {
        match self {
            Self::DuplicateSymbol { symbol, .. }
            | Self::NoSuchSymbol { symbol, .. }
            | Self::NotServed { symbol, .. }
            | Self::NotPoolable { symbol, .. }
            | Self::Refused { symbol, .. }
            | Self::Expired { symbol, .. }
            | Self::QueueFull { symbol, .. }
            | Self::NoColumns { symbol, .. }
            | Self::Function { symbol, .. }
            | Self::Source { symbol, .. }
            | Self::Overrun { symbol, .. }
            | Self::Sink { symbol, .. }
            | Self::NotCollected { symbol, .. }
            | Self::NotStopped { symbol, .. }
            | Self::SinkBroken { symbol, .. }
            | Self::Config { symbol, .. } => Some(symbol),
            Self::Shortage { what, .. }
            | Self::System { what, .. }
            | Self::Transport { what, .. }
            | Self::Message { what, .. }
            | Self::InUse { wanted: what, .. }
            | Self::Timeout { what, .. }
            | Self::OutcomeUnknown { what, .. }
            | Self::NotRestored { what, .. } => what.symbol(),
            Self::Update { source, .. } => source.symbol(),
            Self::Folder { .. }
            | Self::NoManifest { .. }
            | Self::Manifest { .. }
            | Self::DuplicatePlugin { .. }
            | Self::NoSuchPlugin(_)
            | Self::Executable { .. }
            | Self::ProgramNotFound { .. }
            | Self::Environment { .. }
            | Self::Spawn { .. }
            | Self::PluginOption { .. }
            | Self::SocketFolder { .. }
            | Self::UnknownTransport { .. }
            | Self::EarlyExit { .. }
            | Self::NoHandshake { .. }
            | Self::Garbage { .. }
            | Self::Exited { .. }
            | Self::Away { .. }
            | Self::Stopping { .. }
            | Self::Updating { .. }
            | Self::MissingSymbols { .. }
            | Self::TrialEnded { .. }
            | Self::Broken { .. }
            | Self::Replaced { .. }
            | Self::Stopped => None,
        }
    }

    /// Returns whether the request that failed with this error reached the
    /// plugin.
    ///
    /// | delivery | errors |
    /// |---|---|
    /// | [`NotSent`](ErrorDelivery::NotSent) | those of folders, manifests, names, configs and starts of a plugin, and of pools that cannot be; [`Expired`](Error::Expired), [`QueueFull`](Error::QueueFull), [`NoColumns`](Error::NoColumns), [`Away`](Error::Away), [`Broken`](Error::Broken), [`Updating`](Error::Updating), [`Stopping`](Error::Stopping), [`Replaced`](Error::Replaced), [`NotRestored`](Error::NotRestored), [`SinkBroken`](Error::SinkBroken); an update that was not carried out |
    /// | [`Answered`](ErrorDelivery::Answered) | [`Function`](Error::Function), [`Source`](Error::Source), [`Sink`](Error::Sink), [`Refused`](Error::Refused), [`NotStopped`](Error::NotStopped) |
    /// | [`Unknown`](ErrorDelivery::Unknown) | [`OutcomeUnknown`](Error::OutcomeUnknown), [`Exited`](Error::Exited), [`Overrun`](Error::Overrun), [`NotCollected`](Error::NotCollected), [`Stopped`](Error::Stopped) |
    /// | depends on the request | [`Timeout`](Error::Timeout): `NotSent` if no plugin was connected, or an earlier request took the time; [`Message`](Error::Message): `NotSent` if a value could not be encoded, `Answered` if the answer could not be decoded; [`Transport`](Error::Transport), [`Shortage`](Error::Shortage) |
    ///
    /// Where it is not known that nothing was sent, the delivery is `Unknown`.
    pub fn delivery(&self) -> ErrorDelivery {
        match self {
            Self::Shortage { what, .. }
            | Self::System { what, .. }
            | Self::Transport { what, .. }
            | Self::Message { what, .. }
            | Self::Timeout { what, .. } => what.delivery(),
            Self::Folder { .. }
            | Self::NoManifest { .. }
            | Self::Manifest { .. }
            | Self::DuplicatePlugin { .. }
            | Self::DuplicateSymbol { .. }
            | Self::NoSuchSymbol { .. }
            | Self::NoSuchPlugin(_)
            | Self::Executable { .. }
            | Self::ProgramNotFound { .. }
            | Self::Environment { .. }
            | Self::Spawn { .. }
            | Self::PluginOption { .. }
            | Self::SocketFolder { .. }
            | Self::UnknownTransport { .. }
            | Self::InUse { .. }
            | Self::NotServed { .. }
            | Self::EarlyExit { .. }
            | Self::NoHandshake { .. }
            | Self::Garbage { .. }
            | Self::NotPoolable { .. }
            | Self::Expired { .. }
            | Self::QueueFull { .. }
            | Self::NoColumns { .. }
            | Self::Away { .. }
            | Self::Stopping { .. }
            | Self::Updating { .. }
            | Self::Update { .. }
            | Self::MissingSymbols { .. }
            | Self::TrialEnded { .. }
            | Self::Broken { .. }
            | Self::Replaced { .. }
            | Self::NotRestored { .. }
            | Self::SinkBroken { .. }
            | Self::Config { .. } => ErrorDelivery::NotSent,
            Self::Refused { .. }
            | Self::Function { .. }
            | Self::Source { .. }
            | Self::Sink { .. }
            | Self::NotStopped { .. } => ErrorDelivery::Answered,
            Self::OutcomeUnknown { .. }
            | Self::Exited { .. }
            | Self::Overrun { .. }
            | Self::NotCollected { .. }
            | Self::Stopped => ErrorDelivery::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Subject;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_request_s_error_says_what_it_was_about_and_whether_it_was_sent() {
        let what = Subject::from("the exec of function f").about("p", Some("f"));
        let timeout = |what| Error::Timeout { plugin: "p".into(), what, after: Duration::ZERO };
        let late = timeout(what.clone());
        assert_eq!((late.plugin(), late.symbol(), late.delivery()), (Some("p"), Some("f"), ErrorDelivery::Unknown));
        assert_eq!(timeout(what.clone().not_sent()).delivery(), ErrorDelivery::NotSent);
        let undecodable = Error::Message { what: what.answered(), source: ekuiper_core::Error::MissingContext.into() };
        assert_eq!((undecodable.plugin(), undecodable.delivery()), (Some("p"), ErrorDelivery::Answered));
        let manifest = Error::Manifest {
            path: "plugins/q/q.json".into(),
            source: Box::<dyn std::error::Error + Send + Sync>::from("x").into(),
        };
        assert_eq!((manifest.plugin(), manifest.symbol()), (Some("q"), None));
        assert_eq!(Error::Stopped.plugin(), None);
    }

    #[test]
    fn a_copy_of_an_error_shares_its_cause() {
        let source = std::sync::Arc::new(std::io::Error::other("no"));
        let error = Error::Folder { path: "x".into(), source: source.clone() };
        let copy = error.clone();
        assert_eq!((copy.kind(), copy.to_string()), (error.kind(), error.to_string()));
        assert_eq!(std::sync::Arc::strong_count(&source), 3);
    }
}
