//! Whatever an app may do with listen, it sees what it would see without a supervisor.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use segue_load::{Fresh, Load, Phase, Target};

use crate::harness::command::Pending;
use crate::harness::http;
use crate::harness::load::{Clients, assert_flawless};
use crate::harness::nodes::{each_node, installed};
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{fixtures, is_root, skip};

/// Starts a fixture with every Node version, checks it, reloads it, checks the new version, stops.
fn with_every_node(fixture: &str, check: impl Fn(&Run, &str)) {
    each_node(|node| {
        let run = Launch::node(fixture).with_node(node).start();
        check(&run, "v1");
        run.roll("v2", fixture);
        check(&run, "v2");
        run.finish();
    });
}

fn answers(run: &Run, version: &str) {
    for _ in 0..10 {
        assert_eq!(run.get("/").version(), version);
    }
    let info = run.get("/info").json();
    assert_eq!(info["isWorker"], true);
    assert!(info["workerId"].is_number(), "{info}");
    assert_eq!(info["env"]["NODE_CHANNEL_FD"], serde_json::Value::Null);
}

/// One request by the fixtures' own client, for what is not plain HTTP/1.1.
fn fetch(kind: &str, port: u16, path: &str) -> serde_json::Value {
    let mut command = Command::new(installed().path);
    command
        .arg(fixtures().join("fetch.js"))
        .args([kind, &port.to_string(), path]);
    let outcome = Pending::start(command).wait(LIMIT);
    outcome.expect(0);
    serde_json::from_str(&outcome.out).expect("one line of JSON")
}

#[test]
fn http() {
    with_every_node("plain.js", answers);
}

#[test]
fn https() {
    with_every_node("https.js", |run, version| {
        for _ in 0..3 {
            let got = fetch("https", run.site.port.number(), "/");
            assert_eq!(got["headers"]["x-segue-version"], version);
        }
    });
}

#[test]
fn http2() {
    with_every_node("http2.js", |run, version| {
        let plain = fetch("h2c", run.site.port.number(), "/");
        assert_eq!(plain["headers"]["x-segue-version"], version);
        let secure = fetch("h2", run.site.other_port.number(), "/");
        assert_eq!(secure["headers"]["x-segue-version"], version);
    });
}

#[test]
fn net() {
    with_every_node("tcp.js", |run, version| {
        let mut stream = TcpStream::connect(run.address()).expect("connect");
        stream
            .set_read_timeout(Some(LIMIT))
            .expect("set a time limit");
        stream.write_all(b"hello\n").expect("send");
        let mut lines = BufReader::new(stream).lines();
        let greeting = lines.next().expect("a greeting").expect("read");
        assert!(greeting.starts_with(&format!("{version} ")), "{greeting}");
        assert_eq!(lines.next().expect("an echo").expect("read"), "hello");
    });
}

#[test]
fn udp() {
    with_every_node("udp.js", |run, version| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket
            .set_read_timeout(Some(LIMIT))
            .expect("set a time limit");
        let mut buffer = [0; 200];
        for number in 0..5 {
            let sent = format!("datagram {number}");
            socket
                .send_to(sent.as_bytes(), run.address())
                .expect("send");
            let (count, _) = socket.recv_from(&mut buffer).expect("an answer");
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            assert!(text.ends_with(&sent), "{text}");
            // What the old worker had queued may still be answered by it.
            assert!(text.starts_with(version) || version == "v2", "{text}");
        }
    });
}

#[test]
fn ecmascript_modules() {
    with_every_node("module.mjs", answers);
}

#[test]
fn explicit_commonjs() {
    with_every_node("explicit.cjs", answers);
}

#[test]
fn typescript_where_node_runs_it() {
    each_node(|node| {
        if node.major < 24 {
            skip(&format!("{node} does not run TypeScript by itself"));
            return;
        }
        let run = Launch::node("typed.ts").with_node(node).start();
        answers(&run, "v1");
        run.roll("v2", "typed.ts");
        answers(&run, "v2");
        run.finish();
    });
}

