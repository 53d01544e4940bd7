//! How a new generation proves itself, and what comes of those that do not: lines that must appear
//! in this order, and who a client reaches in the end.

#![forbid(unsafe_code)]

use std::time::Duration;

use segue_core::{Canary, CanaryChoice, ExitStatus, HealthRule, ReadyRules, Settings, Surge};
use segue_sim::{OnProbe, Plan, Prepare, Release, Request, Script, Step, run};

fn trace(plan: &Plan) -> Vec<String> {
    match run(plan, true) {
        Ok(report) => report.trace,
        Err(violation) => panic!("{}", violation.trace.join("\n")),
    }
}

/// Looks for lines that end like these, in this order.
fn check(plan: &Plan, lines: &[&str]) {
    let trace = trace(plan);
    let mut seen = trace.iter();
    for line in lines {
        assert!(
            seen.any(|seen| seen.ends_with(line)),
            "no line (any more) ends in {line:?}:\n{}",
            trace.join("\n")
        );
    }
}

fn check_absent(plan: &Plan, part: &str) {
    let trace = trace(plan);
    let found = trace.iter().find(|line| line.contains(part));
    assert_eq!(found, None, "{}", trace.join("\n"));
}

fn good() -> Script {
    Script::listening(300, &[0])
}

/// Two workers, a good release, then these.
fn plan(releases: Vec<Release>) -> Plan {
    let mut all = vec![Release::of(vec![good()])];
    all.extend(releases);
    let mut plan = Plan::calm(2, all).at(5.0, Request::Reload);
    plan.settings.ready = ReadyRules::PROBE;
    plan.horizon = 20_000;
    plan
}

fn with(mut plan: Plan, change: impl FnOnce(&mut Settings)) -> Plan {
    change(&mut plan.settings);
    plan
}

fn canary(percent: u8, lasts: u64) -> Canary {
    Canary {
        percent,
        lasts: Duration::from_secs(lasts),
        max_errors: Canary::MAX_ERRORS,
    }
}

#[test]
fn no_worker_gets_a_connection_before_its_probe_has_passed() {
    let slow = Script {
        on_probe: OnProbe::FailsUntil(2_000),
        ..good()
    };
    check(
        &plan(vec![Release::of(vec![slow])]),
        &[
            "Probe worker 3",
            "Probed worker 3, verdict Failed(Status(503))",
            "Probed worker 3, verdict Passed",
            "WorkerReady worker 3, slot 0, took 2.071s",
            "ReloadStep reload 1, step Proving, took 2.072s",
            "Steer address 0, set [(3, 1), (4, 1)]",
            "ReloadCommitted reload 1, generation 2, took 4.074s",
        ],
    );
}

#[test]
fn a_probe_that_never_passes_fails_the_reload() {
    let broken = Script {
        on_probe: OnProbe::FailsFrom(0),
        ..good()
    };
    check(
        &plan(vec![Release::of(vec![broken])]),
        &["cause ProbeFailed failure Status(503), within 30s"],
    );
    let silent = Script {
        on_probe: OnProbe::Hangs,
        ..good()
    };
    check(
        &plan(vec![Release::of(vec![silent])]),
        &["cause ProbeFailed failure TimedOut, within 30s"],
    );
}

#[test]
fn what_goes_wrong_while_it_proves_itself_fails_the_reload() {
    let grows = good().then(1_000, Step::Grow);
    let blocks = good().then(1_000, Step::Block(20_000));
    let sickens = Script {
        on_probe: OnProbe::FailsFrom(1_000),
        ..good()
    };
    for (script, cause) in [
        (grows, "cause OverMemory"),
        (blocks, "cause Unhealthy failure TimedOut"),
        (sickens, "cause Unhealthy failure Status(503)"),
    ] {
        let plan = plan(vec![Release::of(vec![script, good()])]);
        check(&plan, &[cause, "GenerationGone generation 2"]);
        check_absent(&plan, "Steer address 0, set [(3");
    }
    // Without a probe, pings alone tell.
    let blocks = good().then(1_000, Step::Block(20_000));
    let plan = with(plan(vec![Release::of(vec![blocks, good()])]), |settings| {
        settings.ready = ReadyRules::LISTENING;
    });
    check(&plan, &["cause Unresponsive lasted 10s"]);
}

