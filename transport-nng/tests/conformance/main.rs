//! The conformance suite of all transports, with libnng's exceptions: each one
//! runs in a form that shows the actual behaviour.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod observed;
mod pressure;

use ekuiper_conformance::Exception;
use ekuiper_transport_nng::NngTransport;

ekuiper_conformance::sp_suite!(NngTransport::new(), exceptions = [
    beginnings_share_a_budget: Exception::skip("libnng reserves what a frame claims, for each connection"),
    connections_have_a_limit: Exception::observed(
        "only the new connection can be closed",
        observed::who_comes_beyond_the_limit_has_to_go,
    ),
    case_08_a_dripping_header: Exception::observed(
        "libnng allows 10 s for each piece of a header, not for the whole header",
        observed::each_piece_of_a_header_has_10_s,
    ),
    case_11_a_claim_costs_no_memory: Exception::observed(
        "libnng reserves what a frame claims at once (address space, not memory), and claims of 4 GiB and more are refused",
        observed::a_claim_costs_address_space,
    ),
    case_14_a_stall_within_a_message: Exception::observed(
        "libnng waits for the rest of a message for as long as the connection lives",
        observed::the_rest_of_a_message_is_waited_for,
    ),
    case_14_a_stalled_reader: Exception::observed(
        "libnng waits for a reader for as long as the connection lives",
        |f| pressure::a_stalled_reader_is_waited_for(f, ekuiper_conformance::soon()),
    ),
    case_14_a_stalled_reader_and_a_short_deadline: Exception::observed(
        "libnng waits for a reader for as long as the connection lives",
        |f| pressure::a_stalled_reader_is_waited_for(f, ekuiper_conformance::past()),
    ),
    case_16_malformed_requests: Exception::observed(
        "a peer that libnng disconnects before its connection was reported is not reported at all",
        observed::malformed_requests_may_leave_without_a_word,
    ),
    case_19_unknown_late_and_duplicate_replies: Exception::observed(
        "libnng disconnects a peer whose reply has no id; only replies with another id are dropped",
        observed::replies_without_an_id_end_the_connection,
    ),
    case_27_two_peers_get_five_each: Exception::observed(
        "a peer whose last message libnng is still writing is skipped, and one that connects at the same moment as another must redial",
        observed::peers_that_dial_again_share,
    ),
    case_27_a_peer_that_comes_later_gets_its_share: Exception::observed(
        "a peer whose last message libnng is still writing is skipped, and one that connects at the same moment as another must redial",
        observed::peers_that_dial_again_share,
    ),
    case_28_a_flooder_and_a_trickle: Exception::observed(
        "a peer gets its turn only after libnng's threads have read its message",
        observed::a_trickle_is_heard_beside_a_flood,
    ),
    a_requester_that_does_not_read: Exception::observed(
        "libnng queues 64 answers for a peer that does not read, and drops further ones silently",
        pressure::answers_that_nobody_reads_are_dropped,
    ),
    closing_ends_waits_for_readers: Exception::observed(
        "libnng accepts a message of any length at once, so there is no wait in the middle of one",
        pressure::closing_ends_the_waits_that_there_are,
    ),
    crowds_that_nobody_looks_at: Exception::observed(
        "libnng accepts every peer, whether the socket is used or not, and has no limit on peers that have not sent their header",
        observed::crowds_are_let_in_and_leave_nothing,
    ),
    deadlines_end_the_sending_of_long_messages: Exception::observed(
        "libnng reads one message of any length ahead: the first long one never waits for its reader",
        pressure::deadlines_hold_from_the_second_long_message_on,
    ),
    limits_of_requests: Exception::observed(
        "libnng must receive a whole request to get past it: one that is far too long ends its connection",
        observed::requests_that_are_far_too_long_end_the_connection,
    ),
    stress_of_pushes_that_dial: Exception::observed(
        "a receiving libnng drops what it has not read of a connection that has ended, its listener gets stuck at times, and closed sockets leave descriptors behind",
        ekuiper_conformance::stress::pushes_that_dial,
    ),
    stress_of_pushes_that_listen: Exception::observed(
        "a receiving libnng drops what it has not read of a connection that has ended, its listener gets stuck at times, and closed sockets leave descriptors behind",
        ekuiper_conformance::stress::pushes_that_listen,
    ),
    stress_of_requests_and_replies: Exception::observed(
        "libnng's listener gets stuck at times, the peers that wait behind it are then disconnected, and closed sockets leave descriptors behind",
        ekuiper_conformance::stress::requests_and_replies,
    ),
]);
