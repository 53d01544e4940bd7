//! Timelines: what happens in the cases that matter most, line by line (`>` facts, `<` orders).

#![forbid(unsafe_code)]

mod timeline;

use segue_core::{AddressKind, ExitStatus, Scale};
use segue_sim::{OnDisconnect, OnStop, Plan, Prepare, Release, Request, Script, Step};
use timeline::{check, good, trace};

#[test]
fn the_first_start() {
    check(
        &Plan::calm(2, vec![good()]),
        0.0..0.4,
        "
        0.000s > StartRequested request 1
        0.000s < Prepare generation 1, like None
        0.001s > Prepared generation 1, changed false, is_cold false
        0.001s < Spawn worker 1, slot 0, generation 1
        0.001s < WorkerSpawned worker 1, slot 0, generation 1
        0.001s < Spawn worker 2, slot 1, generation 1
        0.001s < WorkerSpawned worker 2, slot 1, generation 1
        0.002s > Spawned worker 1
        0.002s > Spawned worker 2
        0.303s > Attached worker 1
        0.303s > Asked worker 1, ask 1, address 0, kind Steered
        0.303s < Open socket address 0, index 0
        0.303s > Attached worker 2
        0.303s > Asked worker 2, ask 2, address 0, kind Steered
        0.304s > Opened socket address 0, index 0, steered true
        0.304s < AddressOpened address 0, steered true
        0.304s < Give worker 1, ask 1, socket address 0, index 0
        0.304s < Open socket address 0, index 1
        0.305s > Opened socket address 0, index 1, steered true
        0.305s < Give worker 2, ask 2, socket address 0, index 1
        0.306s > Listened worker 1, address 0
        0.306s < BootDone worker 1
        0.306s < WorkerReady worker 1, slot 0, took 305ms
        0.306s < Publish address 0, workers [1]
        0.307s > Listened worker 2, address 0
        0.307s < BootDone worker 2
        0.307s < WorkerReady worker 2, slot 1, took 306ms
        0.307s < AppReady workers 2, took 307ms
        0.307s < Reply request 1, outcome Started took 307ms
        0.307s < Steer address 0, set [(0, 1), (1, 1)]
        0.307s < Publish address 0, workers [1, 2]
        0.308s > Steered address 0
        0.308s > StopRequested request 2
        0.308s < Stopping
        0.308s < ShutGate address 0
        0.308s < WorkerLeaving worker 1, slot 0, why Stop
        0.308s < WorkerLeaving worker 2, slot 1, why Stop
        0.308s < BeginSettle worker 1
        0.308s < BeginSettle worker 2
        ",
    );
}

