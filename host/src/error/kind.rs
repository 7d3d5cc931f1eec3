//! What kind an error is of, without what it carries.

use serde::Serialize;

use super::Error;

macro_rules! kinds {
    ($($name:ident)*) => {
        /// The kind of an [`Error`], one for each of its variants: for engines that
        /// match on errors, count them or pass them on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
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
    PluginOption
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
    NotPoolable
    Refused
    Timeout
    Expired
    QueueFull
    NoColumns
    OutcomeUnknown
    Exited
    Away
    Stopping
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
