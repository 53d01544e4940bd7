//! Which workers drain by the preload script, what is said of those that do not, and what a drain shows
//! while it lasts.

use std::io::Write;
use std::net::TcpStream;

use segue_wire::control::{App, Drain, WorkerPhase};

use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch};

fn drains_fully(app: &App) -> bool {
    app.workers.iter().all(|worker| worker.drain == Drain::Full)
}

#[test]
fn programs_of_every_kind_have_the_script() {
    each_node(|node| {
        for fixture in ["plain.js", "module.mjs", "explicit.cjs", "typed.ts"] {
            if fixture == "typed.ts" && node.major < 24 {
                continue;
            }
            let run = Launch::node(fixture).with_node(node).start();
            run.until(fixture, drains_fully);
            run.finish();
        }
    });
}

#[test]
fn a_worker_without_the_script_serves_and_the_status_says_so() {
    let run = Launch::node("plain.js").flag("--preload", "off").start();
    let app = run.app();
    assert!(
        app.workers
            .iter()
            .all(|worker| worker.drain == Drain::Plain && worker.drain_note.is_some()),
        "{app:#?}"
    );
    run.segue(&["status"]).expect(0).says(&[
        "drain: plain (",
        "idle keep-alive connections are closed in a reload",
    ]);
    assert_eq!(run.get("/").version(), "v1");
    run.roll("v2", "plain.js");
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

/// A request that the app is at work on, and one that stalls: both are shown, with what becomes of them.
#[test]
fn a_drain_shows_what_it_waits_for_and_what_it_has_cut_off() {
    let run = Launch::node("plain.js")
        .workers("1")
        .flag("--drain-stall", "1s")
        .flag("--drain-timeout", "4s")
        .start();
    let begin = |request: &str| {
        let mut stream = TcpStream::connect(run.address()).expect("connect");
        stream.write_all(request.as_bytes()).expect("ask");
        stream
    };
    let _at_work = begin("GET /delay?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n");
    let _stalled = begin("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    let mark = run.log.mark();
    run.roll("v2", "plain.js");
    let app = run.until("the stalled one is cut off", |app| {
        let draining = app.workers.iter().find_map(|worker| worker.draining);
        draining.is_some_and(|draining| draining.cut == 1)
    });
    let old = app
        .workers
        .iter()
        .find(|worker| worker.phase == WorkerPhase::Draining)
        .expect("it still drains");
    let draining = old.draining.expect("it says what is left");
    assert_eq!(
        (draining.busy, draining.cut, draining.stalled),
        (1, 1, 1),
        "{draining:#?}"
    );
    assert!(draining.oldest_ms >= 1000, "{draining:#?}");
    assert!(old.until_in_ms.is_some(), "{old:#?}");
    run.segue(&["status"])
        .expect(0)
        .says(&["drains 1 busy; oldest ", " at most; 1 cut off (1 stalled)"]);
    run.log.wait_for(mark, ": 2 cut off (1 stalled)", LIMIT);
    run.finish();
}