#[test]
fn a_reload() {
    let plan = Plan::calm(2, vec![good(), good()])
        .at(5.0, Request::Reload)
        .at(7.307, Request::Connect(0))
        .at(7.309, Request::Connect(0));
    check(
        &plan,
        5.0..8.32,
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
        5.303s > Asked worker 3, ask 3, address 0, kind Steered
        5.303s < Open socket address 0, index 2
        5.303s > Attached worker 4
        5.303s > Asked worker 4, ask 4, address 0, kind Steered
        5.304s > Opened socket address 0, index 2, steered true
        5.304s < Give worker 3, ask 3, socket address 0, index 2
        5.304s < Open socket address 0, index 3
        5.305s > Opened socket address 0, index 3, steered true
        5.305s < Give worker 4, ask 4, socket address 0, index 3
        5.306s > Listened worker 3, address 0
        5.306s < BootDone worker 3
        5.306s < WorkerReady worker 3, slot 0, took 305ms
        5.307s > Listened worker 4, address 0
        5.307s < BootDone worker 4
        5.307s < WorkerReady worker 4, slot 1, took 306ms
        5.307s < ReloadStep reload 1, step Proving, took 306ms
        7.307s > DeadlineReached
        7.307s < ReloadStep reload 1, step CuttingOver, took 2s
        7.307s < Steer address 0, set [(2, 1), (3, 1)]
        7.307s < Publish address 0, workers [3, 4]
        7.308s > Steered address 0
        7.308s < WorkerLeaving worker 1, slot 0, why Reload
        7.308s < WorkerLeaving worker 2, slot 1, why Reload
        7.308s < ReloadCommitted reload 1, generation 2, took 2.308s
        7.308s < Reply request 2, outcome Reloaded reload 1, generation 2, took 2.308s
        7.308s < BeginSettle worker 1
        7.308s < BeginSettle worker 2
        7.310s   connection 0 queued at address 0#0
        7.311s   connection 1 queued at address 0#2
        7.311s   connection 0 accepted by worker 1
        7.312s   connection 1 accepted by worker 3
        8.308s > DeadlineReached
        8.308s < CheckSettled worker 1
        8.308s < CheckSettled worker 2
        8.310s > SettleChecked worker 1, clear true
        8.310s < Disconnect worker 1
        8.310s < Tend socket address 0, index 0, how HandOver
        8.310s > SettleChecked worker 2, clear true
        8.310s < Disconnect worker 2
        8.310s < Tend socket address 0, index 1, how HandOver
        8.312s > Closed worker 1, address 0
        8.312s > ChannelEnded worker 1
        8.312s < WorkerDrained worker 1, slot 0, took 2ms
        8.312s   worker 1 dies
        8.312s > Closed worker 2, address 0
        8.312s > ChannelEnded worker 2
        8.312s < WorkerDrained worker 2, slot 1, took 2ms
        8.312s   worker 2 dies
        8.313s > Exited worker 1, status Code(0)
        8.313s < WorkerLeft worker 1, slot 0, status Code(0)
        8.313s > Exited worker 2, status Code(0)
        8.313s < WorkerLeft worker 2, slot 1, status Code(0)
        8.313s < GenerationGone generation 1
        8.313s > StopRequested request 3
        8.313s < Stopping
        8.313s < ShutGate address 0
        8.313s < WorkerLeaving worker 3, slot 0, why Stop
        8.313s < WorkerLeaving worker 4, slot 1, why Stop
        8.313s < BeginSettle worker 3
        8.313s < BeginSettle worker 4
        ",
    );
}

#[test]
fn a_broken_reload_changes_nothing() {
    let listening = || Script::listening(300, &[0]);
    let elsewhere = Script::listening(300, &[1]);
    let silent = Script::listening(300, &[]);
    let code = ExitStatus::Code(1);
    let cases = [
        (
            Script::listening(300, &[]).then(300, Step::Exit(code)),
            "worker Some(3), slot Some(0), cause ExitedBooting status Code(1)",
        ),
        (
            listening().then(1_300, Step::Exit(code)),
            "worker Some(3), slot Some(0), cause ExitedReady status Code(1), after 997ms",
        ),
        (
            silent,
            "worker Some(3), slot Some(0), cause NeverListened within 30s",
        ),
        (
            elsewhere,
            "worker Some(3), slot Some(0), cause NotListeningAt address 0, within 30s",
        ),
        (
            Script {
                steps: Vec::new(),
                ..listening()
            },
            "worker Some(3), slot Some(0), cause NeverListened within 30s",
        ),
        (
            Script::listening(300, &[]).then(400, Step::Wrap),
            "worker Some(3), slot Some(0), cause Wrapper",
        ),
        (
            listening().then(500, Step::CloseChannel),
            "worker Some(3), slot Some(0), cause ChannelLost",
        ),
    ];
    for (script, cause) in cases {
        let broken = Release::of(vec![script, listening()]);
        let mut plan = Plan::calm(2, vec![good(), broken])
            .at(5.0, Request::Reload)
            .at(50.0, Request::Connect(0));
        plan.places.push(AddressKind::Steered);
        expect_failed(&plan, cause);
    }
    let unprepared = Release {
        prepare: Prepare::Fails,
        listen: Vec::new(),
        scripts: vec![listening()],
    };
    let plan = Plan::calm(2, vec![good(), unprepared])
        .at(5.0, Request::Reload)
        .at(50.0, Request::Connect(0));
    expect_failed(&plan, "worker None, slot None, cause PrepareFailed");
}