#[test]
fn a_canary_that_does_well_is_followed_by_all() {
    let plan = with(plan(vec![]), |settings| {
        settings.canary = Some(canary(10, 3));
    });
    check(
        &plan,
        &[
            "ReloadStep reload 1, step Canary percent 10, lasts 3s, took 2s",
            "Count worker 1",
            "Count worker 3",
            "Steer address 0, set [(1, 9), (2, 9), (3, 1), (4, 1)]",
            "StopCounting worker 1",
            "StopCounting worker 3",
            "ReloadStep reload 1, step CuttingOver, took 3s",
            "Steer address 0, set [(3, 1), (4, 1)]",
            "WorkerLeaving worker 1, slot 0, why Reload",
            "ReloadCommitted reload 1, generation 2, took 5.31s",
        ],
    );
}

#[test]
fn a_canary_with_errors_is_rolled_back() {
    let failing = Script {
        errors: 500,
        ..good()
    };
    let mut plan = with(plan(vec![Release::of(vec![failing])]), |settings| {
        settings.canary = Some(canary(50, 10));
    });
    plan.load = 20;
    let seen = trace(&plan);
    let failed = seen
        .iter()
        .find(|line| line.contains("cause CanaryErrors new"));
    assert!(failed.is_some(), "{}", seen.join("\n"));
    check(
        &plan,
        &[
            "StopCounting worker 4",
            "WorkerLeaving worker 3, slot 0, why RolledBack",
            "Steer address 0, set [(1, 1), (2, 1)]",
        ],
    );
}

#[test]
fn a_crash_in_the_canary_turns_back() {
    let crashing = good().then(4_000, Step::Exit(ExitStatus::Code(1)));
    let plan = with(
        plan(vec![Release::of(vec![crashing, good()])]),
        |settings| {
            settings.canary = Some(canary(10, 30));
        },
    );
    check(
        &plan,
        &[
            "WorkerFailed worker 3, slot 0, cause ExitedReady status Code(1), after 3.695s",
            "WorkerLeaving worker 4, slot 1, why RolledBack",
            "ReloadFailed reload 1, failure Failure worker Some(3), slot Some(0), cause ExitedReady status Code(1), after 3.695s",
            "Steer address 0, set [(1, 1), (2, 1)]",
        ],
    );
}

#[test]
fn a_canary_is_promoted_or_rolled_back_on_request() {
    let on_trial = |request| {
        let plan = plan(vec![]).at(9.0, request);
        with(plan, |settings| {
            settings.canary = Some(canary(10, 60));
            settings.probation = Duration::from_secs(60);
        })
    };
    check(
        &on_trial(Request::Promote),
        &[
            "PromoteRequested request 3",
            "Steer address 0, set [(3, 1), (4, 1)]",
            "Reply request 2, outcome Reloaded reload 1, generation 2, took 4.001s",
            "Reply request 3, outcome Promoted reload 1, generation 2",
        ],
    );
    check(
        &on_trial(Request::Rollback),
        &[
            "RollbackRequested request 3",
            "Reply request 2, outcome ReloadFailed reload 1, failure Failure worker None, slot None, cause RolledBack",
            "Reply request 3, outcome Abandoned of 1, generation 1",
            "Steer address 0, set [(1, 1), (2, 1)]",
        ],
    );
    let without = plan(vec![]).at(30.0, Request::Promote);
    check(&without, &["outcome Refused(NothingToPromote)"]);
}

#[test]
fn a_request_may_have_its_own_canary() {
    let mut plan = plan(vec![]);
    plan.requests = Vec::new();
    let plan = plan.at(5.0, Request::ReloadWith(CanaryChoice::With(canary(25, 2))));
    check(
        &plan,
        &["Steer address 0, set [(1, 3), (2, 3), (3, 1), (4, 1)]"],
    );
}

#[test]
fn probation_keeps_the_old_ones_to_take_over_again() {
    let crashing = good().then(6_000, Step::Exit(ExitStatus::Code(1)));
    let plan = with(
        plan(vec![Release::of(vec![crashing, good()])]),
        |settings| {
            settings.probation = Duration::from_secs(30);
        },
    );
    check(
        &plan,
        &[
            "Steer address 0, set [(3, 1), (4, 1)]",
            "ReloadStep reload 1, step Probation lasts 30s, took 1ms",
            "worker 3 dies",
            "ReloadFailed reload 1, failure Failure worker Some(3), slot Some(0), cause ExitedReady status Code(1), after 5.695s",
            "Steer address 0, set [(1, 1), (2, 1)]",
        ],
    );
    check_absent(&plan, "WorkerLeaving worker 1, slot 0, why Reload");
}

