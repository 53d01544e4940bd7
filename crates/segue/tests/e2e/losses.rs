//! Workers that die under keep-alive load, before, during and after a reload: what is lost was in
//! their hands by their own record, and nothing else.

use rustix::process::Signal;
use segue_load::{Builder, Contract, Fresh, Load, Mixed, Phase};
use segue_wire::control::{App, WorkerPhase};

use crate::harness::heavy;
use crate::harness::load::{Clients, render};
use crate::harness::nodes::each_node;
use crate::harness::process::Process;
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch, Run};

fn mixed(clients: u32) -> Builder {
    let contract = Contract {
        port: true,
        ..Contract::full()
    };
    let kind = Mixed {
        clients,
        ..Mixed::default()
    };
    Load::builder().with(kind).contract(contract)
}

#[track_caller]
fn kill(pid: u32) {
    let process = Process::open(pid).expect("a worker");
    process.signal(Signal::KILL);
    assert!(process.ends_within(LIMIT), "{pid} survived");
}

/// The pid of a worker in this phase and of this generation.
fn find(app: &App, generation: u32, phase: WorkerPhase) -> Option<u32> {
    let found = app
        .workers
        .iter()
        .find(|worker| worker.generation == generation && worker.phase == phase);
    found.and_then(|worker| worker.pid)
}

/// Fails the test unless the victims' own records explain every failure.
#[track_caller]
fn judge(clients: Clients, victims: &[String], run: &Run) {
    let report = clients.stop();
    let record = Record::read(run);
    let inside = record.expect_lost_only_with(victims, &report, run);
    eprintln!(
        "{} of {} failed requests had been begun by {victims:?}, the others were never read; {}",
        inside,
        report.failed(),
        render(&report)
    );
    assert_eq!(report.in_flight, 0, "{}", render(&report));
}

#[test]
fn kill_9_under_keep_alive_load_costs_what_the_worker_had_in_hand() {
    let _turn = heavy();
    each_node(|node| {
        let run = Launch::node("recorded.js")
            .with_node(node)
            .recording()
            .start();
        let clients = Clients::start(mixed(100), run.address());
        clients.wait_for_answers(2000);
        clients.mark("kill", Phase::Fault);
        let victim = run.ready_pids()[0];
        kill(victim);
        run.until("it has a successor", |app| {
            let ready = |worker: &&segue_wire::control::Worker| worker.phase == WorkerPhase::Ready;
            app.workers
                .iter()
                .filter(ready)
                .filter(|worker| worker.pid != Some(victim))
                .count()
                == 2
        });
        clients.mark("steady", Phase::Steady);
        clients.wait_for_answers(2000);
        judge(clients, &[format!("v1-{victim}")], &run);
        run.finish();
    });
}

/// A reload under load; once the old generation is being quieted, one worker of `generation` is killed.
fn kill_in_the_migration(generation: u32) {
    let _turn = heavy();
    each_node(|node| {
        let run = Launch::node("recorded.js")
            .with_node(node)
            .recording()
            .start();
        let clients = Clients::start(mixed(300), run.address());
        clients.wait_for_answers(3000);
        clients.mark("reload and kill", Phase::Fault);
        run.site.deploy("v2", "recorded.js");
        let reload = run.segue_beside(&["reload"]);
        let app = run.until("an old worker is leaving", |app| {
            app.workers
                .iter()
                .any(|worker| worker.generation == 1 && worker.phase.is_leaving())
        });
        let victim = match generation {
            1 => find(&app, 1, WorkerPhase::Quiet).or_else(|| find(&app, 1, WorkerPhase::Draining)),
            _ => find(&app, 2, WorkerPhase::Ready),
        };
        let victim = victim.unwrap_or_else(|| panic!("nobody to kill in {app:#?}"));
        kill(victim);
        let code = reload.wait(LIMIT).code;
        assert_eq!(
            code,
            Some(0),
            "the reload was committed\n{}",
            run.log.render()
        );
        run.until(
            "the old generation is gone and the new one complete",
            |app| {
                let ready = app
                    .workers
                    .iter()
                    .filter(|worker| worker.phase == WorkerPhase::Ready && worker.generation == 2);
                app.workers.len() == 2 && ready.count() == 2
            },
        );
        clients.mark("steady", Phase::Steady);
        clients.wait_for_answers(2000);
        judge(clients, &[format!("v{generation}-{victim}")], &run);
        assert_eq!(run.get("/").version(), "v2");
        run.finish();
    });
}

#[test]
fn kill_9_of_an_old_worker_in_the_migration_costs_what_it_had_in_hand() {
    kill_in_the_migration(1);
}

#[test]
fn kill_9_of_a_new_worker_in_the_migration_costs_what_it_had_in_hand() {
    kill_in_the_migration(2);
}

/// Node ends a cluster worker that closes its channel, whatever it has in hand (the manual of
/// `process.disconnect`); the others do not notice, and the next reload finds everything in order.
#[test]
fn a_worker_that_closes_its_channel_costs_what_it_had_in_hand() {
    let _turn = heavy();
    let run = Launch::node("disconnects.js").recording().start();
    let fresh = Fresh {
        clients: 20,
        ..Fresh::default()
    };
    let clients = Clients::start(Load::builder().with(fresh), run.address());
    clients.wait_for_answers(200);
    let victim = run.get("/disconnect").pid();
    clients.wait_for_answers(200);
    run.until("it has a successor", |app| {
        let ready = app
            .workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Ready && worker.pid != Some(victim));
        ready.count() == 2
    });
    clients.mark("reload", Phase::Reload);
    run.roll("v2", "disconnects.js");
    clients.committed("v2");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    clients.wait_for_answers(200);
    judge(clients, &[format!("v1-{victim}")], &run);
    run.finish();
}
