//! Apps that are said where to listen: each worker is ready when it does, and may nowhere else.

#![forbid(unsafe_code)]

use segue_core::AddressKind;
use segue_sim::{Plan, Release, Request, Script, Step, run};

fn two_places(releases: Vec<Release>) -> Plan {
    let mut plan = Plan::calm(1, releases);
    plan.places = vec![AddressKind::Steered, AddressKind::Steered];
    plan
}

fn expect(plan: &Plan, lines: &[&str]) {
    let trace = match run(plan, true) {
        Ok(report) => report.trace,
        Err(violation) => panic!("{}", violation.trace.join("\n")),
    };
    let mut rest = trace.iter();
    for line in lines {
        assert!(
            rest.any(|seen| seen.contains(line)),
            "no {line}, or not in this order:\n{}",
            trace.join("\n")
        );
    }
}

#[test]
fn a_worker_is_ready_when_it_listens_wherever_it_is_to() {
    let script = || Script::listening(300, &[0]).then(2_000, Step::Ask(1));
    let release = |listen: &[u32]| Release::of(vec![script()]).confined_to(listen);
    expect(
        &two_places(vec![release(&[0, 1])]),
        &[
            "Prepared generation 1, changed false, is_cold false, listen [0, 1]",
            "Listened worker 1, address 0",
            "Listened worker 1, address 1",
            "WorkerReady worker 1",
        ],
    );
    // Without a word about it the first one is enough.
    expect(
        &two_places(vec![Release::of(vec![script()])]),
        &["WorkerReady worker 1", "Listened worker 1, address 1"],
    );
}

#[test]
fn where_it_may_not_listen_it_is_told_so() {
    let mut script = Script::listening(300, &[1, 0]);
    script.minds_denial = false;
    expect(
        &two_places(vec![Release::of(vec![script]).confined_to(&[0])]),
        &[
            "AskedInVain worker 1, ask 1, address 1",
            "Deny worker 1, ask 1, errno 13",
            "ListenForbidden worker 1, slot 0, address 1",
            "WorkerReady worker 1",
        ],
    );
}

#[test]
fn a_release_that_listens_at_too_few_places_is_no_good() {
    let good = Release::of(vec![Script::listening(300, &[0])]);
    let lacking = good.clone().confined_to(&[0, 1]);
    expect(
        &two_places(vec![good, lacking.clone()]).at(5.0, Request::Reload),
        &[
            "outcome ReloadFailed reload 1, failure Failure worker Some(2), slot Some(0), cause NotListeningAt address 1",
        ],
    );
    expect(
        &two_places(vec![lacking]),
        &[
            "outcome NeverStarted failure Failure worker Some(1), slot Some(0), cause NotListeningAt address 1",
        ],
    );
}
