//! The supervisor becomes another binary in place: same process, same workers, and nobody notices.
//! One that cannot do its work never gets its place, or loses it at once.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;
use segue_load::Phase;
use segue_wire::control::WorkerPhase;

use crate::drain::{assert_unnoticed, mixed};
use crate::harness::everything::{self, Everything};
use crate::harness::load::Clients;
use crate::harness::nodes::nodes;
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{heavy, impostor, lasting};
use crate::takeover::kill_supervisor;

/// Who does the work: the main process, the supervisor, the workers.
fn crew(run: &Run) -> (u32, u32, Vec<u32>) {
    (run.main.pid, run.status().supervisor.pid, run.ready_pids())
}

fn upgraded_under_the_whole_load(upgrades: u32) {
    let _turn = heavy();
    for node in nodes() {
        let run = everything::app(&node).start();
        let before = crew(&run);
        let clients = Everything::start(&run);
        clients.wait_for_answers(300);
        for number in 0..upgrades {
            clients.mark(&format!("upgrade {number}"), Phase::Fault);
            run.upgrade().expect(0).says(&["without a supervisor"]);
            clients.wait_for_answers(100);
            assert_eq!(crew(&run), before, "the same processes");
            clients.assert_unharmed(&run);
        }
        run.roll("v2", "everything.js");
        clients.committed("v2");
        clients.wait_for_answers(300);
        clients.stop(&run);
        run.finish();
    }
}

#[test]
fn an_upgrade_is_not_noticed() {
    upgraded_under_the_whole_load(2);
}

#[test]
#[ignore = "long"]
fn twenty_upgrades_are_not_noticed() {
    upgraded_under_the_whole_load(20);
}

/// A reload under way is finished by the new supervisor, whatever it was at, and the command that waits for it hears so.
fn upgraded_during_reloads(times: u32) {
    let _turn = heavy();
    for node in nodes() {
        let run = Launch::node("recorded.js")
            .with_node(&node)
            .recording()
            .start();
        let supervisor = run.status().supervisor.pid;
        let clients = Clients::start(mixed(50), run.address());
        clients.wait_for_answers(500);
        for number in 0..times {
            let version = format!("v{}", number + 2);
            clients.mark(format!("upgrade in the reload to {version}"), Phase::Reload);
            run.site.deploy(&version, "recorded.js");
            let reload = run.segue_beside(&["reload", "--wait", "drained"]);
            // At another point of it each time.
            match number % 3 {
                0 => drop(run.until("it has begun", |app| app.reload.is_some())),
                1 => drop(run.until("new ones are ready", |app| {
                    let is_new = |worker: &&segue_wire::control::Worker| {
                        worker.generation == number + 2 && worker.phase == WorkerPhase::Ready
                    };
                    app.workers.iter().filter(is_new).count() == 2
                })),
                _ => drop(run.until("the old ones leave", |app| app.generation == number + 2)),
            }
            run.upgrade().expect(0);
            reload.wait(LIMIT).expect(0);
            clients.committed(&version);
            assert_eq!(run.app().generation, number + 2);
            assert_eq!(run.status().supervisor.pid, supervisor);
            clients.wait_for_answers(100);
        }
        let report = clients.stop();
        assert_unnoticed(&report, &run);
        Record::read(&run).expect_each_once(report.requests(), &run);
        run.finish();
    }
}

#[test]
fn an_upgrade_in_the_middle_of_a_reload_finishes_it() {
    upgraded_during_reloads(3);
}

#[test]
#[ignore = "long"]
fn thirty_upgrades_in_the_middle_of_reloads_finish_them() {
    upgraded_during_reloads(30);
}

#[test]
fn usr2_upgrades_to_what_has_been_installed_in_its_place() {
    let launch = Launch::standin("");
    let installed = launch.site.path("segue");
    let install = || {
        let fresh = installed.with_extension("new");
        std::fs::copy(env!("CARGO_BIN_EXE_segue"), &fresh).expect("copy the binary");
        std::fs::rename(&fresh, &installed).expect("put it in its place");
    };
    install();
    let run = launch.binary(installed.clone()).start();
    let before = crew(&run);
    for _ in 0..2 {
        // As package managers do it: another file under the same name.
        install();
        let mark = run.log.mark();
        run.signal(Signal::USR2);
        run.log.wait_for(mark, "without a supervisor", LIMIT);
        assert_eq!(crew(&run), before);
        let exe = std::fs::read_link(format!("/proc/{}/exe", before.1)).expect("its binary");
        assert_eq!(exe, installed, "the file that is there now");
    }
    let gone = installed.with_extension("gone");
    std::fs::rename(&installed, gone).expect("move the binary");
    std::fs::remove_file(installed.with_extension("gone")).expect("remove it");
    let mark = run.log.mark();
    run.signal(Signal::USR2);
    run.log.wait_for(mark, "No such file", LIMIT);
    assert_eq!(crew(&run), before);
    run.finish();
}

