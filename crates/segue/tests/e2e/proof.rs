//! A release that does not work never comes to serve: what its clients see, how the command ends, and
//! what it says.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use segue_load::{Fresh, Load, Phase, Report};
use segue_wire::control::WorkerPhase;

use crate::harness::http;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::{each_node, installed};
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{heavy, lasting};

const PROBE: &str = "http=/healthz";

fn fresh(clients: u32) -> segue_load::Builder {
    Load::builder().with(Fresh {
        clients,
        ..Fresh::default()
    })
}

/// Tries to get a broken release in under load: the command fails for this reason, and afterwards the
/// same workers serve as before.
fn fails(launch: Launch, fixture: &str, reasons: &[&str]) -> (Report, Run) {
    let run = launch.start();
    let before = run.ready_pids();
    let clients = Clients::start(fresh(20), run.address());
    clients.wait_for_answers(300);
    clients.mark("reload", Phase::Reload);
    let outcome = run.roll_and_fail("v2", fixture);
    clients.mark("after", Phase::Steady);
    clients.wait_for_answers(300);
    let report = clients.stop();
    eprintln!("{fixture}: {}{}", outcome.text(), render(&report));
    outcome.says(reasons);
    assert_eq!(run.ready_pids(), before, "{}", run.log.render());
    assert_eq!(run.app().generation, 1);
    for _ in 0..20 {
        assert_eq!(run.get("/").version(), "v1");
    }
    (report, run)
}

#[test]
fn a_release_that_fails_its_probe_gets_no_client() {
    let _turn = heavy();
    each_node(|node| {
        let launch = Launch::node("plain.js")
            .with_node(node)
            .flag("--ready", PROBE)
            .flag("--ready-timeout", "3s");
        let (report, run) = fails(launch, "unhealthy.js", &["answered with 500"]);
        assert_flawless(&report, &run);
        assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"]);
        // Nothing stands in the way of the next one.
        run.roll("v3", "plain.js");
        assert_eq!(run.get("/").version(), "v3");
        run.finish();
    });
}

#[test]
fn a_release_that_leaks_is_found_out_while_nobody_depends_on_it() {
    let _turn = heavy();
    let launch = Launch::node("plain.js")
        .flag("--memory", "200MiB")
        .flag("--min-uptime", "20s");
    let (report, run) = fails(launch, "leaks.js", &["memory"]);
    assert_flawless(&report, &run);
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"]);
    run.finish();
}

#[test]
fn a_release_that_crashes_at_its_first_request_is_turned_back_at_once() {
    let _turn = heavy();
    let launch = Launch::node("plain.js")
        .flag("--ready", PROBE)
        .flag("--probation", "30s");
    let (report, run) = fails(launch, "crashes-on-request.js", &["exited with code 1"]);
    // What was inside the two workers that died, or in their queues.
    assert!(report.failed() <= 40, "{}", render(&report));
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"]);
    run.finish();
}

#[test]
fn a_release_that_blocks_its_event_loop_is_turned_back() {
    let _turn = lasting();
    let launch = Launch::node("plain.js")
        .flag("--ready", PROBE)
        .flag("--unresponsive", "3s")
        .flag("--probation", "30s");
    let (report, run) = fails(launch, "blocks-later.js", &["event loop"]);
    // What was inside the two workers that were ended, or in their queues.
    assert!(report.failed() <= 40, "{}", render(&report));
    run.finish();
}

#[test]
fn a_canary_with_too_many_errors_is_given_up() {
    let _turn = heavy();
    let launch = Launch::node("plain.js").flag("--canary", "20%:20s:1%");
    let (report, run) = fails(launch, "some-errors.js", &["of its requests with errors"]);
    let of_canary = report
        .versions
        .get("v2")
        .map_or(0, |version| version.on_new_connections);
    eprintln!(
        "{of_canary} answers of the canary, {} failed",
        report.failed()
    );
    // Errors are a twentieth of the canary's answers, which are a fifth of all.
    let most = report.answers() / 50;
    assert!(report.failed() <= most, "{}", render(&report));
    run.finish();
}

#[test]
fn a_canary_that_does_well_wins() {
    let _turn = heavy();
    let run = Launch::node("plain.js").flag("--canary", "20%:3s").start();
    let clients = Clients::start(fresh(20), run.address());
    clients.wait_for_answers(200);
    run.roll("v2", "plain.js");
    clients.committed("v2");
    clients.wait_for_answers(200);
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_flawless(&report, &run);
    run.finish();
}

#[test]
fn servers_over_tls_are_probed() {
    let run = Launch::node("http2-tls.js")
        .flag("--ready", PROBE)
        .flag("--ready-timeout", "3s")
        .start();
    let outcome = run.roll_and_fail("v2", "http2-tls.js");
    outcome.says(&["answered with 503"]);
    run.roll("v3", "http2-tls.js");
    run.roll("v4", "https.js");
    // What does not speak TLS where it was spoken before is asked without.
    run.roll("v5", "plain.js");
    run.finish();
}

#[test]
fn servers_at_a_path_are_probed_beside_it() {
    let launch = Launch::node("unix-path.js");
    let path = launch.site.path("app.sock");
    let launch = launch
        .env("SOCKET_PATH", &path.to_string_lossy())
        .flag("--ready", PROBE);
    let run = launch.flag("--probe-status", "200").start();
    let version = || {
        let answer = http::get_unix(&path, "/").expect("it is served");
        answer.version().to_owned()
    };
    assert_eq!(version(), "v1");
    run.roll("v2", "unix-path.js");
    assert_eq!(version(), "v2");
    run.finish();
}

