//! What is not a plain keep-alive connection, across a reload: TLS, HTTP/2, WebSocket, and transfers
//! that last.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use segue_load::{
    Builder, Contract, Download, Events, Http2, Load, Mixed, Phase, Target, Tls, Upload, WebSocket,
};

use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::{each_node, frameworks, installed};
use crate::harness::output::{Log, Stream};
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{certificate, fixtures, heavy};

fn contract() -> Contract {
    Contract {
        port: true,
        ..Contract::full()
    }
}

fn tls(address: SocketAddr) -> Target {
    Tls::new(address, &certificate())
        .expect("the fixtures' certificate")
        .into()
}

/// TLS cannot be moved: every connection of the old generation ends with an announcement.
#[test]
fn keep_alive_over_tls_loses_no_request() {
    let _turn = heavy();
    each_node(|node| {
        let run = Launch::node("https.js").with_node(node).recording().start();
        let kind = Mixed {
            clients: 50,
            pipeline: 1,
            ..Mixed::default()
        };
        let load = Load::builder().with(kind).contract(contract());
        let clients = Clients::start(load, tls(run.address()));
        clients.wait_for_answers(500);
        for version in ["v2", "v3"] {
            clients.mark(format!("reload to {version}"), Phase::Reload);
            run.roll(version, "https.js");
            clients.committed(version);
            clients.wait_for_answers(500);
        }
        run.until("the old generations are gone", |app| app.workers.len() == 2);
        let report = clients.stop();
        eprintln!("{node}: {}", render(&report));
        assert_flawless(&report, &run);
        let connections = &report.classes[0].connections;
        assert!(connections.closed_announced >= 50, "{}", render(&report));
        assert_eq!(
            report.closed_by_server(),
            connections.closed_announced,
            "every end was announced\n{}\n{}",
            render(&report),
            run.log.render()
        );
        Record::read(&run).expect_each_once(report.requests(), &run);
        run.finish();
    });
}

fn http2() -> Builder {
    Load::builder().with(Http2::default()).contract(contract())
}

/// Streams may be refused, which is to say that nothing was done for them, and the workers' record agrees.
fn http2_across_reloads(target: impl Fn(&Run) -> Target) {
    let _turn = heavy();
    each_node(|node| {
        let run = Launch::node("http2.js").with_node(node).recording().start();
        let clients = Clients::start(http2(), target(&run));
        clients.wait_for_answers(1000);
        for version in ["v2", "v3"] {
            clients.mark(format!("reload to {version}"), Phase::Reload);
            run.roll(version, "http2.js");
            clients.committed(version);
            clients.wait_for_answers(1000);
        }
        run.until("the old generations are gone", |app| app.workers.len() == 2);
        let report = clients.stop();
        eprintln!("{node}: {}", render(&report));
        assert_flawless(&report, &run);
        let class = &report.classes[0];
        assert!(
            class.connections.closed_announced >= 20,
            "{}",
            render(&report)
        );
        assert_eq!(
            class.connections.closed_unannounced,
            0,
            "{}",
            render(&report)
        );
        Record::read(&run).expect_each_once(report.answers(), &run);
        run.finish();
    });
}

#[test]
fn http2_in_the_clear_loses_only_streams_that_were_refused() {
    http2_across_reloads(|run| run.address().into());
}

#[test]
fn http2_over_tls_loses_only_streams_that_were_refused() {
    http2_across_reloads(|run| {
        let address = (run.address().ip(), run.site.other_port.number()).into();
        Tls::http2(address, &certificate())
            .expect("the fixtures' certificate")
            .into()
    });
}

/// Every WebSocket of the old generation ends with the closing handshake and code 1012; its client comes back.
#[test]
fn websockets_are_closed_with_a_handshake_and_come_back() {
    let _turn = heavy();
    each_node(|node| {
        let run = Launch::node("ws.js")
            .with_node(node)
            .with_frameworks()
            .flag("--websocket-close-after", "1s")
            .start();
        let clients = Clients::start(Load::builder().with(WebSocket::default()), run.address());
        clients.wait_for_answers(1000);
        for (round, version) in ["v2", "v3"].into_iter().enumerate() {
            clients.mark(format!("reload to {version}"), Phase::Reload);
            run.roll(version, "ws.js");
            run.until("the old generation is gone", |app| app.workers.len() == 2);
            clients.wait_for_answers(500);
            let report = clients.snapshot();
            let codes = &report.classes[0].connections.close_codes;
            let expected = 50 * (round as u64 + 1);
            assert_eq!(
                codes
                    .iter()
                    .map(|(code, count)| (*code, *count))
                    .collect::<Vec<_>>(),
                [(1012, expected)],
                "each of the 50 connections was closed once\n{}\n{}",
                render(&report),
                run.log.render()
            );
        }
        let report = clients.stop();
        eprintln!("{node}: {}", render(&report));
        assert_flawless(&report, &run);
        assert_eq!(report.versions.len(), 3, "{}", render(&report));
        run.finish();
    });
}