/// The reload fails for this reason, and a worker of the first generation goes on serving.
fn expect_failed(plan: &Plan, cause: &str) {
    let trace = trace(plan);
    let reply = format!("Reply request 2, outcome ReloadFailed reload 1, failure Failure {cause}");
    assert!(
        trace.iter().any(|line| line.ends_with(&reply)),
        "not {cause}:\n{}",
        trace.join("\n")
    );
    let accepted = |line: &&String| line.contains("connection 0 accepted by");
    let line = trace.iter().find(accepted).expect("the client is served");
    assert!(line.ends_with("worker 1") || line.ends_with("worker 2"));
}

#[test]
fn a_crash_and_the_respawn() {
    let plan = Plan::calm(2, vec![good()])
        .at(4.999, Request::Connect(0))
        .at(4.999, Request::Connect(0))
        .at(4.999, Request::Connect(0))
        .at(5.0, Request::Murder(0))
        .at(5.1, Request::Connect(0));
    check(
        &plan,
        4.9..5.306,
        "
        5.000s   worker 1 dies
        5.000s   connection 2 queued at address 0#0
        5.001s   connection 1 queued at address 0#1
        5.001s > ChannelEnded worker 1
        5.001s < Steer address 0, set [(1, 1)]
        5.001s < Publish address 0, workers [2]
        5.001s > Exited worker 1, status Signal(9)
        5.001s < WorkerFailed worker 1, slot 0, cause ExitedReady status Signal(9), after 4.695s
        5.001s < RespawnDue slot 0, wait 0ns, restarts 1
        5.001s < Spawn worker 3, slot 0, generation 1
        5.001s < WorkerSpawned worker 3, slot 0, generation 1
        5.001s < Tend socket address 0, index 0, how HandOver
        5.001s   connection 2 handed to worker 2
        5.002s   connection 0 queued at address 0#1
        5.002s   connection 1 accepted by worker 2
        5.002s   connection 0 accepted by worker 2
        5.002s > Steered address 0
        5.002s > Spawned worker 3
        5.103s   connection 3 queued at address 0#1
        5.104s   connection 3 accepted by worker 2
        5.303s > Attached worker 3
        5.303s > Asked worker 3, ask 3, address 0, kind Steered
        5.303s < Give worker 3, ask 3, socket address 0, index 0
        5.303s < Tend socket address 0, index 0, how Leave
        5.305s > Listened worker 3, address 0
        5.305s < BootDone worker 3
        5.305s < WorkerReady worker 3, slot 0, took 304ms
        5.305s < Steer address 0, set [(0, 1), (1, 1)]
        5.305s < Publish address 0, workers [2, 3]
        ",
    );
}

#[test]
fn when_all_crash_the_queue_waits() {
    let plan = Plan::calm(2, vec![good()])
        .at(5.0, Request::MurderAll)
        .at(5.1, Request::Connect(0))
        .at(5.1, Request::Connect(0))
        .at(5.1, Request::Connect(0));
    check(
        &plan,
        5.0..5.4,
        "
        5.000s   worker 1 dies
        5.000s   worker 2 dies
        5.001s > ChannelEnded worker 1
        5.001s < Steer address 0, set [(1, 1)]
        5.001s < Publish address 0, workers [2]
        5.001s > Exited worker 1, status Signal(9)
        5.001s < WorkerFailed worker 1, slot 0, cause ExitedReady status Signal(9), after 4.695s
        5.001s < RespawnDue slot 0, wait 0ns, restarts 1
        5.001s < Spawn worker 3, slot 0, generation 1
        5.001s < WorkerSpawned worker 3, slot 0, generation 1
        5.001s < Tend socket address 0, index 0, how HandOver
        5.001s > ChannelEnded worker 2
        5.001s < Publish address 0, workers []
        5.001s < Tend socket address 0, index 0, how Leave
        5.001s > Exited worker 2, status Signal(9)
        5.001s < WorkerFailed worker 2, slot 1, cause ExitedReady status Signal(9), after 4.694s
        5.001s < RespawnDue slot 1, wait 0ns, restarts 1
        5.001s < Spawn worker 4, slot 1, generation 1
        5.001s < WorkerSpawned worker 4, slot 1, generation 1
        5.002s > Steered address 0
        5.002s > Spawned worker 3
        5.002s > Spawned worker 4
        5.101s   connection 0 queued at address 0#1
        5.102s   connection 2 queued at address 0#1
        5.103s   connection 1 queued at address 0#1
        5.303s > Attached worker 3
        5.303s > Asked worker 3, ask 3, address 0, kind Steered
        5.303s < Give worker 3, ask 3, socket address 0, index 1
        5.303s > Attached worker 4
        5.303s > Asked worker 4, ask 4, address 0, kind Steered
        5.303s < Give worker 4, ask 4, socket address 0, index 0
        5.305s > Listened worker 3, address 0
        5.305s < BootDone worker 3
        5.305s < WorkerReady worker 3, slot 0, took 304ms
        5.305s < Publish address 0, workers [3]
        5.305s   connection 0 accepted by worker 3
        5.305s   connection 2 accepted by worker 3
        5.305s   connection 1 accepted by worker 3
        5.305s > Listened worker 4, address 0
        5.305s < BootDone worker 4
        5.305s < WorkerReady worker 4, slot 1, took 304ms
        5.305s < Steer address 0, set [(0, 1), (1, 1)]
        5.305s < Publish address 0, workers [3, 4]
        5.306s > Steered address 0
        5.306s > StopRequested request 2
        5.306s < Stopping
        5.306s < ShutGate address 0
        5.306s < WorkerLeaving worker 3, slot 0, why Stop
        5.306s < WorkerLeaving worker 4, slot 1, why Stop
        5.306s < BeginSettle worker 3
        5.306s < BeginSettle worker 4
        ",
    );
}

