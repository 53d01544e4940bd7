//! What the supervisor can say about what has happened: records of reloads and restarts, and what an
//! operator must see to. What is told once is told the same everywhere, and by every successor.

use rustix::process::Signal;
use segue_wire::control::{ReloadOutcome, Story, WorkerPhase};

use crate::harness::http;
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[track_caller]
fn story(run: &Run) -> Story {
    let json = run.segue(&["why", "--json"]);
    json.expect(0);
    serde_json::from_str(&json.out).expect("the shape of the control protocol")
}

#[track_caller]
fn kill(pid: u32) {
    let process = Process::open(pid).expect("it runs");
    process.signal(Signal::KILL);
    assert!(process.ends_within(LIMIT), "{pid} survived");
}

#[test]
fn reloads_are_remembered_by_every_successor() {
    let run = Launch::standin("").workers("1").start();
    run.segue(&["why"]).expect(0).says(&[
        "no reload since the start",
        "no restart",
        "nothing drains",
    ]);

    let release = run.site.write("v2", "");
    std::fs::create_dir(release.join(".git")).expect("make a repository");
    std::fs::write(release.join(".git/HEAD"), COMMIT).expect("check a commit out");
    run.site.turn("v2");
    run.reload().expect(0);
    run.roll_and_fail("v3", "exit-at-boot=9 stderr=the_disk_is_full");

    let before = story(&run);
    let [committed, failed] = before.reloads.as_slice() else {
        panic!("{before:#?}");
    };
    assert_eq!(committed.outcome, ReloadOutcome::Committed);
    assert_eq!(
        committed.release.as_deref(),
        release.canonicalize().expect("it is there").to_str()
    );
    let revision = committed
        .revision
        .as_ref()
        .expect("a commit is checked out");
    assert_eq!((revision.id.as_str(), &revision.branch), (COMMIT, &None));
    assert_eq!(before.app.revision.as_ref(), Some(revision), "it serves");
    assert_eq!(committed.asked.by, "cli");
    assert_eq!(
        committed.asked.uid,
        Some(rustix::process::getuid().as_raw())
    );
    assert!(
        committed
            .asked
            .pid
            .is_some_and(|pid| pid != std::process::id())
    );
    let (steps, took) = (&committed.steps, committed.took_ms.expect("it has ended"));
    assert!(
        steps
            .iter()
            .all(|step| step.took_ms.is_some_and(|it| it <= took)),
        "{steps:?}"
    );
    assert_eq!(
        steps.first().map(|step| step.step.as_str()),
        Some("preparing")
    );

    assert_eq!((failed.reload, failed.outcome), (2, ReloadOutcome::Failed));
    let failure = failed.failure.as_ref().expect("a reason");
    assert_eq!(
        (failure.cause.as_str(), failure.exit_code),
        ("exited_booting", Some(9))
    );
    assert!(
        failure
            .stderr
            .iter()
            .any(|line| line.contains("the disk is full"))
    );
    assert_eq!(failed.revision, None);
    assert_eq!(before.app.last_reload.as_ref(), Some(failed));
    run.segue(&["why"]).expect(0).says(&[
        "reload 2  failed",
        "asked for: `segue reload` by ",
        "exited with code 9 before it was ready",
        "| the disk is full",
        "earlier reloads: 1",
        "no restart since the start",
    ]);
    run.segue(&["why", "-v"])
        .expect(0)
        .says(&["reload 1  committed", "0123456789ab", "preparing"]);
    run.segue(&["status"]).expect(0).says(&["0123456789ab"]);

    kill(run.status().supervisor.pid);
    assert_eq!(story(&run).reloads, before.reloads, "after a crash");
    run.upgrade().expect(0);
    assert_eq!(story(&run).reloads, before.reloads, "after an upgrade");
    run.roll("v4", "");
    assert_eq!(story(&run).reloads.len(), 3, "they are counted on");
    run.segue(&["why", "unknown"]).expect(3);
    run.finish();
}

