//! A reload that keep-alive clients cannot notice: no request fails, no connection is closed, nothing
//! is done twice, in apps that were not written for it.

use std::time::Duration;

use segue_load::{Builder, Contract, FailureKind, Load, Mixed, Phase, Report, Think};

use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::{each_node, next_site};
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{heavy, skip};

/// The full contract, and the client's port: proof that its connection is still the same.
fn contract() -> Contract {
    Contract {
        port: true,
        ..Contract::full()
    }
}

/// So many keep-alive connections with everything on them.
pub(crate) fn mixed(clients: u32) -> Builder {
    let kind = Mixed {
        clients,
        ..Mixed::default()
    };
    Load::builder()
        .with(kind)
        .contract(contract())
        .answer_timeout(Duration::from_secs(20))
}

/// So many reloads in a row, each answered by its version before the next begins.
fn reload_in_a_row(run: &Run, clients: &Clients, fixture: &str, reloads: u32, answers: u64) {
    clients.wait_for_answers(answers);
    for number in 0..reloads {
        let version = format!("v{}", number + 2);
        clients.mark(format!("reload to {version}"), Phase::Reload);
        run.roll(&version, fixture);
        clients.committed(&version);
        clients.wait_for_answers(answers);
    }
}

/// Everything that a client could have noticed.
#[track_caller]
pub(crate) fn assert_unnoticed(report: &Report, run: &Run) {
    assert_flawless(report, run);
    assert_eq!(
        report.closed_by_server(),
        0,
        "connections were closed\n{}\n{}",
        render(report),
        run.log.render()
    );
}

/// Mixed load on kept connections, several reloads: nothing is lost, closed or done twice.
fn unnoticed(launch: Launch, fixture: &str, connections: u32, reloads: u32, answers: u64) {
    let run = launch.recording().start();
    let clients = Clients::start(mixed(connections), run.address());
    reload_in_a_row(&run, &clients, fixture, reloads, answers);
    let report = clients.stop();
    eprintln!("{fixture}: {}", render(&report));
    assert_unnoticed(&report, &run);
    assert_eq!(
        report.versions.len(),
        reloads as usize + 1,
        "every version answered"
    );
    Record::read(&run).expect_each_once(report.requests(), &run);
    run.finish();
}

fn unnoticed_with_every_node(fixture: &str) {
    let _turn = heavy();
    each_node(|node| {
        unnoticed(Launch::node(fixture).with_node(node), fixture, 200, 4, 1500);
    });
}

#[test]
fn keep_alive_clients_notice_nothing_without_a_signal_handler() {
    unnoticed_with_every_node("plain.js");
}

#[test]
fn keep_alive_clients_notice_nothing_when_the_app_closes_its_server() {
    unnoticed_with_every_node("graceful.js");
}

#[test]
fn keep_alive_clients_notice_nothing_when_the_app_exits_on_sigterm() {
    unnoticed_with_every_node("abrupt.js");
}

#[test]
fn keep_alive_clients_notice_nothing_when_the_app_replaces_process_send() {
    let _turn = heavy();
    unnoticed(Launch::node("own-send.js"), "own-send.js", 100, 2, 1000);
}

#[test]
fn keep_alive_clients_notice_nothing_with_one_socket_for_all() {
    let _turn = heavy();
    let launch = Launch::node("plain.js").flag("--distribution", "shared");
    unnoticed(launch, "plain.js", 100, 2, 1000);
}

fn twenty_reloads_with_every_node(fixture: &str) {
    let _turn = heavy();
    each_node(|node| {
        let launch = Launch::node(fixture).with_node(node);
        unnoticed(launch, fixture, 200, 20, 5000);
    });
}

#[test]
#[ignore = "long"]
fn twenty_reloads_and_a_hundred_thousand_requests_go_unnoticed_without_a_signal_handler() {
    twenty_reloads_with_every_node("plain.js");
}

#[test]
#[ignore = "long"]
fn twenty_reloads_and_a_hundred_thousand_requests_go_unnoticed_when_the_app_closes_its_server() {
    twenty_reloads_with_every_node("graceful.js");
}

#[test]
#[ignore = "long"]
fn twenty_reloads_and_a_hundred_thousand_requests_go_unnoticed_when_the_app_exits_on_sigterm() {
    twenty_reloads_with_every_node("abrupt.js");
}

fn framework(fixture: &str, connections: u32, reloads: u32, answers: u64) {
    let _turn = heavy();
    each_node(|node| {
        if node.major < 20 {
            skip("the frameworks of the lock file ask for Node 20");
            return;
        }
        let launch = Launch::node(fixture).with_node(node).with_frameworks();
        unnoticed(launch, fixture, connections, reloads, answers);
    });
}

#[test]
fn keep_alive_clients_of_express_notice_nothing() {
    framework("express.js", 100, 2, 1000);
}

#[test]
fn keep_alive_clients_of_fastify_notice_nothing() {
    framework("fastify.js", 100, 2, 1000);
}

#[test]
fn keep_alive_clients_of_koa_notice_nothing() {
    framework("koa.js", 100, 2, 1000);
}

