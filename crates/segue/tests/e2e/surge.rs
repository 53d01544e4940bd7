//! Reloads with few workers more than usual: old ones leave as new ones come, and a failure in the
//! middle brings the old release back.

use std::collections::BTreeSet;
use std::path::Path;

use segue_load::{Mixed, Phase, Report};
use segue_wire::control::{App, WorkerPhase};

use crate::drain::{assert_unnoticed, mixed};
use crate::harness::heavy;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::takeover::kill_supervisor;

const WORKERS: usize = 4;

fn launch() -> Launch {
    Launch::node("plain.js")
        .workers("4")
        .flag("--max-surge", "1")
}

fn ready(app: &App) -> usize {
    let is_ready = |worker: &&segue_wire::control::Worker| worker.phase == WorkerPhase::Ready;
    app.workers.iter().filter(is_ready).count()
}

/// Looks on until a reload command has ended: the most processes there were, and the fewest that were ready.
fn watch(run: &Run, is_over: impl Fn(&App) -> bool) -> (usize, usize) {
    let most = std::cell::Cell::new(0);
    let fewest = std::cell::Cell::new(usize::MAX);
    run.until("it is over", |app| {
        most.set(most.get().max(app.workers.len()));
        fewest.set(fewest.get().min(ready(app)));
        is_over(app)
    });
    (most.get(), fewest.get())
}

/// All ready workers run this release, and there are as many as there should be.
fn all_at(app: &App, generation: u32) -> bool {
    app.reload.is_none()
        && app.workers.len() == WORKERS
        && ready(app) == WORKERS
        && app
            .workers
            .iter()
            .all(|worker| worker.generation == generation)
}

#[test]
fn few_more_processes_than_usual_and_nobody_notices() {
    let _turn = heavy();
    each_node(|node| {
        let run = launch().with_node(node).start();
        let clients = Clients::start(mixed(50), run.address());
        clients.wait_for_answers(300);
        clients.mark("reload in steps", Phase::Reload);
        run.site.deploy("v2", "plain.js");
        let reload = run.segue_beside(&["reload"]);
        let (most, fewest) = watch(&run, |app| all_at(app, 2));
        reload.wait(LIMIT).expect(0);
        clients.committed("v2");
        clients.wait_for_answers(300);
        let report = clients.stop();
        assert_unnoticed(&report, &run);
        assert_eq!(
            (most, fewest),
            (WORKERS + 1, WORKERS),
            "{}",
            run.log.render()
        );
        run.finish();
    });
}

/// Where the workers' programs are, by what the kernel says.
fn directories(run: &Run) -> BTreeSet<std::path::PathBuf> {
    let of = |pid: u32| std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("cwd"));
    run.ready_pids().into_iter().flat_map(of).collect()
}

fn assert_old_one_is_back(run: &Run, report: &Report) {
    assert_flawless(report, run);
    let old = std::fs::canonicalize(run.site.path("releases/v1")).expect("it is there");
    assert_eq!(directories(run), BTreeSet::from([old]));
    for _ in 0..20 {
        assert_eq!(run.get("/").version(), "v1");
    }
}

#[test]
fn a_failure_in_the_middle_brings_the_old_release_back() {
    let _turn = heavy();
    each_node(|node| {
        let run = launch().with_node(node).start();
        let load = segue_load::Load::builder().with(Mixed {
            clients: 50,
            ..Mixed::default()
        });
        let clients = Clients::start(load, run.address());
        clients.wait_for_answers(300);
        clients.mark("reload that fails", Phase::Reload);
        run.site.deploy("v2", "fails-in-slot.js");
        let reload = run.segue_beside(&["reload"]);
        run.until("two slots have it", |app| {
            app.workers.iter().any(|worker| worker.generation == 2)
        });
        let outcome = reload.wait(LIMIT);
        outcome.expect(1).says(&["slot 2 finds no room"]);
        clients.mark("back", Phase::Steady);
        let (most, fewest) = watch(&run, |app| {
            app.reload.is_none()
                && app.workers.len() == WORKERS
                && app.workers.iter().all(|worker| worker.generation == 1)
        });
        clients.wait_for_answers(300);
        let report = clients.stop();
        eprintln!("{}", render(&report));
        assert!(most <= WORKERS + 1 && fewest == WORKERS, "{most}, {fewest}");
        assert_old_one_is_back(&run, &report);
        // The next one is not held up by it.
        run.roll("v3", "plain.js");
        run.until("all run it", |app| {
            app.workers.len() == WORKERS && app.workers.iter().all(|worker| worker.generation == 3)
        });
        run.finish();
    });
}

/// A supervisor that is killed in the middle of steps, or of a trial, is followed by one that goes on.
fn goes_on_after_a_kill(flags: [&str; 2], is_midway: impl Fn(&App) -> bool) {
    let _turn = heavy();
    let run = Launch::node("plain.js")
        .workers("4")
        .flag(flags[0], flags[1])
        .start();
    let clients = Clients::start(mixed(50), run.address());
    clients.wait_for_answers(300);
    clients.mark("reload", Phase::Reload);
    run.site.deploy("v2", "plain.js");
    let reload = run.segue_beside(&["reload"]);
    run.until("it is midway", is_midway);
    kill_supervisor(&run);
    reload.wait(LIMIT).expect(0);
    clients.committed("v2");
    run.until("all run it", |app| all_at(app, 2));
    clients.wait_for_answers(300);
    let report = clients.stop();
    assert_unnoticed(&report, &run);
    run.finish();
}

#[test]
fn steps_survive_their_supervisor() {
    goes_on_after_a_kill(["--max-surge", "1"], |app| {
        app.workers
            .iter()
            .any(|worker| worker.generation == 2 && worker.phase == WorkerPhase::Ready)
    });
}

#[test]
fn a_canary_survives_its_supervisor() {
    goes_on_after_a_kill(["--canary", "25%:3s"], |app| {
        app.reload.is_some() && ready(app) == 2 * WORKERS
    });
}

#[test]
fn probation_survives_its_supervisor() {
    goes_on_after_a_kill(["--probation", "3s"], |app| {
        app.reload.is_some() && ready(app) == 2 * WORKERS
    });
}
