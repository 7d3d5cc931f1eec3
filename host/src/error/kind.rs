//! What kind an error is of, without what it carries.

use super::Error;

macro_rules! kinds {
    ($($name:ident)*) => {
        /// The kind of an [`Error`], one for each of its variants: for engines that
        /// match on errors, count them or pass them on. An error that several callers
        /// share ([`Error::Shared`]) is of the kind of the original.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $(
                #[doc = concat!("See [`Error::", stringify!($name), "`].")]
                $name,
            )*
        }

        impl Error {
            /// Returns the kind of this error.
            pub fn kind(&self) -> ErrorKind {
                match self {
                    $(Self::$name { .. } => ErrorKind::$name,)*
                    Self::Shared { kind, .. } => *kind,
                }
            }
        }
    };
}

kinds! {
    Folder
    NoManifest
    Manifest
    DuplicatePlugin
    DuplicateSymbol
    NoSuchSymbol
    NoSuchPlugin
    Executable
    ProgramNotFound
    Environment
    Spawn
    Shortage
    System
    SocketFolder
    UnknownTransport
    Transport
    Message
    InUse
    NotServed
    EarlyExit
    NoHandshake
    Garbage
    Refused
    Timeout
    OutcomeUnknown
    Exited
    Away
    Updating
    Update
    MissingSymbols
    TrialEnded
    Broken
    Replaced
    NotRestored
    Function
    Source
    Overrun
    Sink
    NotCollected
    NotStopped
    SinkBroken
    Config
    Stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_for_another_caller_keeps_its_kind() {
        let missing = || Error::MissingSymbols { plugin: "p".into(), symbols: "sink k".into() };
        let shared = missing().for_another_caller();
        assert!(matches!(shared, Error::Shared { .. }), "{shared}");
        assert_eq!([shared.kind(), shared.for_another_caller().kind()], [ErrorKind::MissingSymbols; 2]);
        assert_eq!(shared.to_string(), missing().to_string());
        assert_eq!(Error::Stopped.kind(), ErrorKind::Stopped);
    }
}