/// Clients of socket.io in a process of their own.
struct SocketIo {
    child: Child,
    log: Log,
}

impl SocketIo {
    fn start(transport: &str, run: &Run, clients: u32) -> Self {
        let mut child = Command::new(installed().path)
            .arg(fixtures().join("socketio-client.js"))
            .arg(transport)
            .arg(run.site.port.number().to_string())
            .arg(clients.to_string())
            .env("NODE_PATH", frameworks())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the client of socket.io");
        let log = Log::new();
        log.follow(Stream::Out, child.stdout.take().expect("stdout is a pipe"));
        log.follow(Stream::Err, child.stderr.take().expect("stderr is a pipe"));
        Self { child, log }
    }

    /// What it has counted.
    fn stop(mut self) -> serde_json::Value {
        let mut stdin = self.child.stdin.take().expect("stdin is a pipe");
        // The end of the stream, which follows, is the message.
        let _ = stdin.flush();
        drop(stdin);
        self.log.wait_for_end(2, LIMIT);
        let lines = self.log.lines();
        let totals = lines.iter().find_map(|line| line.text.strip_prefix('{'));
        let totals = totals.unwrap_or_else(|| panic!("no totals\n{}", self.log.render()));
        serde_json::from_str(&format!("{{{totals}")).expect("totals in JSON")
    }
}

impl Drop for SocketIo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket_io_comes_back(transport: &str) {
    let _turn = heavy();
    let run = Launch::node("socketio.js")
        .workers("1")
        .with_frameworks()
        .flag("--websocket-close-after", "1s")
        .start();
    let clients = SocketIo::start(transport, &run, 20);
    clients.log.wait_for(0, "connected v1 20", LIMIT);
    run.roll("v2", "socketio.js");
    clients.log.wait_for(0, "connected v2 20", LIMIT);
    run.until("the old generation is gone", |app| app.workers.len() == 1);
    let totals = clients.stop();
    eprintln!("{transport}: {totals}");
    assert_eq!(totals["wrong"], 0, "{totals}");
    assert!(totals["answered"].as_u64() > Some(100), "{totals}");
    run.finish();
}

#[test]
fn socket_io_over_websocket_comes_back_by_itself() {
    socket_io_comes_back("websocket");
}

#[test]
fn socket_io_by_polling_comes_back_by_itself() {
    socket_io_comes_back("polling");
}

/// Transfers in every direction, begun before a reload that is over long before they are.
fn transfers(fixture: &str, over: Duration) {
    let run = Launch::node(fixture).flag("--drain-timeout", "60s").start();
    let load = Load::builder()
        .with(Download {
            clients: 8,
            over,
            ..Download::default()
        })
        .with(Upload {
            clients: 8,
            over,
            ..Upload::default()
        })
        .with(Events {
            clients: 4,
            over,
            count: 50,
            ..Events::default()
        })
        .contract(contract())
        .requests(20);
    let clients = Clients::start(load, run.address());
    run.until("all transfers have begun", |_| clients.opened() >= 20);
    clients.mark("reload", Phase::Reload);
    run.roll("v2", fixture);
    assert_eq!(run.get("/").version(), "v2");
    assert_eq!(
        clients.snapshot().answers(),
        0,
        "the transfers were to last longer than the reload"
    );
    let report = clients.finish(LIMIT);
    assert_flawless(&report, &run);
    assert_eq!(report.answers(), 20);
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"]);
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    run.finish();
}

#[test]
fn transfers_in_both_directions_are_whole() {
    transfers("plain.js", Duration::from_secs(6));
}

#[test]
fn transfers_in_both_directions_are_whole_when_the_app_closes_its_server() {
    transfers("graceful.js", Duration::from_secs(6));
}

#[test]
fn transfers_in_both_directions_are_whole_when_the_app_exits_on_sigterm() {
    transfers("abrupt.js", Duration::from_secs(6));
}

#[test]
#[ignore = "long"]
fn transfers_of_twenty_seconds_are_whole() {
    for fixture in ["plain.js", "graceful.js", "abrupt.js"] {
        transfers(fixture, Duration::from_secs(20));
    }
}
