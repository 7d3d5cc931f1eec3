//! Installing, updating and removing eKuiper portable plugins.
//!
//! A [`Manager`] keeps plugins in a folder and runs them with a
//! [`Host`](ekuiper_host::Host). [`archive`] reads and writes their package, the
//! zip that eKuiper installs.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod archive;
mod audit;
mod beneath;
pub mod bounded;
mod changes;
mod checksum;
#[cfg(feature = "rest")]
mod ending;
mod error;
#[cfg(feature = "rest")]
mod functions;
#[cfg(feature = "rest")]
mod logs;
mod manager;
mod origin;
#[cfg(feature = "rest")]
pub mod rest;
mod scratch;
pub mod script;
pub mod settings;
mod store;
#[cfg(feature = "https")]
pub mod tls;
mod unpacked;
#[cfg(feature = "rest")]
mod uploads;

pub use error::{Error, Result};
pub use manager::{InstallOptions, Manager, ManagerBuilder, Users};
pub use origin::Origin;
pub use scratch::Scratch;
pub use unpacked::Unpacked;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