#[test]
fn keep_alive_clients_of_hapi_notice_nothing() {
    framework("hapi.js", 100, 2, 1000);
}

#[test]
#[ignore = "long"]
fn keep_alive_clients_of_every_framework_notice_nothing_for_longer() {
    for fixture in ["express.js", "fastify.js", "koa.js", "hapi.js"] {
        framework(fixture, 200, 10, 3000);
    }
}

#[test]
#[ignore = "long"]
fn keep_alive_clients_of_a_next_server_notice_nothing() {
    let _turn = heavy();
    let site = next_site();
    each_node(|node| {
        if node.major < 20 {
            skip("Next.js asks for Node 20");
            return;
        }
        let launch = Launch::node("next.js")
            .with_node(node)
            .env("NODE_ENV", "production")
            .env("NEXT_DIR", &site.to_string_lossy())
            .env("NODE_PATH", &site.join("node_modules").to_string_lossy());
        unnoticed(launch, "next.js", 100, 5, 1000);
    });
}

/// No pipelines: what a client has sent behind a request whose answer announces the end is lost by the protocol.
fn announced(fixture: &str, launch: Launch) {
    let _turn = heavy();
    let run = launch.recording().start();
    let kind = Mixed {
        clients: 100,
        pipeline: 1,
        ..Mixed::default()
    };
    let load = Load::builder().with(kind).contract(contract());
    let clients = Clients::start(load, run.address());
    reload_in_a_row(&run, &clients, fixture, 2, 1000);
    run.until("the old generations are gone", |app| app.workers.len() == 2);
    let report = clients.stop();
    eprintln!("{fixture}: {}", render(&report));
    assert_flawless(&report, &run);
    let connections = &report.classes[0].connections;
    assert!(connections.closed_announced >= 100, "{}", render(&report));
    assert_eq!(
        report.closed_by_server(),
        connections.closed_announced,
        "every end was announced\n{}\n{}",
        render(&report),
        run.log.render()
    );
    Record::read(&run).expect_each_once(report.requests(), &run);
    run.finish();
}

#[test]
fn connections_that_hold_state_are_closed_with_an_announcement() {
    announced("per-connection.js", Launch::node("per-connection.js"));
}

#[test]
fn connections_are_closed_with_an_announcement_where_that_is_asked_for() {
    let launch = Launch::node("plain.js").flag("--drain-idle", "close");
    announced("plain.js", launch);
}

#[test]
fn an_app_that_sets_its_own_connection_header_does_not_hinder_the_announcement() {
    let launch = Launch::node("insists.js").flag("--drain-idle", "close");
    announced("insists.js", launch);
}

#[test]
fn scaling_down_goes_unnoticed_by_keep_alive_clients() {
    let _turn = heavy();
    let run = Launch::node("plain.js").workers("3").recording().start();
    let name = run.app().name;
    let clients = Clients::start(mixed(100), run.address());
    clients.wait_for_answers(1000);
    for to in ["1", "3", "2"] {
        clients.mark(format!("scale to {to}"), Phase::Reload);
        run.segue(&["scale", &name, to]).expect(0);
        let wanted: usize = to.parse().expect("a number");
        run.until("the others are gone", |app| app.workers.len() == wanted);
        clients.wait_for_answers(1000);
    }
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_unnoticed(&report, &run);
    Record::read(&run).expect_each_once(report.requests(), &run);
    run.finish();
}

/// Whoever is in the middle of something is answered, with an announcement of the end; then the door is shut.
pub(crate) fn stop_under_keep_alive_load(mut run: Run) {
    let kind = Mixed {
        clients: 100,
        pipeline: 1,
        ..Mixed::default()
    };
    let load = Load::builder().with(kind).contract(contract());
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(1000);
    clients.mark("stop", Phase::Reload);
    run.segue(&["stop"]).expect(0);
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    let report = clients.stop();
    eprintln!("{}", render(&report));
    let at_the_door =
        report.failed_by(FailureKind::Refused) + report.failed_by(FailureKind::ConnectTimeout);
    assert!(at_the_door > 0, "it has stopped");
    assert_eq!(
        report.failed(),
        at_the_door,
        "{}\n{}",
        render(&report),
        run.log.render()
    );
    run.expect_nothing_left();
}

#[test]
fn stopping_under_keep_alive_load_loses_no_request() {
    let _turn = heavy();
    for fixture in ["plain.js", "graceful.js", "abrupt.js"] {
        eprintln!("{fixture}");
        stop_under_keep_alive_load(Launch::node(fixture).start());
    }
}

#[test]
fn idle_connections_answer_from_the_new_version_and_stay_the_same() {
    let _turn = heavy();
    let run = Launch::node("plain.js").start();
    let kind = Think {
        clients: 300,
        pause: Duration::from_secs(2),
        ..Think::default()
    };
    let load = Load::builder().with(kind).contract(contract());
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(600);
    clients.mark("reload", Phase::Reload);
    run.roll("v2", "plain.js");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    clients.wait_for_answers(600);
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_unnoticed(&report, &run);
    let moved = &report.versions["v2"];
    assert!(
        moved.on_old_connections > 0 && moved.on_new_connections == 0,
        "{}",
        render(&report)
    );
    run.finish();
}