#[test]
fn the_release_before_can_be_had_back_after_the_commit() {
    check(
        &plan(vec![]).at(60.0, Request::Rollback),
        &[
            "GenerationGone generation 1",
            "RollbackRequested request 3",
            "Prepare generation 3, like Some(1)",
            "Forget generation 1",
            "outcome RolledBack reload 2, generation 3, to 1, took 2.308s",
        ],
    );
    let mut never = plan(vec![]).at(3.0, Request::Rollback);
    never.requests.remove(0);
    check(&never, &["outcome Refused(NothingToRollBackTo)"]);
}

#[test]
fn batches_replace_one_after_the_other() {
    let plan = with(plan(vec![]), |settings| {
        settings.max_surge = Surge::Workers(1);
    });
    check(
        &plan,
        &[
            "ReloadStep reload 1, step Booting workers 1, of 2, took 1ms",
            "Spawn worker 3, slot 0, generation 2",
            "Steer address 0, set [(2, 1), (3, 1)]",
            "WorkerLeaving worker 1, slot 0, why Reload",
            "ReloadStep reload 1, step Replacing done 1, of 2, took 1ms",
            "WorkerLeft worker 1, slot 0, status Code(0)",
            "Spawn worker 4, slot 1, generation 2",
            "ReloadCommitted reload 1, generation 2, took 5.621s",
        ],
    );
}

#[test]
fn a_failure_in_the_middle_brings_the_old_release_back() {
    let broken = Script {
        on_probe: OnProbe::FailsFrom(0),
        ..good()
    };
    let plan = with(plan(vec![Release::of(vec![good(), broken])]), |settings| {
        settings.max_surge = Surge::Workers(1);
        settings.ready_timeout = Duration::from_secs(3);
    });
    check(
        &plan,
        &[
            "WorkerLeaving worker 1, slot 0, why Reload",
            "Spawn worker 4, slot 1, generation 2",
            "cause ProbeFailed failure Status(503), within 3s",
            // To the old one that is left; the new one keeps its slot in reserve.
            "Steer address 0, set [(2, 1)]",
            "Spawn worker 5, slot 0, generation 1",
            "WorkerReady worker 5, slot 0, took 306ms",
            "WorkerLeaving worker 3, slot 0, why RolledBack",
        ],
    );
}

fn watched(script: Script, others: Script) -> Plan {
    let release = Release::of(vec![script, others]);
    let mut plan = Plan::calm(3, vec![release]);
    plan.settings.ready = ReadyRules::PROBE;
    plan.settings.health = HealthRule {
        interval: Some(Duration::from_secs(1)),
        failures: 3,
        unresponsive: Some(Duration::from_secs(5)),
    };
    plan.horizon = 20_000;
    plan
}

#[test]
fn an_unhealthy_worker_is_replaced_first_and_drained_after() {
    let sickens = Script {
        on_probe: OnProbe::FailsFrom(4_000),
        ..good()
    };
    check(
        &watched(sickens, good()),
        &[
            "WorkerUnhealthy worker 1, slot 0, failure Status(503)",
            "Spawn worker 4, slot 0, generation 1",
            "Steer address 0, set [(2, 1), (3, 1)]",
            "Probed worker 4, verdict Passed",
            "WorkerLeaving worker 1, slot 0, why Unhealthy",
        ],
    );
}

#[test]
fn what_all_suffer_from_replaces_nobody() {
    let mut plan = watched(good(), good());
    plan.outage = Some((5_000, 12_000));
    check(&plan, &["HealthShared failing 3, of 3", "HealthRecovered"]);
    check_absent(&plan, "Spawn worker 4");
}

#[test]
fn what_a_successor_cannot_do_either_is_not_a_workers_fault() {
    let script = |from| Script {
        on_probe: OnProbe::FailsFrom(from),
        ..good()
    };
    let release = Release::of(vec![script(4_000), good(), good(), script(0)]);
    let mut plan = watched(good(), good());
    plan.releases = vec![release];
    plan.settings.ready_timeout = Duration::from_secs(3);
    plan.settings.backoff_max = Duration::from_secs(30);
    check(
        &plan,
        &[
            "Spawn worker 4, slot 0, generation 1",
            "WorkerFailed worker 4, slot 0, cause ProbeFailed failure Status(503), within 3s",
            "Spawn worker 5, slot 0, generation 1",
        ],
    );
    check_absent(&plan, "why Unhealthy");
}

