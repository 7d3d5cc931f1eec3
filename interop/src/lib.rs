//! What the interop tests have in common: finding the tools, talking to the
//! peers, making plugins, and never hanging.
//!
//! The tests in `tests/` are the matrix; their names are its cells. `wire_*`:
//! our SP transports against libnng and mangos. `official_python`: our host and
//! the official Python SDK. `our_host`: our host and our SDK. `our_plugin`: our
//! SDK under hosts on libnng and mangos that go as eKuiper goes.

// The whole crate is tests: a failed `unwrap` is a failed test.
#![allow(clippy::unwrap_used)]

pub mod allocations;
pub mod columns;
pub mod engine;
pub mod guard;
pub mod managed;
pub mod packages;
pub mod peer;
pub mod plugins;
pub mod random;
pub mod runtimes;
pub mod tools;
pub mod wire;

/// Runs each function once per transport of ours, as a test in a module that
/// is named for the transport. A function takes the transport's name.
#[macro_export]
macro_rules! over_each_transport {
    ($($name:ident),* $(,)?) => {
        mod over_uds {
            $( #[test] fn $name() { super::$name("uds"); } )*
        }
        #[cfg(feature = "nng")]
        mod over_nng {
            $( #[test] fn $name() { super::$name("nng"); } )*
        }
    };
}

/// The same, and over the transports that only our host and our SDK have.
#[macro_export]
macro_rules! over_each_transport_of_ours {
    ($($name:ident),* $(,)?) => {
        $crate::over_each_transport! { $($name),* }
        #[cfg(feature = "zeromq")]
        mod over_zeromq {
            $( #[test] fn $name() { super::$name("zeromq"); } )*
        }
        #[cfg(feature = "shm")]
        mod over_shm {
            $( #[test] fn $name() { super::$name("shm"); } )*
        }
    };
}

/// Runs each function once per library of the peer, as a test in a module that
/// is named for it. A function takes a [`peer::Peer`].
#[macro_export]
macro_rules! with_each_host {
    ($($name:ident),* $(,)?) => {
        mod with_a_libnng_host {
            $( #[test] fn $name() { $crate::peer::Library::Libnng.start().into_iter().for_each(super::$name); } )*
        }
        mod with_a_mangos_host {
            $( #[test] fn $name() { $crate::peer::Library::Mangos.start().into_iter().for_each(super::$name); } )*
        }
    };
}

/// Runs each function once per transport of ours and library of the peer, as a
/// test in a module that is named for both. A function takes a [`wire::Case`].
#[macro_export]
macro_rules! on_every_wire {
    ($($name:ident),* $(,)?) => {
        mod uds_with_libnng {
            $( #[test] fn $name() { $crate::wire::run("uds", $crate::peer::Library::Libnng, super::$name); } )*
        }
        mod uds_with_mangos {
            $( #[test] fn $name() { $crate::wire::run("uds", $crate::peer::Library::Mangos, super::$name); } )*
        }
        #[cfg(feature = "nng")]
        mod nng_with_libnng {
            $( #[test] fn $name() { $crate::wire::run("nng", $crate::peer::Library::Libnng, super::$name); } )*
        }
        #[cfg(feature = "nng")]
        mod nng_with_mangos {
            $( #[test] fn $name() { $crate::wire::run("nng", $crate::peer::Library::Mangos, super::$name); } )*
        }
    };
}
