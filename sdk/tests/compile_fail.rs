//! The compiler's errors for a wrong plugin, which use this crate's diagnostics
//! instead of a list of traits.
//!
//! The compiler's own text differs between its versions, so only key sentences
//! are checked: those of this crate's `#[diagnostic::on_unimplemented]`, or the
//! shortest ones of the compiler that state the fault.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::path::Path;
use std::process::Command;

use support::build::{TRANSPORTS, artifacts};

/// Compiles a file of the folder `compile_fail` against this crate, and returns
/// the compiler's errors.
fn compile(file: &str) -> Result<(), String> {
    let features = [&TRANSPORTS[..], &[("arrow", cfg!(feature = "arrow"))]].concat();
    let built = artifacts(&["--lib"], &features);
    let sdk = built.iter().rfind(|artifact| artifact["target"]["name"] == "ekuiper_sdk").unwrap();
    let library = sdk["filenames"].as_array().unwrap().iter().filter_map(|name| name.as_str());
    let library = Path::new(library.into_iter().find(|name| name.ends_with(".rlib")).unwrap());
    let output = tempfile::tempdir().unwrap();
    let compiled = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .args(["--edition=2024", "--emit=metadata", "--color=never"])
        .arg(format!("--extern=ekuiper_sdk={}", library.display()))
        .arg(format!("-Ldependency={}", library.parent().unwrap().join("deps").display()))
        .arg("--out-dir")
        .arg(output.path())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail").join(file))
        .output()
        .unwrap();
    let text = String::from_utf8(compiled.stderr).unwrap();
    if compiled.status.success() { Ok(()) } else { Err(text) }
}

#[track_caller]
fn assert_refused(file: &str, sentences: &[&str]) {
    let text = compile(file).expect_err("it compiles");
    for sentence in sentences {
        assert!(text.contains(sentence), "{sentence:?} is not in:\n{text}");
    }
}

const NOT_A_FUNCTION: &str = "not a function that a plugin can serve";
const ARGUMENTS: &str = "a closure takes up to 12 owned arguments that implement `DeserializeOwned`";
const RESULTS: &str = "`Json(anything that implements Serialize)`";

#[test]
fn what_is_right_compiles() {
    compile("good.rs").unwrap();
}

#[test]
fn a_borrowed_argument() {
    // The compiler judges lifetimes after traits, and in its own words.
    assert_refused("borrowed_argument.rs", &["`&str` must implement", "Deserialize", "for any lifetime"]);
}

#[test]
fn an_argument_that_cannot_be_read() {
    assert_refused("unreadable_argument.rs", &["cannot be a plugin's function", NOT_A_FUNCTION, ARGUMENTS]);
}

#[test]
fn a_result_that_cannot_be_written() {
    assert_refused("unwritable_result.rs", &["cannot be a plugin's function", NOT_A_FUNCTION, RESULTS]);
}

#[test]
fn a_context_that_is_not_the_last() {
    let context = "after these it may take `ctx: &FunctionContext`";
    assert_refused("context_first.rs", &["cannot be a plugin's function", NOT_A_FUNCTION, context]);
}

#[test]
fn too_many_arguments() {
    assert_refused("too_many_arguments.rs", &["cannot be a plugin's function", NOT_A_FUNCTION, ARGUMENTS]);
}

#[test]
fn a_value() {
    assert_refused("not_a_function.rs", &["`{integer}` cannot be a plugin's function", NOT_A_FUNCTION, ARGUMENTS]);
}

#[test]
fn a_closure_that_cannot_be_sent() {
    assert_refused("not_send.rs", &["`Rc<i32>` cannot be sent between threads safely"]);
}

/// What the compiler says about wrong columnar functions.
#[cfg(feature = "arrow")]
mod columnar {
    use super::*;

    const NOT_COLUMNAR: &str = "not a function of columns that a plugin can serve";

    #[test]
    fn what_is_right_compiles() {
        compile("columnar_good.rs").unwrap();
    }

    #[test]
    fn a_function_of_values() {
        let advice = "a closure of single values, such as `|x: f64| …`, is added by `function`";
        assert_refused("columnar_value.rs", &["cannot be a plugin's columnar function", NOT_COLUMNAR, advice]);
    }

    #[test]
    fn a_result_that_is_no_array() {
        let result = "and returns an array with a value for each row";
        assert_refused("columnar_result.rs", &["cannot be a plugin's columnar function", NOT_COLUMNAR, result]);
    }
}

#[test]
fn a_source_that_is_none() {
    assert_refused("not_a_source.rs", &["`{integer}` is not a source", "implement `Source` for it"]);
}
