//! What `segue status` prints of a status.

use segue_wire::control::{CanaryProgress, Draining, Failure, RestartCount, Trouble};

use super::*;
use crate::cli::output::kept;

fn worker(id: u32, slot: u32, generation: u32, phase: WorkerPhase) -> Worker {
    Worker {
        worker: id,
        slot,
        generation,
        pid: Some(4000 + id),
        phase,
        since_ms: 192_345,
        age_ms: Some(200_000),
        memory: Some(47 * 1024 * 1024),
        cpu_ms: Some(2_500),
        ..Worker::default()
    }
}

fn app() -> App {
    App {
        name: "web".to_owned(),
        phase: AppPhase::Running,
        generation: 2,
        release: Some("/srv/web/releases/7".to_owned()),
        addresses: vec![Address {
            name: "0.0.0.0:3000".to_owned(),
            queued: Some(0),
            ..Address::default()
        }],
        slots: (0..2)
            .map(|slot| Slot {
                slot,
                worker: Some(3 + slot),
                ..Slot::default()
            })
            .collect(),
        workers: vec![
            Worker {
                until_in_ms: Some(107_000),
                ..worker(1, 0, 1, WorkerPhase::Draining)
            },
            worker(3, 0, 2, WorkerPhase::Ready),
            worker(4, 1, 2, WorkerPhase::Ready),
        ],
        ..App::default()
    }
}

#[test]
fn a_reload_that_drains() {
    let (output, out, _) = kept::output();
    let status = Status {
        supervisor: Supervisor {
            version: "0.1.0".to_owned(),
            pid: 3999,
            keeper_pid: Some(3998),
            keeper_version: Some("0.0.9".to_owned()),
            since_ms: 11_100_000,
            memory: None,
            control: Some("/run/segue/web.sock".to_owned()),
            unclaimed: Vec::new(),
        },
        apps: vec![app()],
    };
    show(&status, &output);
    let expected = "\
web  running  generation 2  /srv/web/releases/7
  0.0.0.0:3000
  SLOT  GEN  WORKER  PID   PHASE     SINCE       MEMORY  CPU   RESTARTS
  0     2    3       4003  ready     3 min 12 s  47 MiB  1.2%  0
  1     2    4       4004  ready     3 min 12 s  47 MiB  1.2%  0
  0     1    1       4001  draining  3 min 12 s  47 MiB  1.2%  0         finishes its connections, 1 min 47 s at most
segue 0.1.0 (main process 0.0.9), pid 3998, up 3 h 5 min, control socket /run/segue/web.sock
";
    assert_eq!(out.text(), expected);
}

#[test]
fn what_a_drain_waits_for() {
    let mut app = app();
    app.workers.truncate(1);
    app.slots.clear();
    app.release = None;
    app.workers[0].draining = Some(Draining {
        busy: 3,
        websocket: 1,
        oldest_ms: 720_000,
        moved: 118,
        cut: 1,
        ..Draining::default()
    });
    app.workers[0].drain = Drain::Full;
    app.workers[0].drain_note = Some("Node 27 is not known".to_owned());
    app.workers[0].bypasses = vec!["0.0.0.0:9000".to_owned()];
    let (output, out, _) = kept::output();
    show_app(&app, &output);
    let expected = "\
web  running  generation 2
  0.0.0.0:3000
  SLOT  GEN  WORKER  PID   PHASE     SINCE       MEMORY  CPU   RESTARTS
  0     1    1       4001  draining  3 min 12 s  47 MiB  1.2%  0         drains 3 busy, 1 websocket; oldest 12 min; 1 min 47 s at most; 118 moved, 1 cut off
  drain: Node 27 is not known
  the app listens at 0.0.0.0:9000 on a socket of its own: a reload cannot hand that port over, and connections to it are lost with their worker
";
    assert_eq!(out.text(), expected);

    app.workers[0].draining = None;
    app.workers[0].bypasses.clear();
    app.workers[0].drain = Drain::Plain;
    app.workers[0].drain_note = Some("--preload off".to_owned());
    let (output, out, _) = kept::output();
    show_app(&app, &output);
    let last =
        "  drain: plain (--preload off); idle keep-alive connections are closed in a reload\n";
    assert!(out.text().ends_with(last), "{}", out.text());
}

#[test]
fn a_slot_that_is_given_up() {
    let (output, out, _) = kept::output();
    let mut app = app();
    app.workers.clear();
    app.release = None;
    app.addresses[0].refusing = true;
    app.troubles = vec![Trouble {
        kind: "slot_given_up".to_owned(),
        text: "slot 0 is given up after 10 restarts".to_owned(),
        next: "mend it".to_owned(),
    }];
    app.restarts = vec![RestartCount {
        cause: "exited_booting".to_owned(),
        text: "exit code 1".to_owned(),
        count: 11,
    }];
    app.slots = vec![Slot {
        slot: 0,
        restarts: 10,
        given_up: true,
        last_failure: Some(Failure {
            text: "worker 9 (slot 0, pid 77) exited with code 1 before it was ready".to_owned(),
            stderr: vec!["Error: no such table".to_owned()],
            ..Failure::default()
        }),
        ..Slot::default()
    }];
    show_app(&app, &output);
    let expected = "\
web  running  generation 2
  0.0.0.0:3000  refuses connections: no worker serves
  last failure: worker 9 (slot 0, pid 77) exited with code 1 before it was ready
    its last lines on stderr:
    | Error: no such table
  slot 0 is given up after 10 restarts
    what to do: mend it
  restarts since the start: 11: 11 exit code 1
";
    assert_eq!(out.text(), expected);
}

#[test]
fn a_check_says_why_it_fails() {
    let (output, _, err) = kept::output();
    let mut status = Status {
        apps: vec![app()],
        ..Status::default()
    };
    assert_eq!(check(&status, &output), Exit::Done);
    status.apps[0].troubles = ["mend it", ""]
        .map(|next| Trouble {
            kind: "slot_given_up".to_owned(),
            text: "slot 0 is given up".to_owned(),
            next: next.to_owned(),
        })
        .to_vec();
    assert_eq!(check(&status, &output), Exit::Failed);
    let expected = "segue: web: slot 0 is given up; mend it\nsegue: web: slot 0 is given up\n";
    assert_eq!(err.text(), expected);
}

#[test]
fn a_canary_shows_what_it_has_come_to() {
    let (output, out, _) = kept::output();
    let reload = Reload {
        reload: 3,
        generation: 4,
        since_ms: 12_345,
        step_text: "10 % of the new connections go to it for 1 min".to_owned(),
        until_in_ms: Some(48_000),
        canary: Some(CanaryProgress {
            percent: 10,
            until_in_ms: 48_000,
            new: Answers {
                answers: 120,
                errors: 1,
            },
            old: Answers {
                answers: 1_100,
                errors: 0,
            },
        }),
        ..Reload::default()
    };
    show_reload(&reload, &output);
    let expected = "  reload 3 for 12 s: generation 4: 10 % of the new connections go to it for 1 min, 48 s left
  canary: 10 % of new connections, 48 s left; new 1 errors in 120 answers, old 0 errors in 1100 answers
";
    assert_eq!(out.text(), expected);
}

#[test]
fn quantities() {
    assert_eq!(memory(1_610_612_736), "1.5 GiB");
    assert_eq!(memory(0), "0 MiB");
    assert_eq!(share(&Worker::default()), None);
    assert_eq!(ms(59_999), "59 s");
}