/// Another process of the same user listens at the port as well, at a more specific address, and would
/// answer every probe.
#[test]
fn the_answer_of_a_foreign_process_is_no_proof() {
    const FOREIGN: &str = r"
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print('asked', flush=True)
        self.send_response(200)
        self.end_headers()
class Server(http.server.HTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
server = Server(('127.0.0.1', int(sys.argv[1])), Handler)
print('listening', flush=True)
server.serve_forever()";
    let run = Launch::node("plain.js")
        .flag("--ready", PROBE)
        .flag("--ready-timeout", "3s")
        .start();
    let port = run.site.port.number().to_string();
    let foreign = Command::new("python3")
        .args(["-c", FOREIGN, &port])
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut foreign) = foreign else {
        return crate::harness::skip("python3 is not installed");
    };
    let mut said = BufReader::new(foreign.stdout.take().expect("a pipe")).lines();
    assert_eq!(
        said.next().expect("a line").expect("it is text"),
        "listening"
    );
    // It has indeed taken the port over for those who connect there.
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, run.site.port.number()));
    assert_eq!(http::get(local, "/").expect("an answer").version(), "");
    assert_eq!(said.next().expect("a line").expect("it is text"), "asked");

    let outcome = run.roll_and_fail("v2", "unhealthy.js");
    outcome.says(&["another process"]);
    foreign.kill().expect("it runs");
    foreign.wait().expect("it has been killed");
    let asked = said.map_while(Result::ok).count();
    assert_eq!(asked, 0, "a probe is not even sent to a stranger");
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn workers_say_themselves_when_they_are_ready() {
    let run = Launch::standin("notify=300")
        .flag("--ready", "notify")
        .start();
    run.roll("v2", "notify=300");
    run.roll("v3", "notify=0");
    run.finish();

    let run = Launch::standin("notify=0")
        .flag("--ready", "notify")
        .flag("--ready-timeout", "1s")
        .start();
    run.roll_and_fail("v2", "").says(&["READY=1"]);
    run.finish();
}

/// The service manager's own socket is not theirs.
#[test]
fn without_the_rule_there_is_no_notify_socket() {
    let run = Launch::node("plain.js").start();
    let environment = run.get("/info").json()["env"].clone();
    assert!(environment.get("NOTIFY_SOCKET").is_none(), "{environment}");
    run.finish();
}

/// A worker that is about to say so when its supervisor dies is heard by the next one.
#[test]
fn readiness_is_heard_by_a_successor() {
    let run = Launch::standin("notify=0")
        .flag("--ready", "notify")
        .start();
    run.site.deploy("v2", "notify=1500");
    let reload = run.segue_beside(&["reload"]);
    run.until("the new workers boot", |app| {
        let booting = |worker: &&segue_wire::control::Worker| worker.phase == WorkerPhase::Booting;
        app.workers.iter().filter(booting).count() == 2
    });
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::KILL);
    assert!(supervisor.ends_within(Duration::from_secs(5)));
    reload.wait(LIMIT).expect(0);
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

/// New workers have a lower priority until they are ready, where it can be raised again.
#[test]
fn boots_have_a_lower_priority() {
    let run = Launch::node("plain.js").start();
    let nice = |pid: u32| -> i32 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let nice = fields.split_whitespace().nth(16).expect("a priority");
        nice.parse().expect("a number")
    };
    let own = nice(std::process::id());
    for pid in run.ready_pids() {
        assert_eq!(nice(pid), own, "at the first start nobody is to be spared");
    }
    run.site.deploy("v2", "slow-boot.js");
    let reload = run.segue_beside(&["reload"]);
    let booting = |run: &Run| {
        let app = run.until("the new workers boot", |app| app.workers.len() == 4);
        let booting = app
            .workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Booting);
        booting.filter_map(|worker| worker.pid).collect::<Vec<_>>()
    };
    let pids = booting(&run);
    let while_booting: Vec<i32> = pids.iter().map(|pid| nice(*pid)).collect();
    reload.wait(LIMIT).expect(0);
    for pid in run.ready_pids() {
        assert_eq!(nice(pid), own);
    }
    let expected = if crate::harness::is_root() {
        own + 10
    } else {
        own
    };
    assert_eq!(while_booting, [expected; 2]);
    run.finish();
}

#[test]
fn what_node_compiles_is_kept() {
    let mut node = installed();
    if let Some(newer) = crate::harness::nodes::nodes()
        .into_iter()
        .find(|node| node.to_string().contains("26"))
    {
        node = newer;
    }
    let run = Launch::node("plain.js").with_node(&node).start();
    let info = run.get("/info").json();
    let version = info["node"].as_str().unwrap_or_default().to_owned();
    let major: u32 = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or(0);
    let cache = info["env"]["NODE_COMPILE_CACHE"]
        .as_str()
        .map(str::to_owned);
    eprintln!("{version}: {cache:?}");
    match cache {
        Some(cache) => {
            assert!(major >= 22);
            assert!(cache.contains("/compile/"), "{cache}");
        }
        None => assert!(major < 23, "{version} has a compile cache"),
    }
    run.finish();
    let run = Launch::node("plain.js")
        .with_node(&node)
        .env("NODE_COMPILE_CACHE", "/nonexistent/mine")
        .start();
    let info = run.get("/info").json();
    assert_eq!(info["env"]["NODE_COMPILE_CACHE"], "/nonexistent/mine");
    run.finish();
}