#[test]
fn whoever_asks_is_remembered() {
    let run = Launch::standin("").workers("1").start();
    let mark = run.log.mark();
    run.signal(Signal::HUP);
    run.log.wait_for(mark, "reload_committed", LIMIT);
    let asked = story(&run).reloads[0].asked.clone();
    assert_eq!(asked.by, "signal");
    assert_eq!(asked.pid, Some(std::process::id()), "{asked:?}");
    assert!(asked.text.starts_with("HUP from "), "{asked:?}");

    let name = run.app().name;
    let path = format!("/v1/apps/{name}/reload");
    let answer = http::request_unix(&run.control, "POST", &path, "").expect("an answer");
    assert!(
        answer.text().contains("event: outcome"),
        "{}",
        answer.text()
    );
    let asked = story(&run).reloads[1].asked.clone();
    assert_eq!(
        (asked.by.as_str(), asked.pid),
        ("api", Some(std::process::id()))
    );
    assert!(asked.text.contains("the control API, by "), "{asked:?}");
    run.finish();
}

#[test]
fn restarts_are_told_by_their_cause() {
    let run = Launch::node("plain.js").start();
    let ready = |app: &segue_wire::control::App| {
        let ready = |worker: &&segue_wire::control::Worker| worker.phase == WorkerPhase::Ready;
        app.workers.iter().filter(ready).count() == 2
    };
    let restarts = |count| {
        move |app: &segue_wire::control::App| {
            app.restarts.iter().map(|it| it.count).sum::<u64>() == count
        }
    };
    let mark = run.log.mark();
    http::get(run.address(), "/throw").expect_err("no answer from a process that throws");
    let told = run.log.wait_for(mark, "worker_failed", LIMIT);
    run.until("one restart", |app| restarts(1)(app) && ready(app));
    kill(run.ready_pids()[0]);
    let app = run.until("two restarts", |app| restarts(2)(app) && ready(app));
    let causes: Vec<&str> = app.restarts.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(causes, ["exit code 1", "SIGKILL"]);

    let story = story(&run);
    let [thrown, killed] = story.restarts.as_slice() else {
        panic!("{story:#?}");
    };
    assert_eq!((thrown.failure.exit_code, thrown.generation), (Some(1), 1));
    let words = &thrown.failure.stderr;
    assert!(
        words
            .iter()
            .any(|line| line.contains("the fixture was asked to throw"))
    );
    assert!(
        told.text.contains(&thrown.failure.text),
        "events say the same: {told:?}"
    );
    assert_eq!(killed.failure.signal.as_deref(), Some("SIGKILL"));
    assert_eq!(
        killed.failure.out_of_memory, None,
        "nobody was out of memory"
    );
    run.segue(&["why"]).expect(0).says(&[
        "restarts since the start: 2: 1 exit code 1, 1 SIGKILL",
        &thrown.failure.text,
        "the fixture was asked to throw",
    ]);
    run.segue(&["status"])
        .expect(0)
        .says(&["restarts since the start: 2"]);
    run.segue(&["status", "--check"]).expect(0);
    run.finish();
}

#[test]
fn a_full_heap_is_named() {
    let run = Launch::node("plain.js")
        .workers("1")
        .flag("--node-arg", "--max-old-space-size=32")
        .start();
    http::get(run.address(), "/fill").expect_err("no answer from a process that aborts");
    let app = run.until("it has been restarted", |app| !app.restarts.is_empty());
    assert_eq!(app.restarts[0].text, "out of memory, node's heap is full");
    run.segue(&["why"])
        .expect(0)
        .says(&["its JavaScript heap was full", "--max-old-space-size"]);
    run.finish();
}