#[test]
fn a_reload_is_superseded() {
    let plan = Plan::calm(1, vec![good()])
        .at(5.0, Request::Reload)
        .at(5.2, Request::Reload);
    check(
        &plan,
        5.0..7.6,
        "
        5.000s > ReloadRequested request 2, canary AsSet
        5.000s < ReloadStarted reload 1, generation 2
        5.000s < Prepare generation 2, like None
        5.001s > Prepared generation 2, changed false, is_cold false
        5.001s < ReloadStep reload 1, step Booting workers 1, of 1, took 1ms
        5.001s < Spawn worker 2, slot 0, generation 2
        5.001s < WorkerSpawned worker 2, slot 0, generation 2
        5.002s > Spawned worker 2
        5.200s > ReloadRequested request 3, canary AsSet
        5.200s < WorkerLeaving worker 2, slot 0, why Abandoned
        5.200s < Signal worker 2, signal Stop
        5.200s < ReloadSuperseded reload 1, by 2
        5.200s < Reply request 2, outcome Superseded by 2
        5.200s < ReloadStarted reload 2, generation 3
        5.200s < Prepare generation 3, like None
        5.201s   worker 2 dies
        5.201s > Prepared generation 3, changed false, is_cold false
        5.201s < ReloadStep reload 2, step Booting workers 1, of 1, took 1ms
        5.201s < Spawn worker 3, slot 0, generation 3
        5.201s < WorkerSpawned worker 3, slot 0, generation 3
        5.202s > ChannelEnded worker 2
        5.202s > Exited worker 2, status Signal(15)
        5.202s < WorkerLeft worker 2, slot 0, status Signal(15)
        5.202s < Forget generation 2
        5.202s < GenerationGone generation 2
        5.202s > Spawned worker 3
        5.503s > Attached worker 3
        5.503s > Asked worker 3, ask 2, address 0, kind Steered
        5.503s < Open socket address 0, index 1
        5.504s > Opened socket address 0, index 1, steered true
        5.504s < Give worker 3, ask 2, socket address 0, index 1
        5.506s > Listened worker 3, address 0
        5.506s < BootDone worker 3
        5.506s < WorkerReady worker 3, slot 0, took 305ms
        5.506s < ReloadStep reload 2, step Proving, took 305ms
        7.506s > DeadlineReached
        7.506s < ReloadStep reload 2, step CuttingOver, took 2s
        7.506s < Steer address 0, set [(1, 1)]
        7.506s < Publish address 0, workers [3]
        7.507s > Steered address 0
        7.507s < WorkerLeaving worker 1, slot 0, why Reload
        7.507s < ReloadCommitted reload 2, generation 3, took 2.307s
        7.507s < Reply request 3, outcome Reloaded reload 2, generation 3, took 2.307s
        7.507s < BeginSettle worker 1
        ",
    );
}

