//! Tests of exceptions for cases that a transport cannot pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ekuiper_conformance::{Exception, Suite};
use ekuiper_transport_uds::UdsTransport;

fn suite(exception: Exception) -> Suite {
    Suite::new(Arc::new(UdsTransport::new()), module_path!(), vec![("case_00_excepted", exception)])
}

#[test]
fn a_case_is_run() {
    static RUN: AtomicBool = AtomicBool::new(false);
    suite(Exception::skip("another one")).run("case_00_other", |_| RUN.store(true, Ordering::SeqCst));
    assert!(RUN.load(Ordering::SeqCst));
}

#[test]
#[should_panic(expected = "it fails")]
fn a_case_that_fails_is_a_failure() {
    suite(Exception::skip("another one")).run("case_00_other", |_| panic!("it fails"));
}

#[test]
fn a_skipped_case_is_not_run() {
    suite(Exception::skip("it cannot")).run("case_00_excepted", |_| panic!("it was run"));
}

#[test]
fn an_observed_case_is_run_in_its_other_form() {
    static RUN: AtomicBool = AtomicBool::new(false);
    let observed = Exception::observed("it does otherwise", |_| RUN.store(true, Ordering::SeqCst));
    suite(observed).run("case_00_excepted", |_| panic!("the case itself was run"));
    assert!(RUN.load(Ordering::SeqCst));
}

#[test]
#[should_panic(expected = "there is no case case_00_excepted")]
fn an_exception_from_no_case_is_an_error() {
    suite(Exception::skip("it cannot")).check_exceptions(&["case_00_other"]);
}
