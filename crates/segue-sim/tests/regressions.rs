//! Schedules in which a property once failed, cut down and named. Each runs with every property
//! checked; where a line shows the cure, it is looked for.

#![forbid(unsafe_code)]

use std::time::Duration;

use segue_core::{AddressKind, Distribution, ExitStatus, Intensity, ReadyRules};
use segue_sim::{OnStop, Plan, Prepare, Release, Request, Script, Step, run};

/// Runs a plan and looks for lines that end like these, in this order.
fn check(plan: &Plan, lines: &[&str]) {
    let report = match run(plan, true) {
        Ok(report) => report,
        Err(violation) => panic!("{}", violation.trace.join("\n")),
    };
    let mut trace = report.trace.iter();
    for line in lines {
        assert!(
            trace.any(|seen| seen.ends_with(line)),
            "no line (any more) ends in {line:?}:\n{}",
            report.trace.join("\n")
        );
    }
}

fn by_message(workers: u32, releases: Vec<Release>) -> Plan {
    let mut plan = Plan::calm(workers, releases);
    plan.settings.ready = ReadyRules::MESSAGE;
    plan.settings.ready_timeout = Duration::from_secs(3);
    plan
}

#[test]
fn the_start_is_answered_when_a_stop_comes_after_a_first_failed_boot() {
    let broken = Script::listening(300, &[]).then(400, Step::Exit(ExitStatus::Code(1)));
    let slow = Script::listening(2_000, &[0]);
    let plan = Plan::calm(2, vec![Release::of(vec![broken, slow])]).at(1.0, Request::Kill);
    check(&plan, &["Reply request 1, outcome Refused(Stopping)"]);
}

#[test]
fn a_reload_that_waits_is_answered_when_the_first_release_cannot_be_resolved() {
    let hanging = Release {
        prepare: Prepare::Hangs,
        listen: Vec::new(),
        scripts: vec![Script::listening(300, &[0])],
    };
    let plan = Plan::calm(1, vec![hanging]).at(0.4, Request::Reload);
    check(&plan, &["Reply request 2, outcome Refused(Stopping)"]);
}

#[test]
fn a_question_that_comes_during_the_cut_over_is_answered() {
    let old = Script::listening(300, &[1]);
    let new = Script::listening(300, &[0, 1]);
    let mut plan = Plan::calm(1, vec![Release::of(vec![old]), Release::of(vec![new])])
        .at(5.0, Request::Reload);
    plan.settings.min_uptime = Duration::ZERO;
    plan.places = vec![AddressKind::Single; 2];
    check(
        &plan,
        &[
            "ReloadStep reload 1, step CuttingOver, took 2ms",
            "Give worker 2, ask 2, socket address 0, index 0",
        ],
    );
}

#[test]
fn the_second_of_two_held_questions_is_answered() {
    let mut script = Script::listening(300, &[0])
        .then(400, Step::Ask(0))
        .then(1_500, Step::SayReady);
    script.minds_denial = false;
    let mut plan = by_message(1, vec![Release::of(vec![script])]).at(10.0, Request::Reload);
    plan.places = vec![AddressKind::Single];
    check(
        &plan,
        &[
            "Give worker 2, ask 3, socket address 0, index 0",
            "Deny worker 2, ask 4, errno 98",
        ],
    );
}

#[test]
fn an_address_is_not_given_up_in_the_step_in_which_its_slot_is_filled() {
    let crashing = Script::listening(300, &[1]).then(302, Step::Exit(ExitStatus::Signal(11)));
    let slow = Script::listening(900, &[0]);
    let mut plan = Plan::calm(2, vec![Release::of(vec![slow, crashing])]).at(1.5, Request::Stop);
    plan.places = vec![AddressKind::Steered, AddressKind::Single];
    plan.settings.intensity = Intensity {
        restarts: 3,
        within: Duration::from_secs(60),
    };
    check(&plan, &[]);
}

#[test]
fn a_worker_that_leaves_before_it_was_ready_is_handed_nothing() {
    let mute = Script::listening(229, &[0]);
    let plan = by_message(3, vec![Release::of(vec![mute])])
        .at(0.3, Request::Connect(0))
        .at(2.0, Request::Scale(segue_core::Scale::To(2)));
    check(&plan, &["WorkerLeaving worker 3, slot 2, why ScaledDown"]);
}

#[test]
fn a_parked_queue_is_not_given_to_a_worker_that_is_not_ready() {
    let crashing = Script::listening(560, &[0])
        .then(1_900, Step::SayReady)
        .then(1_901, Step::Exit(ExitStatus::Code(0)));
    let plan = by_message(1, vec![Release::of(vec![crashing])])
        .at(1.0, Request::Connect(0))
        .at(10.0, Request::Connect(0));
    check(&plan, &["connection 0 reset"]);
}

#[test]
fn a_stop_hurries_a_worker_without_a_channel() {
    let mut stubborn = Script::listening(300, &[0]).then(2_000, Step::CloseChannel);
    stubborn.on_stop = OnStop::Ignores;
    let good = Script::listening(300, &[0]);
    let plan = Plan::calm(1, vec![Release::of(vec![stubborn, good])]).at(10.0, Request::Stop);
    check(
        &plan,
        &[
            "Signal worker 1, signal Stop",
            "Signal worker 1, signal Kill",
        ],
    );
}

#[test]
fn handshakes_after_the_settling_began_keep_a_socket_from_the_unproven() {
    // The only worker loses its channel: it becomes quiet and stays in the set until its
    // successor is ready, so that handshakes begin at its socket that nobody has noted.
    let script = Script::listening(300, &[0])
        .then(400, Step::SayReady)
        .then(3_000, Step::CloseChannel);
    let mut plan = by_message(1, vec![Release::of(vec![script])]);
    plan.settings.settle = Duration::from_millis(100);
    plan.settings.min_uptime = Duration::ZERO;
    plan.settings.distribution = Distribution::Spread;
    plan.faults.late_handshakes = 300;
    plan.load = 100;
    plan.horizon = 10_000;
    for seed in 0..400 {
        plan.seed = seed;
        // A new worker asks when the first one's socket has just been given back.
        plan.requests = vec![(5_000 + 10 * seed, Request::Reload)];
        check(&plan, &[]);
    }
}

#[test]
fn nobody_waits_for_a_worker_that_will_not_listen_any_more() {
    let script = Script::listening(200, &[0])
        .then(400, Step::Ask(1))
        .then(400, Step::CloseChannel);
    let mut plan = Plan::calm(1, vec![Release::of(vec![script])]).at(0.45, Request::Connect(1));
    plan.places = vec![AddressKind::Steered; 2];
    plan.settings.ready = ReadyRules::ALIVE;
    plan.settings.ready_timeout = Duration::from_secs(3);
    plan.horizon = 1_000;
    check(&plan, &["AddressUnserved address 1", "how Reset"]);
}