#[test]
fn a_stop() {
    let plan = Plan::calm(1, vec![good()])
        .at(4.9995, Request::Connect(0))
        .at(5.0, Request::Stop);
    check(
        &plan,
        4.9..7.0,
        "
        5.000s > StopRequested request 2
        5.000s < Stopping
        5.000s < ShutGate address 0
        5.000s < WorkerLeaving worker 1, slot 0, why Stop
        5.000s < BeginSettle worker 1
        5.001s   connection 0 queued at address 0#0
        5.002s   connection 0 accepted by worker 1
        6.000s > DeadlineReached
        6.000s < CheckSettled worker 1
        6.002s > SettleChecked worker 1, clear true
        6.002s < Disconnect worker 1
        6.002s < Publish address 0, workers []
        6.002s < Tend socket address 0, index 0, how Reset
        6.004s > Closed worker 1, address 0
        6.004s > ChannelEnded worker 1
        6.004s < WorkerDrained worker 1, slot 0, took 2ms
        6.004s   worker 1 dies
        6.005s > Exited worker 1, status Code(0)
        6.005s < WorkerLeft worker 1, slot 0, status Code(0)
        6.005s < Close address 0
        6.005s < AddressClosed address 0
        6.005s < Reply request 2, outcome Stopped
        6.005s < Finish(Stopped killed 0)
        ",
    );
}

#[test]
fn a_second_stop_hurries() {
    let stubborn = Script {
        on_disconnect: OnDisconnect::Ignores,
        on_stop: OnStop::Ignores,
        ..Script::listening(300, &[0])
    };
    let plan = Plan::calm(1, vec![Release::of(vec![stubborn])])
        .at(5.0, Request::Stop)
        .at(7.0, Request::Stop);
    check(
        &plan,
        5.0..8.0,
        "
        5.000s > StopRequested request 2
        5.000s < Stopping
        5.000s < ShutGate address 0
        5.000s < WorkerLeaving worker 1, slot 0, why Stop
        5.000s < BeginSettle worker 1
        6.000s > DeadlineReached
        6.000s < CheckSettled worker 1
        6.002s > SettleChecked worker 1, clear true
        6.002s < Disconnect worker 1
        6.002s < Publish address 0, workers []
        6.002s < Tend socket address 0, index 0, how Reset
        7.000s > StopRequested request 3
        7.000s < WorkerKilled worker 1, slot 0
        7.000s < Signal worker 1, signal Kill
        7.001s   worker 1 dies
        7.002s > ChannelEnded worker 1
        7.002s > Exited worker 1, status Signal(9)
        7.002s < WorkerLeft worker 1, slot 0, status Signal(9)
        7.002s < Close address 0
        7.002s < AddressClosed address 0
        7.002s < Reply request 2, outcome StoppedHard killed 1
        7.002s < Reply request 3, outcome StoppedHard killed 1
        7.002s < Finish(Stopped killed 1)
        ",
    );
}

