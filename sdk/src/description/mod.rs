//! What a plugin says about itself: the types of its descriptions, and what the
//! SDK finds out from types.
//!
//! `trace` finds the types of a closure's arguments, `type_name` that of its
//! result, and `describe` is what authors add.

mod describe;
#[cfg(feature = "schemars")]
mod schema;
mod trace;
mod type_name;

pub(crate) use describe::Declared;
pub use describe::{ByDescription, Described, describe};
pub use ekuiper_core::description::{
    ConfigFields, DataType, Description, EngineFile, Field, FunctionDescription, Sdk, SinkDescription,
    SourceDescription, Volatility,
};
pub use ekuiper_core::manifest::{Language, Manifest};
#[cfg(feature = "schemars")]
pub use schema::config_of;
pub(crate) use trace::traced;
pub(crate) use type_name::of_type_name;
