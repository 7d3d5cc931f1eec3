//! Packages of eKuiper portable plugins: the zip that eKuiper installs, read
//! and written. Starting plugins is the host's.

pub mod archive;
mod unpacked;

pub use unpacked::Unpacked;
