//! The native half of the Python module `ekuiper`: the SDK's symbols around
//! Python objects. The other half, with the classes that authors see, is in
//! `ekuiper/`.
//!
//! `plugin` serves an engine; `source`, `sink` and `function` call the objects,
//! on threads that `thread` creates by Python's `threading`; `context` has the
//! objects' connection to the engine; `value` converts, and `column` does for
//! columns; `signature` is a plain function as a symbol, and `rows` one as a
//! sink; `fault` turns exceptions into errors; `testing` runs symbols without an
//! engine.

mod column;
mod context;
mod fault;
mod function;
mod plugin;
mod rows;
mod signature;
mod sink;
mod source;
mod testing;
mod thread;
mod value;

use pyo3::prelude::*;

/// The module `ekuiper._ekuiper`.
#[pymodule]
mod _ekuiper {
    #[pymodule_export]
    use crate::column::{Column, Values};
    #[pymodule_export]
    use crate::context::{CurrentCall, SinkAcks, SourceEmitter, StopHook, Stopped};
    #[pymodule_export]
    use crate::plugin::run;
    #[pymodule_export]
    use crate::rows::RowTaker;
    #[pymodule_export]
    use crate::signature::{ArgumentError, Signature, check};
    #[pymodule_export]
    use crate::testing::{FunctionTest, SinkTest, SourceTest, SymbolError};
    #[pymodule_export]
    use crate::thread::forked;
    #[pymodule_export]
    use crate::value::{dumps, loads};
}