#[test]
fn a_blocked_worker_gets_nothing_until_it_answers_and_is_replaced_if_it_does_not() {
    let hiccup = good().then(5_000, Step::Block(3_000));
    check(
        &watched(hiccup, good()),
        &[
            "WorkerBlocked worker 1, slot 0",
            "Steer address 0, set [(2, 1), (3, 1)]",
            "WorkerUnblocked worker 1, slot 0, lasted 2s",
            "Steer address 0, set [(1, 1), (2, 1), (3, 1)]",
        ],
    );
    let stuck = good().then(5_000, Step::Block(60_000));
    let mut plan = watched(stuck, good());
    plan.settings.health.interval = None;
    check(
        &plan,
        &[
            "Steer address 0, set [(2, 1), (3, 1)]",
            "Spawn worker 4, slot 0, generation 1",
            "WorkerLeaving worker 1, slot 0, why Unresponsive",
        ],
    );
}

#[test]
fn the_last_one_stays_in_the_set_even_if_it_is_blocked() {
    let mut plan = watched(good(), good());
    plan.settings.workers = 2;
    plan.releases = vec![Release::of(vec![
        good().then(5_000, Step::Block(3_000)),
        good().then(6_000, Step::Block(3_000)),
    ])];
    check(
        &plan,
        &[
            "WorkerBlocked worker 1, slot 0",
            "Steer address 0, set [(2, 1)]",
            "WorkerBlocked worker 2, slot 1",
            "Steer address 0, set [(1, 1), (2, 1)]",
        ],
    );
}

#[test]
fn a_restart_ends_all_then_begins_afresh() {
    let mut plan = plan(vec![]);
    plan.requests = Vec::new();
    let plan = plan.at(5.0, Request::Restart).at(5.01, Request::Connect(0));
    check(
        &plan,
        &[
            "Prepare generation 2, like None",
            "ReloadStep reload 1, step Emptying, took 1ms",
            "WorkerLeaving worker 1, slot 0, why Restart",
            "Spawn worker 3, slot 0, generation 2",
            "connection 0 handed to worker 3",
            "Reply request 2, outcome Restarted reload 1, generation 2, took 312ms",
        ],
    );
}

#[test]
fn a_restart_that_cannot_begin_changes_nothing() {
    let missing = Release {
        prepare: Prepare::Fails,
        listen: Vec::new(),
        scripts: vec![good()],
    };
    let mut plan = plan(vec![missing]);
    plan.requests = Vec::new();
    let plan = plan.at(5.0, Request::Restart);
    check(
        &plan,
        &[
            "outcome ReloadFailed reload 1, failure Failure worker None, slot None, cause PrepareFailed",
        ],
    );
    check_absent(&plan, "why Restart");
}

#[test]
fn a_restart_into_a_broken_release_is_reported_and_tried_on() {
    let broken = Script::listening(300, &[]).then(300, Step::Exit(ExitStatus::Code(1)));
    let mut plan = plan(vec![Release::of(vec![broken])]);
    plan.requests = Vec::new();
    let plan = plan.at(5.0, Request::Restart);
    check(
        &plan,
        &[
            "RespawnDue slot 0, wait 100ms, restarts 1",
            "SlotGivenUp slot 0, restarts 10, within 60s",
            "Reply request 2, outcome ReloadFailed reload 1, failure Failure worker Some(3), slot Some(0), cause ExitedBooting status Code(1)",
        ],
    );
}

#[test]
fn a_cold_cache_is_filled_by_one() {
    let cold = Release {
        prepare: Prepare::Found {
            changed: false,
            is_cold: true,
        },
        listen: Vec::new(),
        scripts: vec![good()],
    };
    let mut plan = plan(vec![cold.clone()]);
    plan.releases[0] = cold;
    check(
        &plan,
        &[
            "Spawn worker 1, slot 0, generation 1",
            "WorkerReady worker 1, slot 0, took 308ms",
            "Spawn worker 2, slot 1, generation 1",
            "ReloadStarted reload 1, generation 2",
            "Spawn worker 3, slot 0, generation 2",
            "WorkerReady worker 3, slot 0, took 307ms",
            "Spawn worker 4, slot 1, generation 2",
            "ReloadCommitted reload 1, generation 2, took 2.615s",
        ],
    );
}
