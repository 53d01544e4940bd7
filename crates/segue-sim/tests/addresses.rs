//! Timelines of addresses of every kind: held answers, paths, refused flips.

#![forbid(unsafe_code)]

mod timeline;

use segue_core::AddressKind;
use segue_sim::{Plan, Release, Request, Script};
use timeline::{check, good};

#[test]
fn the_answer_for_a_single_socket_is_held_until_the_cut_over() {
    let mut plan = Plan::calm(1, vec![good()]).at(5.0, Request::Reload);
    plan.places = vec![AddressKind::Single];
    check(
        &plan,
        5.0..7.4,
        "
        5.000s > ReloadRequested request 2, canary AsSet
        5.000s < ReloadStarted reload 1, generation 2
        5.000s < Prepare generation 2, like None
        5.001s > Prepared generation 2, changed false, is_cold false
        5.001s < ReloadStep reload 1, step Booting workers 1, of 1, took 1ms
        5.001s < Spawn worker 2, slot 0, generation 2
        5.001s < WorkerSpawned worker 2, slot 0, generation 2
        5.002s > Spawned worker 2
        5.303s > Attached worker 2
        5.303s > Asked worker 2, ask 2, address 0, kind Single
        5.303s < BootDone worker 2
        5.303s < WorkerReady worker 2, slot 0, took 302ms
        5.303s < ReloadStep reload 1, step Proving, took 302ms
        7.303s > DeadlineReached
        7.303s < Give worker 2, ask 2, socket address 0, index 0
        7.305s > Listened worker 2, address 0
        7.305s < ReloadStep reload 1, step CuttingOver, took 2.002s
        7.305s < Publish address 0, workers [2]
        7.305s < WorkerLeaving worker 1, slot 0, why Reload
        7.305s < ReloadCommitted reload 1, generation 2, took 2.305s
        7.305s < Reply request 2, outcome Reloaded reload 1, generation 2, took 2.305s
        7.305s < BeginSettle worker 1
        ",
    );
}

#[test]
fn a_path_moves_from_one_generation_to_the_next() {
    let mut plan = Plan::calm(2, vec![good()])
        .at(5.0, Request::Reload)
        .at(7.307, Request::Connect(0))
        .at(7.31, Request::Connect(0));
    plan.places = vec![AddressKind::Path];
    check(
        &plan,
        5.0..7.4,
        "
        5.000s > ReloadRequested request 2, canary AsSet
        5.000s < ReloadStarted reload 1, generation 2
        5.000s < Prepare generation 2, like None
        5.001s > Prepared generation 2, changed false, is_cold false
        5.001s < ReloadStep reload 1, step Booting workers 2, of 2, took 1ms
        5.001s < Spawn worker 3, slot 0, generation 2
        5.001s < WorkerSpawned worker 3, slot 0, generation 2
        5.001s < Spawn worker 4, slot 1, generation 2
        5.001s < WorkerSpawned worker 4, slot 1, generation 2
        5.002s > Spawned worker 3
        5.002s > Spawned worker 4
        5.303s > Attached worker 3
        5.303s > Asked worker 3, ask 3, address 0, kind Path
        5.303s < Open socket address 0, index 1
        5.303s > Attached worker 4
        5.303s > Asked worker 4, ask 4, address 0, kind Path
        5.304s > Opened socket address 0, index 1, steered true
        5.304s < Give worker 3, ask 3, socket address 0, index 1
        5.304s < Give worker 4, ask 4, socket address 0, index 1
        5.306s > Listened worker 3, address 0
        5.306s < BootDone worker 3
        5.306s < WorkerReady worker 3, slot 0, took 305ms
        5.306s > Listened worker 4, address 0
        5.306s < BootDone worker 4
        5.306s < WorkerReady worker 4, slot 1, took 305ms
        5.306s < ReloadStep reload 1, step Proving, took 305ms
        7.306s > DeadlineReached
        7.306s < ReloadStep reload 1, step CuttingOver, took 2s
        7.306s < Steer address 0, set [(1, 1)]
        7.306s < Publish address 0, workers [3, 4]
        7.307s > Steered address 0
        7.307s < WorkerLeaving worker 1, slot 0, why Reload
        7.307s < WorkerLeaving worker 2, slot 1, why Reload
        7.307s < ReloadCommitted reload 1, generation 2, took 2.307s
        7.307s < Reply request 2, outcome Reloaded reload 1, generation 2, took 2.307s
        7.307s < BeginSettle worker 1
        7.307s < BeginSettle worker 2
        7.307s   connection 0 queued at address 0#1
        7.308s   connection 0 accepted by worker 3
        7.310s   connection 1 queued at address 0#1
        7.311s   connection 1 accepted by worker 3
        ",
    );
}

#[test]
fn a_refused_flip_undoes_the_others() {
    let both = Release::of(vec![Script::listening(300, &[0, 1])]);
    let mut plan = Plan::calm(1, vec![both]).at(5.0, Request::Reload);
    plan.places = vec![AddressKind::Steered; 2];
    // The first two sets come with the sockets: these are the flips.
    plan.faults.steers_that_fail = vec![1];
    check(&plan, 7.0..7.4, "
        7.306s > DeadlineReached
        7.306s < ReloadStep reload 1, step CuttingOver, took 2s
        7.306s < Steer address 0, set [(1, 1)]
        7.306s < Publish address 0, workers [2]
        7.306s < Steer address 1, set [(1, 1)]
        7.306s < Publish address 1, workers [2]
        7.307s > Steered address 0
        7.307s > SteerFailed address 1
        7.307s < WorkerLeaving worker 2, slot 0, why RolledBack
        7.307s < ReloadFailed reload 1, failure Failure worker None, slot None, cause SteerFailed address 1
        7.307s < Reply request 2, outcome ReloadFailed reload 1, failure Failure worker None, slot None, cause SteerFailed address 1
        7.307s < Steer address 0, set [(0, 1)]
        7.307s < Publish address 0, workers [1]
        7.307s < Publish address 1, workers [1]
        7.308s > Steered address 0
        7.308s < BeginSettle worker 2
        ");
}
