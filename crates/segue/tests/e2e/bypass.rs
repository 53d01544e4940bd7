//! Servers that cannot be on the supervisor's sockets: they are named, with what that costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::harness::http;
use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch};

#[test]
fn a_server_in_a_worker_thread_is_named_with_what_it_costs() {
    each_node(|node| {
        let run = Launch::node("thread.js")
            .with_node(node)
            .workers("1")
            .start();
        let number = run.site.other_port.number();
        let place = format!(":::{number} in a worker thread");
        run.log.wait_for(0, &place, LIMIT);
        let app = run.until("it is in the status", |app| {
            !app.workers[0].bypasses.is_empty()
        });
        assert_eq!(app.workers[0].bypasses, std::slice::from_ref(&place));
        run.segue(&["status"]).expect(0).says(&[
            &format!("listens at {place}"),
            "a reload cannot hand that port over, and connections to it are lost with their worker",
        ]);
        // That is what it costs: the successor's thread finds the port taken, and then nobody has it.
        let other: SocketAddr = (Ipv4Addr::LOCALHOST, number).into();
        assert_eq!(http::get(other, "/").expect("an answer").version(), "v1");
        run.roll("v2", "thread.js");
        assert!(run.log.contains("the thread: EADDRINUSE"));
        run.until("the old generation is gone", |app| app.workers.len() == 1);
        assert_eq!(run.get("/").version(), "v2");
        assert!(http::get(other, "/").is_err());
        run.finish();
    });
}

#[test]
fn an_app_that_listens_only_in_a_thread_fails_with_that_reason() {
    let launch = Launch::node("thread.js")
        .workers("1")
        .arguments(&["only"])
        .flag("--ready-timeout", "3s");
    let (code, run) = launch.start_and_fail(Duration::from_secs(20));
    assert_eq!(code, 1, "{}", run.log.render());
    let number = run.site.other_port.number();
    let reason = format!(
        "listened nowhere within 3 s: it listens at :::{number} in a worker thread, out of reach"
    );
    assert!(run.log.contains(&reason), "{}", run.log.render());
}
