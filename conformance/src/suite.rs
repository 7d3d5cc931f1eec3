//! The list of all cases, and the macros that turn them into tests.

use std::io::Write;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ekuiper_core::transport::Transport;

use crate::{Exception, Fixture};

/// A case; panics when it fails.
pub type Case = fn(&Fixture);

/// Maximum time of a case, without the time of a stress test: the slowest one
/// waits for ten seconds several times.
const WATCHDOG: Duration = Duration::from_secs(120);

/// The suite of one transport; created by `sp_suite!` and `contract_suite!`.
pub struct Suite {
    transport: Arc<dyn Transport>,
    /// The module that contains the tests.
    module: &'static str,
    exceptions: Vec<(&'static str, Exception)>,
}

impl Suite {
    #[doc(hidden)]
    pub fn new(
        transport: Arc<dyn Transport>,
        module: &'static str,
        exceptions: Vec<(&'static str, Exception)>,
    ) -> Self {
        Self { transport, module, exceptions }
    }

    /// Runs a case, or its exception.
    ///
    /// # Panics
    /// The case fails or hangs.
    pub fn run(self, name: &'static str, case: Case) {
        let exception = self.exceptions.iter().find(|(excepted, _)| *excepted == name).map(|(_, exception)| *exception);
        let case = match exception {
            None => case,
            Some(exception) => {
                let what = if exception.instead.is_some() { "another form" } else { "SKIPPED" };
                // Not `eprintln`, which the test harness captures.
                let _ = writeln!(std::io::stderr(), "{}: {name}: {what}: {}", self.transport.name(), exception.reason);
                match exception.instead {
                    Some(instead) => instead,
                    None => return,
                }
            }
        };
        // The harness identifies tests by their path within the crate.
        let test = match self.module.split_once("::") {
            Some((_, module)) => format!("{module}::{name}"),
            None => name.to_owned(),
        };
        let (done, outcome) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _done = done;
            case(&Fixture::new(self.transport, test));
        });
        let watchdog = WATCHDOG + crate::stress::length();
        match outcome.recv_timeout(watchdog) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name} hangs: it has not ended within {watchdog:?}"),
            _ => {
                if let Err(panic) = thread.unwrap().join() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    #[doc(hidden)]
    pub fn check_exceptions(&self, cases: &[&str]) {
        for (name, _) in &self.exceptions {
            assert!(cases.contains(name), "there is no case {name} to make an exception of");
        }
    }
}

/// Instantiates every case, for a transport that speaks SP over Unix sockets.
///
/// ```ignore
/// sp_suite!(UdsTransport::new());
/// sp_suite!(NngTransport::new(), exceptions = [
///     case_29_a_regular_file_is_left_alone: Exception::skip("libnng removes whatever is there"),
/// ]);
/// ```
#[macro_export]
macro_rules! sp_suite {
    ($transport:expr $(, exceptions = [$($name:ident: $exception:expr),* $(,)?])? $(,)?) => {
        $crate::__wire_cases! { [$transport] [$($($name: $exception),*)?] }
    };
}

/// Instantiates the cases that use the contract alone, for any transport; see
/// [`sp_suite!`].
#[macro_export]
macro_rules! contract_suite {
    ($transport:expr $(, exceptions = [$($name:ident: $exception:expr),* $(,)?])? $(,)?) => {
        $crate::__contract_cases! { [$transport] [$($($name: $exception),*)?] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __instantiate {
    ([$transport:expr] [$($name:ident: $exception:expr),*] $($part:ident::$file:ident { $($case:ident)* })*) => {
        fn __conformance() -> $crate::Suite {
            let exceptions = ::std::vec![$((::core::stringify!($name), $exception)),*];
            $crate::Suite::new(::std::sync::Arc::new($transport), ::core::module_path!(), exceptions)
        }

        #[test]
        fn exceptions_name_existing_cases() {
            __conformance().check_exceptions(&[$($(::core::stringify!($case)),*),*]);
        }

        $($(
            #[test]
            fn $case() {
                __conformance().run(::core::stringify!($case), $crate::$part::$file::$case);
            }
        )*)*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __contract_cases {
    ($transport:tt $exceptions:tt $($more:tt)*) => {
        $crate::__instantiate! { $transport $exceptions
            contract::addresses {
                case_29_a_stale_file_is_taken_over
                case_29_a_live_listener_is_left_alone
                case_29_a_regular_file_is_left_alone
                case_29_a_replaced_file_is_kept
                addresses_are_free_after_closing
                addresses_are_taken_over_by_one
                addresses_are_private
                addresses_of_every_length
                addresses_that_cannot_be
            }
            contract::closing {
                closing_ends_waits_for_peers
                closing_ends_waits_for_silent_peers
                closing_ends_waits_for_readers
                closing_is_for_good
                finishing_ends_waits
                finishing_loses_nothing
                stopping_to_listen_frees_the_address
                closing_is_seen_by_peers
                closing_amid_traffic
            }
            contract::deadlines {
                deadlines_end_every_wait_for_a_peer
                deadlines_are_not_early
                deadlines_in_the_past_take_what_is_there
                deadlines_in_the_past_answer_each_peer
                deadlines_end_waits_for_silent_peers
                deadlines_end_waits_for_readers
                deadlines_end_the_sending_of_long_messages
                deadlines_end_the_sending_of_long_requests_and_replies
                deadlines_hold_after_a_peer_left_in_a_message
            }
            contract::delivery {
                delivery_of_every_length
                delivery_to_a_dialler
                delivery_keeps_the_order
                delivery_from_several_threads
                delivery_from_several_peers
                delivery_of_requests_and_replies
            }
            contract::events {
                events_frame_the_messages
                events_frame_the_requests
                events_replace_what_the_buffer_holds
                events_tell_peers_apart
                events_tell_of_visits
            }
            contract::limits {
                limits_hold_at_the_sender
                limits_hold_at_the_receiver
                limits_of_requests
                limits_of_replies
                limits_may_be_absent
            }
            contract::misuse {
                misuse_by_a_second_receiver
                misuse_by_a_second_receiver_of_a_reply
                misuse_of_foreign_tickets
                misuse_of_foreign_connections
            }
            contract::posting {
                posting_keeps_the_order
                posting_under_load
                posting_from_several_threads
                posting_all_of_them
                posting_all_before_a_failure
                posting_needs_no_dispatch
                posting_and_dispatching
                posting_and_merging
                posting_and_closing
                posting_ends_with_the_closing
                posting_to_who_does_not_read
                posting_without_a_peer
                posting_what_is_too_long
                posting_to_the_next_peer
            }
            contract::pressure {
                pressure_drops_nothing
                pressure_slows_the_sender_down
                pressure_and_flush
                pressure_of_one_peer_is_not_the_others
                fairness_between_peers
            }
            contract::readiness {
                readiness_misses_no_message
                readiness_misses_no_request
                readiness_outlasts_other_receives
                readiness_disturbs_no_receiver
            }
            contract::reconnect {
                case_30_a_listener_that_restarts
                case_30_a_listener_that_is_killed
                case_30_a_dialler_that_is_killed
                reconnect_finds_late_listeners
                reconnect_needs_no_receiver
                reconnect_repeats_no_request
            }
            contract::resources {
                resources_are_given_back
                resources_of_failed_attempts
                resources_that_run_out
            }
            contract::strangers {
                strangers_are_not_heard
                strangers_get_no_messages
                strangers_are_not_dialled
                admission_is_optional_and_asked_at_once
                askers_are_known
                connections_have_a_limit
                connections_that_speak_stay
            }
            contract::tickets {
                tickets_are_for_one_answer
                tickets_are_for_one_thread
                tickets_are_superseded
                tickets_of_several_peers
                tickets_end_with_their_connection
                tickets_do_not_mix_replies
            }
            stress::messages {
                stress_of_pushes_that_dial
                stress_of_pushes_that_listen
            }
            stress::requests {
                stress_of_requests_and_replies
            }
            $($more)*
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __wire_cases {
    ($transport:tt $exceptions:tt) => {
        $crate::__contract_cases! { $transport $exceptions
            wire::files {
                files_in_a_folder_that_is_locked
                files_in_a_shared_folder_are_taken_over_by_one
            }
            wire::frames {
                case_05_header_and_frame_in_one_write
                case_06_one_byte_writes
                frames_are_the_documented_bytes
                case_09_frame_types
                case_10_absurd_lengths
                case_10_absurd_lengths_without_a_limit
                case_11_a_claim_costs_no_memory
                case_12_maximum_and_one_more
                case_13_truncated_frames
                case_14_a_stall_within_a_message
                case_14_a_stalled_reader
                case_14_a_stalled_reader_and_a_short_deadline
                case_15_empty_messages
                beginnings_share_a_budget
            }
            wire::header {
                case_01_header_of_each_listener
                case_01_header_of_each_dialler
                case_02_bad_headers_are_refused
                case_02_a_dialler_hangs_up_and_tries_again
                case_03_wrong_roles_are_refused
                case_04_http_is_refused
                case_07_no_header
                case_07_no_header_from_a_listener
                case_08_a_dripping_header
                case_07_no_header_while_nobody_receives
            }
            wire::listener {
                closing_hangs_up_on_who_waits
                crowds_of_silent_visitors
                crowds_that_nobody_looks_at
            }
            wire::pipeline {
                case_26_a_late_peer
                case_26_a_late_dialler
                case_27_two_peers_get_five_each
                case_27_a_peer_that_comes_later_gets_its_share
                case_28_a_flooder_and_a_trickle
                case_28_who_comes_during_a_flood_is_let_in
            }
            wire::reply {
                case_16_malformed_requests
                case_17_eight_and_nine_words
                case_18_the_backtrace_comes_back
                oversize_requests_are_skipped
                floods_of_dropped_requests_do_not_matter
                case_22_answers_without_a_request
                case_23_two_requests_one_answer
                answers_do_not_mix
                a_requester_that_does_not_read
            }
            wire::request {
                case_19_unknown_late_and_duplicate_replies
                floods_of_dropped_replies_do_not_matter
                case_20_a_second_request_cancels_the_first
                case_21_receiving_without_a_request
                case_24_a_silent_peer_is_asked_again
                case_24_without_the_option_it_is_asked_once
                case_25_disconnect_with_retry
                case_25_disconnect_without_retry
                reply_lengths
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// A case that no suite contains would prove nothing.
    #[test]
    fn every_case_is_in_the_list() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let list = std::fs::read_to_string(source.join("suite.rs")).unwrap();
        for part in ["contract", "stress", "wire"] {
            for file in std::fs::read_dir(source.join(part)).unwrap() {
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                let cases =
                    text.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split_once('(')).map(|(name, _)| name);
                for case in cases {
                    assert!(list.lines().any(|line| line.trim() == case), "{case} is not in suite.rs");
                }
            }
        }
    }
}