/// Frameworks live beside the release, as after an installation.
fn with_framework(fixture: &str, oldest: u32) {
    each_node(|node| {
        if node.major < oldest {
            skip(&format!(
                "{fixture} needs Node {oldest}, not {}",
                node.major
            ));
            return;
        }
        let run = Launch::node(fixture)
            .with_node(node)
            .with_frameworks()
            .start();
        assert_eq!(run.get("/").version(), "v1");
        assert!(run.get("/framework").text().contains("framework"));
        let load = Load::builder().with(Fresh {
            clients: 20,
            ..Fresh::default()
        });
        let clients = Clients::start(load, run.address());
        clients.wait_for_answers(50);
        clients.mark("reload", Phase::Reload);
        run.roll("v2", fixture);
        clients.committed("v2");
        clients.wait_for_answers(50);
        assert_flawless(&clients.stop(), &run);
        run.finish();
    });
}

#[test]
fn express() {
    with_framework("express.js", 18);
}

#[test]
fn fastify() {
    with_framework("fastify.js", 20);
}

/// Which of the two loopback addresses are served.
fn loopbacks(run: &Run) -> (bool, bool) {
    let port = run.site.port.number();
    let served = |address: SocketAddr| http::get(address, "/").is_ok();
    (
        served((Ipv4Addr::LOCALHOST, port).into()),
        served((Ipv6Addr::LOCALHOST, port).into()),
    )
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn without_a_host_both_families_are_served() {
    let run = Launch::node("plain.js").start();
    assert_eq!(loopbacks(&run), (true, has_ipv6()));
    run.finish();
}

#[test]
fn with_a_host_only_that_address_is_served() {
    for (host, expected) in [("127.0.0.1", (true, false)), ("0.0.0.0", (true, false))] {
        let run = Launch::node("host.js").env("HOST", host).start();
        assert_eq!(loopbacks(&run), expected, "{host}");
        run.roll("v2", "host.js");
        assert_eq!(loopbacks(&run), expected, "{host}");
        run.finish();
    }
    if !has_ipv6() {
        return skip("there is no IPv6 here");
    }
    for (host, only, expected) in [
        ("::1", "0", (false, true)),
        ("::", "0", (true, true)),
        ("::", "1", (false, true)),
    ] {
        let run = Launch::node("host.js")
            .env("HOST", host)
            .env("V6ONLY", only)
            .start();
        assert_eq!(loopbacks(&run), expected, "{host} v6only {only}");
        run.finish();
    }
}

/// The ports that the app printed after `mark`, once for each worker.
fn printed_ports(run: &Run, mark: usize) -> Vec<u16> {
    let line = run.log.wait_for(mark, "ports ", LIMIT);
    let (_, ports) = line.text.split_once("ports ").expect("it was waited for");
    ports
        .split_whitespace()
        .filter_map(|port| port.parse().ok())
        .collect()
}

#[test]
fn port_0_is_the_same_for_all_workers_and_keeps_its_number() {
    let run = Launch::node("port-zero.js").workers("3").start();
    let ports = printed_ports(&run, 0);
    assert_eq!(ports.len(), 2);
    assert_ne!(ports[0], ports[1]);
    let mark = run.log.mark();
    run.roll("v2", "port-zero.js");
    assert_eq!(printed_ports(&run, mark), ports);
    for line in run
        .log
        .lines()
        .iter()
        .filter(|line| line.text.contains("ports "))
    {
        assert!(
            line.text
                .ends_with(&format!("ports {} {}", ports[0], ports[1])),
            "{}",
            line.text
        );
    }
    for port in ports {
        let answer = http::get((Ipv4Addr::LOCALHOST, port).into(), "/").expect("an answer");
        assert_eq!(answer.version(), "v2");
    }
    run.finish();
}

#[test]
fn several_ports_in_one_app() {
    let run = Launch::node("two-ports.js").start();
    let other: SocketAddr = (Ipv4Addr::LOCALHOST, run.site.other_port.number()).into();
    assert_eq!(run.app().addresses.len(), 2);
    for version in ["v1", "v2"] {
        if version == "v2" {
            run.roll("v2", "two-ports.js");
        }
        assert_eq!(run.get("/").version(), version);
        assert_eq!(http::get(other, "/").expect("an answer").version(), version);
    }
    run.finish();
}

#[test]
fn the_same_port_twice_in_one_app_is_eaddrinuse() {
    let run = Launch::node("same-port-twice.js").workers("1").start();
    run.log.wait_for(0, "second listen: EADDRINUSE", LIMIT);
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn a_late_listen() {
    let run = Launch::node("late-listen.js").env("LATE_MS", "700").start();
    assert_eq!(run.get("/").version(), "v1");
    run.roll("v2", "late-listen.js");
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

#[test]
fn closing_and_listening_again() {
    each_node(|node| {
        let run = Launch::node("listen-again.js").with_node(node).start();
        run.log.wait_for(0, "listening again", LIMIT);
        run.until("both listen again", |_| {
            run.log
                .lines()
                .iter()
                .filter(|line| line.text.contains("listening again"))
                .count()
                >= 2
        });
        for _ in 0..20 {
            assert_eq!(run.get("/").version(), "v1");
        }
        run.finish();
    });
}

#[test]
fn a_unix_socket_path() {
    each_node(|node| {
        let launch = Launch::node("unix-path.js").with_node(node);
        let path = launch.site.path("app.sock");
        let run = launch
            .env("SOCKET_PATH", path.to_str().expect("a plain path"))
            .start();
        assert_eq!(
            http::get_unix(&path, "/").expect("an answer").version(),
            "v1"
        );
        let load = Load::builder().with(Fresh {
            clients: 20,
            ..Fresh::default()
        });
        let clients = Clients::start(load, Target::from(path.clone()));
        clients.wait_for_answers(50);
        clients.mark("reload", Phase::Reload);
        run.roll("v2", "unix-path.js");
        clients.committed("v2");
        clients.wait_for_answers(50);
        assert_flawless(&clients.stop(), &run);
        run.finish();
        assert!(!path.exists(), "the path is removed at the end");
    });
}

#[test]
fn a_unix_socket_path_that_every_worker_unlinks_and_opens_up() {
    use std::os::unix::fs::PermissionsExt;
    each_node(|node| {
        let launch = Launch::node("unix-path.js").with_node(node).workers("3");
        let path = launch.site.path("app.sock");
        let run = launch
            .env("SOCKET_PATH", path.to_str().expect("a plain path"))
            .env("OPEN_UP", "1")
            .start();
        let is_open = || {
            let mode = std::fs::metadata(&path).map(|file| file.permissions().mode() & 0o777);
            mode.is_ok_and(|mode| mode == 0o660)
        };
        run.until("the path is opened up", |_| is_open());
        run.roll("v2", "unix-path.js");
        assert!(is_open(), "a reload keeps what the app did to the path");
        assert_eq!(
            http::get_unix(&path, "/").expect("an answer").version(),
            "v2"
        );
        run.finish();
        assert!(!path.exists(), "the path is removed at the end");
    });
}

#[test]
fn a_stale_unix_socket_path_is_replaced_and_a_living_one_is_not() {
    let launch = Launch::node("unix-path.js");
    let path = launch.site.path("app.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("leave a stale path"));
    let run = launch
        .env("SOCKET_PATH", path.to_str().expect("a plain path"))
        .start();
    assert_eq!(
        http::get_unix(&path, "/").expect("an answer").version(),
        "v1"
    );
    run.finish();

    let launch = Launch::node("unix-path.js");
    let path = launch.site.path("app.sock");
    let _living = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let (code, run) = launch
        .env("SOCKET_PATH", path.to_str().expect("a plain path"))
        .start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(run.log.contains("EADDRINUSE"), "{}", run.log.render());
    assert!(path.exists(), "it belongs to somebody else");
}

#[test]
fn an_abstract_unix_socket() {
    let launch = Launch::node("unix-path.js");
    let name = format!("segue-e2e-{}", launch.site.port.number());
    let run = launch.env("ABSTRACT", &name).start();
    let ask = || {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        let mut stream = std::os::unix::net::UnixStream::connect_addr(&address).expect("connect");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("ask");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    };
    assert!(ask().contains("x-segue-version: v1"));
    // Both generations accept from the one socket until the old one has left.
    run.roll("v2", "unix-path.js");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    assert!(ask().contains("x-segue-version: v2"));
    run.finish();
}

#[test]
fn a_port_in_use_is_node_s_own_error() {
    let launch = Launch::node("listen-error.js");
    let _holder = TcpListener::bind(("0.0.0.0", launch.site.port.number())).expect("bind");
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(
        run.log.contains("listen failed: EADDRINUSE errno -98"),
        "{}",
        run.log.render()
    );
}

#[test]
fn two_supervisors_never_share_a_port() {
    let first = Launch::node("plain.js").start();
    let port = first.site.port.number().to_string();
    let (code, second) = Launch::node("listen-error.js")
        .env("PORT", &port)
        .start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(second.log.contains("EADDRINUSE"), "{}", second.log.render());
    for _ in 0..20 {
        assert_eq!(first.get("/").version(), "v1");
    }
    first.finish();
}

#[test]
fn a_forbidden_port_is_node_s_own_error() {
    let limit = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let limit: u16 = limit
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    if limit == 0 {
        return skip("every port is free for all here (ip_unprivileged_port_start is 0)");
    }
    let mut launch = Launch::node("listen-error.js").env("PORT", "1");
    if is_root() {
        launch = launch.under_user(65_534);
    }
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(
        run.log.contains("listen failed: EACCES errno -13"),
        "{}",
        run.log.render()
    );
}

#[test]
fn an_app_with_cluster_code_of_its_own_is_a_worker() {
    let run = Launch::node("own-cluster.js").start();
    assert_eq!(run.get("/").version(), "v1");
    assert!(!run.log.contains("forking on its own"));
    run.roll("v2", "own-cluster.js");
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

#[test]
fn children_and_threads_of_a_worker_are_not_workers() {
    each_node(|node| {
        let run = Launch::node("grandchildren.js").with_node(node).start();
        let seen = run.get("/seen").json();
        for who in ["forked", "thread"] {
            assert_eq!(seen[who]["isWorker"], false, "{who}: {seen}");
            assert_eq!(
                seen[who]["channel"],
                serde_json::Value::Null,
                "{who}: {seen}"
            );
            assert_eq!(
                seen[who]["unique"],
                serde_json::Value::Null,
                "{who}: {seen}"
            );
            let port = seen[who]["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .expect("a port");
            let answer =
                http::get((Ipv4Addr::LOCALHOST, port).into(), "/").expect("it listens for itself");
            assert_eq!(answer.text(), "alone");
        }
        run.finish();
    });
}

#[test]
fn messages_of_every_shape_do_no_harm() {
    each_node(|node| {
        let run = Launch::node("messages.js").with_node(node).start();
        let before = run.ready_pids();
        run.log.wait_for(0, "messages sent", LIMIT);
        assert_eq!(run.get("/").version(), "v1");
        assert_eq!(run.ready_pids(), before);
        run.finish();
    });
}

#[test]
fn a_handle_that_nobody_asked_for_does_not_stall_the_channel() {
    let run = Launch::node("hands-socket.js").workers("1").start();
    run.log.wait_for(0, "handle sent", LIMIT);
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn a_worker_that_closes_its_channel_is_replaced() {
    let run = Launch::node("disconnects.js").start();
    let before = run.ready_pids();
    let gone = run.get("/disconnect").pid();
    assert!(before.contains(&gone));
    run.until("its successor is ready", |_| {
        let now = run.ready_pids();
        now.len() == 2 && !now.contains(&gone)
    });
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn every_connection_of_a_burst_is_spread_over_the_workers() {
    let run = Launch::standin("").workers("4").start();
    let load = Load::builder()
        .with(Fresh {
            clients: 20,
            ..Fresh::default()
        })
        .requests(2000);
    let report = Clients::start(load, run.address()).finish(Duration::from_secs(60));
    assert_flawless(&report, &run);
    assert_eq!(report.workers.len(), 4, "{:?}", report.workers);
    // Each expects 500; nine standard deviations are 174.
    assert!(
        report
            .workers
            .values()
            .all(|count| (326..=674).contains(count)),
        "{:?}",
        report.workers
    );
    run.finish();
}