#[test]
fn scaling_up_and_down() {
    let plan = Plan::calm(1, vec![good()])
        .at(2.0, Request::Scale(Scale::Up(1)))
        .at(4.0, Request::Scale(Scale::To(1)));
    check(
        &plan,
        2.0..5.1,
        "
        2.000s > ScaleRequested request 2, to Up(1)
        2.000s < Scaled from 1, to 2
        2.000s < Reply request 2, outcome Scaled from 1, to 2
        2.000s < Spawn worker 2, slot 1, generation 1
        2.000s < WorkerSpawned worker 2, slot 1, generation 1
        2.001s > Spawned worker 2
        2.302s > Attached worker 2
        2.302s > Asked worker 2, ask 2, address 0, kind Steered
        2.302s < Open socket address 0, index 1
        2.303s > Opened socket address 0, index 1, steered true
        2.303s < Give worker 2, ask 2, socket address 0, index 1
        2.305s > Listened worker 2, address 0
        2.305s < BootDone worker 2
        2.305s < WorkerReady worker 2, slot 1, took 305ms
        2.305s < Steer address 0, set [(0, 1), (1, 1)]
        2.305s < Publish address 0, workers [1, 2]
        2.306s > Steered address 0
        4.000s > ScaleRequested request 3, to To(1)
        4.000s < WorkerLeaving worker 2, slot 1, why ScaledDown
        4.000s < Scaled from 2, to 1
        4.000s < Reply request 3, outcome Scaled from 2, to 1
        4.000s < Steer address 0, set [(0, 1)]
        4.000s < Publish address 0, workers [1]
        4.001s > Steered address 0
        4.001s < BeginSettle worker 2
        5.000s > DeadlineReached
        5.000s < CheckSettled worker 2
        5.002s > SettleChecked worker 2, clear true
        5.002s < Disconnect worker 2
        5.002s < Tend socket address 0, index 1, how HandOver
        5.004s > Closed worker 2, address 0
        5.004s > ChannelEnded worker 2
        5.004s < WorkerDrained worker 2, slot 1, took 2ms
        5.004s   worker 2 dies
        5.005s > Exited worker 2, status Code(0)
        5.005s < WorkerLeft worker 2, slot 1, status Code(0)
        5.005s > StopRequested request 4
        5.005s < Stopping
        5.005s < ShutGate address 0
        5.005s < WorkerLeaving worker 1, slot 0, why Stop
        5.005s < BeginSettle worker 1
        ",
    );
}

#[test]
fn a_pause_and_the_reload_that_ends_it() {
    let plan = Plan::calm(1, vec![good(), good()])
        .at(2.0, Request::Pause)
        .at(3.0, Request::Connect(0))
        .at(4.0, Request::Reload);
    check(
        &plan,
        2.0..6.4,
        "
        2.000s > PauseRequested request 2
        2.000s < Paused
        2.000s < WorkerLeaving worker 1, slot 0, why Pause
        2.000s < Disconnect worker 1
        2.000s < Reply request 2, outcome Paused
        2.000s < Publish address 0, workers []
        2.002s > Closed worker 1, address 0
        2.002s > ChannelEnded worker 1
        2.002s < WorkerDrained worker 1, slot 0, took 2ms
        2.002s   worker 1 dies
        2.003s > Exited worker 1, status Code(0)
        2.003s < WorkerLeft worker 1, slot 0, status Code(0)
        3.002s   connection 0 queued at address 0#0
        4.000s > ReloadRequested request 3, canary AsSet
        4.000s < ReloadStarted reload 1, generation 2
        4.000s < Prepare generation 2, like None
        4.001s > Prepared generation 2, changed false, is_cold false
        4.001s < ReloadStep reload 1, step Booting workers 1, of 1, took 1ms
        4.001s < Spawn worker 2, slot 0, generation 2
        4.001s < WorkerSpawned worker 2, slot 0, generation 2
        4.002s > Spawned worker 2
        4.303s > Attached worker 2
        4.303s > Asked worker 2, ask 2, address 0, kind Steered
        4.303s < Open socket address 0, index 1
        4.304s > Opened socket address 0, index 1, steered true
        4.304s < Give worker 2, ask 2, socket address 0, index 1
        4.306s > Listened worker 2, address 0
        4.306s < BootDone worker 2
        4.306s < WorkerReady worker 2, slot 0, took 305ms
        4.306s < ReloadStep reload 1, step Proving, took 305ms
        6.306s > DeadlineReached
        6.306s < ReloadStep reload 1, step CuttingOver, took 2s
        6.306s < Steer address 0, set [(1, 1)]
        6.307s > Steered address 0
        6.307s < ReloadCommitted reload 1, generation 2, took 2.307s
        6.307s < Reply request 3, outcome Reloaded reload 1, generation 2, took 2.307s
        6.307s < GenerationGone generation 1
        6.307s < Publish address 0, workers [2]
        6.307s < Tend socket address 0, index 0, how HandOver
        6.308s   connection 0 handed to worker 2
        6.308s > StopRequested request 4
        6.308s < Stopping
        6.308s < ShutGate address 0
        6.308s < WorkerLeaving worker 2, slot 0, why Stop
        6.308s < BeginSettle worker 2
        ",
    );
}
