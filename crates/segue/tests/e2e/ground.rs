//! The tests' own ground: apps that answer as the load client expects, and a rig that can fail.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use segue_load::{
    Builder, Contract, Cut, Download, Events, FailureKind, Fresh, Http2, KeepAlive, Load, Mixed,
    Phase, Post, Target, Think, Tls, Upload, WebSocket,
};

use crate::harness::load::{Clients, render};
use crate::harness::nodes::{each_node, frameworks, nodes};
use crate::harness::output::{Log, Stream};
use crate::harness::port::Port;
use crate::harness::primary::Primary;
use crate::harness::{certificate, fixtures, http, process, skip, standin};

/// A fixture without a supervisor, killed at the end.
struct Alone {
    child: Child,
    log: Log,
}

impl Alone {
    fn start(node: &std::path::Path, fixture: &str, port: &Port) -> Self {
        // Says when it listens, so that nobody need guess.
        let script = "const net = require('net'); const listen = net.Server.prototype.listen; \
                      net.Server.prototype.listen = function (...all) { \
                      this.once('listening', () => console.log('listening')); return listen.apply(this, all); }; \
                      require(process.argv[1]);";
        let mut child = Command::new(node)
            .args(["-e", script])
            .arg(fixtures().join(fixture))
            .env("PORT", port.number().to_string())
            .env("OTHER_PORT", "0")
            .env("NODE_PATH", frameworks())
            .env("VERSION", "alone")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start node");
        let log = Log::new();
        log.follow(Stream::Out, child.stdout.take().expect("stdout is a pipe"));
        log.wait_for(0, "listening", Duration::from_secs(20));
        Self { child, log }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(port: &Port) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port.number()).into()
}

#[test]
fn the_fixtures_keep_the_contract_of_the_load_client() {
    each_node(|node| {
        let port = Port::lease();
        let alone = Alone::start(&node.path, "plain.js", &port);
        let load = Load::builder()
            .with(Fresh {
                clients: 5,
                ..Fresh::default()
            })
            .with(KeepAlive {
                clients: 5,
                ..KeepAlive::default()
            })
            .with(Think {
                clients: 5,
                ..Think::default()
            })
            .with(Post {
                clients: 2,
                ..Post::default()
            })
            .with(Cut {
                clients: 1,
                ..Cut::default()
            })
            .with(Download {
                clients: 2,
                over: Duration::from_millis(300),
                ..Download::default()
            });
        let clients = Clients::start(load, address(&port));
        clients.wait_for_answers(500);
        let report = clients.stop();
        assert_eq!(
            report.failed(),
            0,
            "{node}: {}\n{}",
            render(&report),
            alone.log.render()
        );
        for class in &report.classes {
            assert!(class.answers > 0 || class.cut > 0, "{node}: {class:?}");
        }
        assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["alone"]);
    });
}

/// So many right answers, and nothing else.
fn keeps_the_contract(fixture: &str, load: Builder, target: impl Fn(SocketAddr) -> Target) {
    // The frameworks' pinned releases run on Node 20 and newer.
    let is_framework = ["express.js", "fastify.js", "koa.js", "hapi.js"].contains(&fixture);
    each_node(|node| {
        if is_framework && node.major < 20 {
            skip(&format!("{node}, {fixture}: the framework needs Node 20"));
            return;
        }
        let port = Port::lease();
        let alone = Alone::start(&node.path, fixture, &port);
        let contract = Contract {
            port: true,
            ..Contract::full()
        };
        let load = load.clone().contract(contract);
        let clients = Clients::start(load, target(address(&port)));
        clients.wait_for_answers(500);
        let report = clients.stop();
        assert_eq!(
            report.failed() + report.in_flight,
            0,
            "{node}, {fixture}: {}\n{}",
            render(&report),
            alone.log.render()
        );
        for class in &report.classes {
            assert!(class.answers > 0, "{node}, {fixture}: {class:?}");
            assert_eq!(
                class.requests, class.answers,
                "{node}, {fixture}: {class:?}"
            );
        }
    });
}

