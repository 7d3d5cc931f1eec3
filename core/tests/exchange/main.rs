//! Property tests of both ends of the conversation under arbitrary
//! interleavings: several process generations and connections, rivals and
//! strangers, disconnects, late and repeated answers, keepalives, restarts,
//! commands that time out and sends that fail. No I/O and no time; see
//! [`world`] for the model.

#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod host;
mod plugin;
mod wire;
mod world;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use world::{Reached, Step, World};

/// Number of cases per property, unless `PROPTEST_CASES` is set.
const CASES: u32 = 1000;

/// Mostly steps that advance a conversation, sometimes steps that disturb it.
fn step() -> impl Strategy<Value = Step> {
    let n = any::<u8>;
    prop_oneof![
        20 => n().prop_map(Step::Run),
        20 => n().prop_map(Step::Arrive),
        20 => Just(Step::Tend),
        12 => Just(Step::Call),
        3 => Just(Step::GiveUp),
        4 => n().prop_map(Step::Keepalive),
        4 => n().prop_map(Step::Repeat),
        2 => any::<bool>().prop_map(|official| Step::Spawn { official }),
        2 => (n(), any::<bool>()).prop_map(|(process, lose)| Step::Kill { process, lose }),
        2 => (n(), any::<bool>()).prop_map(|(process, lose)| Step::Break { process, lose }),
        2 => (n(), 0usize..4).prop_map(|(stranger, words)| Step::Stranger { stranger, words }),
        1 => n().prop_map(Step::StrangerLeaves),
        1 => Just(Step::FailNextSend),
    ]
}

fn check(property: impl Fn(&mut World)) {
    let config = Config { failure_persistence: None, cases: CASES, max_shrink_iters: 4000, ..Config::default() };
    let config = Config { cases: std::env::var("PROPTEST_CASES").map_or(CASES, |_| Config::default().cases), ..config };
    let script = (any::<bool>(), any::<bool>(), prop::collection::vec(step(), 0..150));
    TestRunner::new(config)
        .run(&script, |(reads_ahead, official, steps)| {
            let mut world = World::new(reads_ahead);
            world.apply(Step::Spawn { official });
            for step in steps {
                world.apply(step);
            }
            property(&mut world);
            Ok(())
        })
        .unwrap();
}

/// An answer is never attributed to another command; a command is executed at
/// most once, and never if it is reported as not sent; a command whose
/// connection ends is reported as unknown. The world checks all this at every
/// step.
#[test]
fn answers_are_never_confused_and_nothing_is_executed_twice() {
    let reached = RefCell::new(Reached::default());
    check(|world| {
        world.let_everything_arrive();
        reached.borrow_mut().add(&world.reached);
    });
    // A property about steps that never occur would prove nothing.
    reached.into_inner().assert_all();
}

/// From any state, the next command is answered once every process continues.
#[test]
fn the_machine_is_never_stuck_while_a_good_peer_is_there() {
    check(|world| {
        world.let_everything_arrive();
        world.must_answer_a_command();
    });
}

/// From any state, a new process serves the channel after all others have died.
#[test]
fn a_new_process_takes_over_from_all_that_died() {
    check(|world| {
        world.kill_everybody();
        world.apply(Step::Spawn { official: false });
        world.must_answer_a_command();
    });
}