/// Writes an executable file.
fn executable(run: &Run, name: &str, bytes: &[u8]) -> PathBuf {
    let path = run.site.path(name);
    std::fs::write(&path, bytes).expect("write it");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, all).expect("make it executable");
    path
}

#[test]
fn a_binary_that_cannot_read_the_state_is_refused_with_the_reason() {
    let run = Launch::standin("").start();
    let before = crew(&run);
    let mut foreign = std::fs::read(env!("CARGO_BIN_EXE_segue")).expect("read the binary");
    // e_machine: a Motorola 68000 (elf(5)).
    foreign[18..20].copy_from_slice(&[4, 0]);
    let locked = executable(&run, "locked", b"x");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o644)).expect("lock it");
    let cases = [
        (PathBuf::from("/no/such/segue"), "No such file"),
        (run.site.path(""), "Permission denied"),
        (locked, "Permission denied"),
        (executable(&run, "empty", b""), "Exec format error"),
        (
            executable(&run, "text", b"not a program"),
            "Exec format error",
        ),
        (executable(&run, "foreign", &foreign), "Exec format error"),
        ("/bin/true".into(), "is it segue"),
        ("/bin/false".into(), "exited with code 1"),
    ];
    for (binary, why) in cases {
        let outcome = run.upgrade_to(&binary);
        outcome.expect(1).says(&[why, "goes on", "--binary"]);
        assert_eq!(crew(&run), before, "{}", binary.display());
    }
    assert_eq!(run.get("/").version(), "v1");
    run.upgrade().expect(0);
    run.finish();
}

/// Puts an impostor down that reads the state and then does as it is told.
fn impostor_that(run: &Run, then: &str) -> PathBuf {
    let path = run.site.path(&format!("impostor-{then}"));
    std::fs::copy(impostor(), &path).expect("copy it");
    std::fs::write(path.with_extension("real"), env!("CARGO_BIN_EXE_segue")).expect("write");
    std::fs::write(path.with_extension("then"), then).expect("write");
    path
}

#[test]
fn one_that_reads_the_state_and_does_not_serve_loses_its_place_again() {
    let _turn = lasting();
    let run = Launch::node("recorded.js").recording().start();
    let workers = run.ready_pids();
    let clients = Clients::start(mixed(50), run.address());
    clients.wait_for_answers(500);
    for then in ["exits", "panics", "hangs"] {
        clients.mark(format!("an impostor that {then}"), Phase::Fault);
        run.upgrade_to(&impostor_that(&run, then))
            .expect(1)
            .says(&["could not take over", "goes on"]);
        clients.wait_for_answers(200);
        assert_eq!(run.ready_pids(), workers, "no worker was restarted");
    }
    run.upgrade().expect(0);
    run.roll("v2", "recorded.js");
    clients.committed("v2");
    clients.wait_for_answers(200);
    let report = clients.stop();
    assert_unnoticed(&report, &run);
    Record::read(&run).expect_each_once(report.requests(), &run);
    run.finish();
}

#[test]
fn a_probe_that_hangs_is_ended_and_meanwhile_another_upgrade_is_refused() {
    let run = Launch::standin("").start();
    let before = crew(&run);
    let slow = impostor_that(&run, "exits");
    let gate = slow.with_extension("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("run mkfifo").success());
    let first = run.segue_beside(&["upgrade", "--binary", &slow.to_string_lossy()]);
    // Opens when the probe waits at the other end.
    let held = std::fs::OpenOptions::new().write(true).open(&gate);
    let held = held.expect("open the gate");
    run.upgrade()
        .expect(4)
        .says(&["another upgrade is under way"]);
    first
        .wait(LIMIT)
        .expect(1)
        .says(&["did not read the state within 10 s"]);
    drop(held);
    assert_eq!(crew(&run), before);

    // Whoever takes over from one that is killed meanwhile begins it again.
    let second = run.segue_beside(&["upgrade", "--binary", &slow.to_string_lossy()]);
    let held = std::fs::OpenOptions::new().write(true).open(&gate);
    let held = held.expect("open the gate");
    kill_supervisor(&run);
    second
        .wait(LIMIT)
        .expect(1)
        .says(&["did not read the state within 10 s"]);
    drop(held);
    assert_eq!(run.ready_pids(), before.2);
    run.upgrade().expect(0);
    run.finish();
}