fn mixed(pipeline: u64) -> Builder {
    Load::builder().with(Mixed {
        clients: 20,
        pipeline,
        ..Mixed::default()
    })
}

#[test]
fn kept_connections_and_transfers_keep_the_contract() {
    let over = Duration::from_millis(300);
    let load = mixed(5)
        .with(Upload {
            clients: 2,
            over,
            ..Upload::default()
        })
        .with(Events {
            clients: 2,
            over,
            ..Events::default()
        });
    keeps_the_contract("plain.js", load, Target::from);
}

#[test]
fn the_frameworks_keep_the_contract() {
    for fixture in ["express.js", "fastify.js", "koa.js", "hapi.js"] {
        keeps_the_contract(fixture, mixed(5), Target::from);
    }
}

#[test]
fn tls_http2_and_websockets_keep_the_contract() {
    // Node itself now and then closes a TLS connection within a pipeline.
    keeps_the_contract("https.js", mixed(1), |address| {
        Tls::new(address, &certificate())
            .expect("a certificate")
            .into()
    });
    let http2 = Load::builder().with(Http2::default());
    keeps_the_contract("http2.js", http2, Target::from);
    let websocket = Load::builder().with(WebSocket::default());
    keeps_the_contract("ws.js", websocket, Target::from);
}

#[test]
fn the_rig_sees_what_a_restart_without_a_supervisor_costs() {
    let port = Port::lease();
    let node = nodes().remove(0).path;
    let alone = Alone::start(&node, "plain.js", &port);
    let load = Load::builder().with(Fresh {
        clients: 20,
        ..Fresh::default()
    });
    let clients = Clients::start(load, address(&port));
    clients.wait_for_answers(200);
    clients.mark("restart", Phase::Reload);
    drop(alone);
    let _again = Alone::start(&node, "plain.js", &port);
    clients.wait_for_answers(200);
    let report = clients.stop();
    assert!(
        report.failed_by(FailureKind::Refused) > 0,
        "{}",
        render(&report)
    );
}

#[test]
fn a_marked_process_is_found_and_killed() {
    let mark = process::new_mark();
    let mut child = Command::new("sleep")
        .arg("600")
        .env(process::MARK, &mark)
        .spawn()
        .expect("start a process");
    // A process that is just being replaced by exec has no environment for a moment.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !process::marked(&mark).contains(&child.id()) {
        assert!(Instant::now() < deadline, "its mark is not to be seen");
        std::thread::yield_now();
    }
    process::kill_marked(&mark);
    assert!(process::marked(&mark).is_empty());
    child.wait().expect("reap it");
}

#[test]
fn what_the_tests_need_is_there() {
    assert!(standin().is_file());
    for package in ["express", "fastify", "tsx"] {
        assert!(frameworks().join(package).is_dir(), "{package}");
    }
}

#[test]
fn the_stand_in_says_what_node_says() {
    let port = Port::lease();
    let life = |mut command: Command| {
        let listener = TcpListener::bind(address(&port)).expect("bind");
        command.env("PORT", port.number().to_string());
        Primary::start(command).whole_life(&listener, || {
            let answer = http::get(address(&port), "/?n=7").expect("an answer");
            assert_eq!(
                (answer.status, answer.header("x-segue-echo")),
                (200, Some("7"))
            );
        })
    };
    let mut command = Command::new(standin());
    command.arg(format!("port={}", port.number()));
    let (stand_in, code) = life(command);
    assert_eq!(code, Some(0));
    assert!(stand_in.len() > 4, "{stand_in:?}");
    each_node(|node| {
        let mut command = Command::new(&node.path);
        command.arg(fixtures().join("plain.js"));
        assert_eq!(life(command), (stand_in.clone(), Some(0)), "{node}");
    });
}