#[test]
fn what_drains_and_why_it_is_still_there() {
    let run = Launch::node("plain.js").workers("1").start();
    let old = run.ready_pids()[0];
    let mut stream = std::net::TcpStream::connect(run.address()).expect("connect");
    std::io::Write::write_all(
        &mut stream,
        b"GET /delay?ms=20000 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .expect("ask for something slow");
    run.roll("v2", "plain.js");
    run.until("the old worker says what it waits for", |app| {
        let draining = |worker: &segue_wire::control::Worker| {
            worker.pid == Some(old) && worker.draining.is_some_and(|it| it.busy == 1)
        };
        app.workers.iter().any(draining)
    });
    run.segue(&["why"]).expect(0).says(&[
        &format!("pid {old}) of generation 1 is "),
        "a newer generation serves",
        "waits for 1 busy",
        "at most",
    ]);
    drop(stream);
    run.finish();
}

fn loop_of_restarts() -> Run {
    Launch::standin("")
        .flag("--backoff-min", "10ms")
        .flag("--backoff-max", "50ms")
        .flag("--intensity", "3/1m")
        .workers("1")
        .start()
}

/// Breaks the release that serves, so that its only slot is given up, and returns how it was.
fn give_up(run: &Run) -> Vec<u8> {
    let behaviour = run.site.path("releases/v1/behaviour");
    let works = std::fs::read(&behaviour).expect("read the behaviour");
    std::fs::write(&behaviour, "exit-at-boot=7 stderr=no_database").expect("break the release");
    kill(run.ready_pids()[0]);
    run.until("the slot is given up", |app| {
        app.slots.iter().all(|slot| slot.given_up)
    });
    works
}

#[test]
fn a_restart_loop_ends_loudly() {
    let run = loop_of_restarts();
    run.segue(&["status", "--check"]).expect(0);
    let mark = run.log.mark();
    let works = give_up(&run);
    run.log.wait_for(mark, "slot_given_up", LIMIT);
    // The log has a thread of its own.
    run.log.wait_for(mark, "segue: slot 0 is given up: ", LIMIT);
    run.until("connections are refused", |app| {
        app.addresses.iter().all(|address| address.refusing)
    });
    let check = run.segue(&["status", "--check"]);
    check.expect(1);
    for text in [
        "slot 0 is given up after",
        "exited with code 7",
        "connections are refused",
        "no worker of",
    ] {
        assert!(check.err.contains(text), "{check:#?}");
    }
    run.segue(&["why"])
        .expect(0)
        .says(&["slot 0 is given up after", "| no database"]);

    let metrics = || {
        let answer = http::get_unix(&run.control, "/v1/metrics").expect("an answer");
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    let given_up = format!("segue_slots_given_up{{app=\"{}\"}} ", run.app().name);
    let alert = metrics();
    assert!(alert.contains(&format!("{given_up}1\n")), "{alert}");

    std::fs::write(run.site.path("releases/v1/behaviour"), works).expect("mend the release");
    run.reload().expect(0);
    run.segue(&["status", "--check"]).expect(0);
    let calm = metrics();
    assert!(calm.contains(&format!("{given_up}0\n")), "{calm}");
    run.finish();
}

#[test]
fn a_start_that_never_becomes_ready_is_a_trouble() {
    let run = Launch::standin("")
        .workers("2")
        .flag("--backoff-min", "30s")
        .start();
    let behaviour = run.site.path("releases/v1/behaviour");
    std::fs::write(&behaviour, "exit-at-boot=7").expect("break the release");
    // The first respawn is at once, the second one waits.
    kill(run.ready_pids()[0]);
    run.until("its successor has failed", |app| {
        app.slots.iter().any(|slot| slot.respawn_in_ms.is_some())
    });
    let check = run.segue(&["status", "--check"]);
    check.expect(1);
    assert!(check.err.contains("never became ready"), "{check:#?}");
    assert!(
        !check.err.contains("no worker of"),
        "the other one is: {check:#?}"
    );
    run.finish();
}

#[test]
fn both_versions_are_shown() {
    let run = Launch::standin("").workers("1").start();
    let supervisor = run.status().supervisor;
    assert_eq!(
        supervisor.keeper_version.as_deref(),
        Some(supervisor.version.as_str())
    );
    let version = &supervisor.version;
    let line = format!("segue {version} (main process {version})");
    run.segue(&["status"]).expect(0).says(&[&line]);
    run.finish();
}

#[test]
fn there_is_nothing_to_promote_without_a_trial() {
    let run = Launch::standin("").workers("1").start();
    let outcome = run.segue(&["promote"]);
    outcome
        .expect(1)
        .says(&["cannot promote", "no reload is on trial"]);
    run.segue(&["promote", "unknown"]).expect(3);
    run.finish();
}

#[test]
fn a_slot_that_was_given_up_is_tried_again_at_a_restart() {
    let run = loop_of_restarts();
    let works = give_up(&run);
    std::fs::write(run.site.path("releases/v1/behaviour"), works).expect("mend the release");
    run.segue(&["restart"]).expect(0).says(&["was restarted"]);
    run.segue(&["status", "--check"]).expect(0);
    assert_eq!(run.get("/").version(), "v1");
    let record = story(&run).reloads[0].clone();
    assert_eq!(
        (record.kind.as_str(), record.outcome),
        ("restart", ReloadOutcome::Committed)
    );
    assert!(
        record.asked.text.starts_with("`segue restart` by "),
        "{record:?}"
    );
    run.finish();
}

#[test]
fn back_to_the_release_before_after_the_commit() {
    let run = Launch::standin("").workers("1").start();
    run.segue(&["rollback"])
        .expect(1)
        .says(&["cannot roll back", "no release has served before"]);
    run.roll("v2", "");
    assert_eq!(run.get("/").version(), "v2");
    run.segue(&["rollback"])
        .expect(0)
        .says(&["rolled back: the release of generation 1"]);
    assert_eq!(run.get("/").version(), "v1");
    let told = story(&run);
    let record = told.reloads.last().expect("a record");
    assert_eq!(
        (record.kind.as_str(), record.outcome),
        ("rollback", ReloadOutcome::Committed)
    );
    assert!(
        record.release.as_ref().is_some_and(|it| it.ends_with("v1")),
        "{record:?}"
    );
    run.finish();
}

#[test]
fn a_trial_can_be_ended_either_way() {
    let run = Launch::standin("")
        .workers("1")
        .flag("--probation", "10m")
        .start();
    let on_trial = |version: &str| {
        run.site.deploy(version, "");
        let reload = run.segue_beside(&["reload"]);
        run.until("it is on trial", |app| {
            app.reload.as_ref().is_some_and(|it| it.step == "probation")
        });
        assert_eq!(run.get("/").version(), version);
        reload
    };
    let reload = on_trial("v2");
    run.segue(&["status"])
        .expect(0)
        .says(&["the old workers stay for 10 min", "left"]);
    run.segue(&["rollback"]).expect(0).says(&["serves on"]);
    reload
        .wait(LIMIT)
        .expect(1)
        .says(&["rolled back on request"]);
    assert_eq!(run.get("/").version(), "v1");
    let record = story(&run).reloads[0].clone();
    assert_eq!(record.outcome, ReloadOutcome::Failed);
    assert!(
        record.text.contains("by `segue rollback` by "),
        "{record:?}"
    );

    let reload = on_trial("v3");
    run.segue(&["promote"])
        .expect(0)
        .says(&["committed before its time"]);
    reload.wait(LIMIT).expect(0);
    assert_eq!(run.get("/").version(), "v3");
    let steps: Vec<String> = story(&run).reloads[1]
        .steps
        .iter()
        .map(|it| it.step.clone())
        .collect();
    assert!(steps.iter().any(|step| step == "probation"), "{steps:?}");
    run.finish();
}
