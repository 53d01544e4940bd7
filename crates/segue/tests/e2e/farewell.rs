//! How a worker is told to end, once it has drained: as the app wants it, and under load without a loss.

use segue_load::Phase;

use crate::drain::{assert_unnoticed, mixed, stop_under_keep_alive_load};
use crate::harness::heavy;
use crate::harness::load::{Clients, render};
use crate::harness::nodes::each_node;
use crate::harness::output::Stream;
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch};

/// The app ends the process the moment it hears of it; all of its workers have to hear of it in this
/// way, in a reload and in a stop, and in no other.
fn is_told(launch: Launch, request: &str, word: &str) {
    let run = launch.flag("--stop-request", request).recording().start();
    let clients = Clients::start(mixed(100), run.address());
    clients.wait_for_answers(1000);
    clients.mark("reload", Phase::Reload);
    run.roll("v2", "pm2.js");
    clients.committed("v2");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    clients.wait_for_answers(1000);
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_unnoticed(&report, &run);
    Record::read(&run).expect_each_once(report.requests(), &run);
    let log = run.log.clone();
    stop_under_keep_alive_load(run);
    log.wait_for_end(3, LIMIT);
    let heard: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.stream == Stream::Out && line.text.contains("heard "))
        .collect();
    let wanted = format!("heard {word}");
    assert!(
        heard.len() == 4 && heard.iter().all(|line| line.text.ends_with(&wanted)),
        "{heard:#?}\n{}",
        log.render()
    );
}

#[test]
fn an_app_of_pm2_that_waits_for_a_message_gets_it_and_loses_nothing() {
    let _turn = heavy();
    each_node(|node| {
        let launch = Launch::node("pm2.js").with_node(node);
        is_told(launch, "message:shutdown", "shutdown");
    });
}

#[test]
fn an_app_of_pm2_that_waits_for_sigint_gets_it_and_loses_nothing() {
    let _turn = heavy();
    is_told(Launch::node("pm2.js"), "SIGINT", "SIGINT");
}
