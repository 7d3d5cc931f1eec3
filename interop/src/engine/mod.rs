//! A real, stock eKuiper for tests and measurements: the engine and its REST
//! interface, its processes, and the plugins that it installs.

pub mod kuiperd;
pub mod package;
pub mod process;
