//! The control socket and the commands that speak to it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use segue_load::{Fresh, Load, Phase};
use segue_wire::control::Status;

use crate::harness::command::{Outcome, Pending};
use crate::harness::http;
use crate::harness::load::{Clients, assert_flawless};
use crate::harness::run::{LIMIT, Launch};
use crate::harness::{heavy, is_root, skip};

#[test]
fn status_for_people_and_for_machines() {
    let run = Launch::standin("")
        .workers("2")
        .flag("--name", "shop")
        .start();
    run.segue(&["status"]).expect(0).says(&["shop", "ready"]);
    let json = run.segue(&["status", "--json"]);
    json.expect(0);
    let status: Status =
        serde_json::from_str(&json.out).expect("the shape of the control protocol");
    assert_eq!(status.apps.len(), 1);
    let app = &status.apps[0];
    assert_eq!(
        (
            app.name.as_str(),
            app.generation,
            app.slots.len(),
            app.workers.len()
        ),
        ("shop", 1, 2, 2)
    );
    assert!(
        app.addresses[0]
            .name
            .ends_with(&format!(":{}", run.site.port.number())),
        "{app:#?}"
    );
    assert!(app.addresses[0].steered);
    for worker in &app.workers {
        let pid = worker.pid.expect("a ready worker has a pid");
        assert!(run.processes().contains(&pid));
    }
    run.segue(&["status", "shop"]).expect(0);
    run.segue(&["status", "unknown"]).expect(3);
    run.finish();
}

#[test]
fn scaling_under_load_loses_nothing() {
    let _turn = heavy();
    let run = Launch::node("plain.js").workers("2").start();
    let name = run.app().name;
    let load = Load::builder().with(Fresh {
        clients: 100,
        ..Fresh::default()
    });
    let clients = Clients::start(load, run.address());
    for (to, slots) in [("4", 4), ("1", 1), ("+2", 3), ("-1", 2)] {
        clients.wait_for_answers(300);
        clients.mark(format!("scale to {to}"), Phase::Reload);
        run.segue(&["scale", &name, to]).expect(0);
        let app = run.until("as many workers as slots", |app| {
            app.slots.len() == slots && app.workers.len() == slots
        });
        assert_eq!(app.generation, 1, "no reload");
    }
    assert_flawless(&clients.stop(), &run);
    run.roll("v2", "plain.js");
    assert_eq!(run.app().slots.len(), 2, "a reload keeps the number");
    run.finish();
}

#[test]
fn the_last_worker_cannot_be_scaled_away() {
    let run = Launch::standin("").workers("1").start();
    let name = run.app().name;
    let outcome = run.segue(&["scale", &name, "0"]);
    assert!(matches!(outcome.code, Some(1 | 2 | 4)), "{outcome:#?}");
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn stop_returns_when_everything_has_ended() {
    let mut run = Launch::standin("").start();
    run.segue(&["stop"]).expect(0);
    assert!(
        http::get(run.address(), "/").is_err(),
        "nobody listens any more"
    );
    run.signal(rustix::process::Signal::TERM);
    run.wait_for_end(LIMIT);
    run.expect_nothing_left();
}

#[test]
fn the_socket_is_for_its_owner_alone_and_goes_with_the_supervisor() {
    let mut run = Launch::standin("").start();
    let mode = std::fs::metadata(&run.control)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let control = run.control.clone();
    run.signal(rustix::process::Signal::TERM);
    run.wait_for_end(LIMIT);
    assert!(!control.exists(), "the socket is removed at the end");
}

#[test]
fn another_user_is_turned_away_by_the_file_and_by_the_kernels_word() {
    if !is_root() {
        return skip("only root can ask as another user");
    }
    let run = Launch::standin("").start();
    run.site.open_to_all();
    let binary = run.site.path("segue");
    std::fs::copy(env!("CARGO_BIN_EXE_segue"), &binary).expect("copy the binary");
    let ask = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(&binary).args(["shutdown", "--control"]);
        command.arg(&run.control).env("NO_COLOR", "1");
        Pending::start(command).wait(LIMIT)
    };
    let refused = ask();
    assert_ne!(refused.code, Some(0), "{refused:#?}");
    refused.says(&["Permission denied"]);
    // An administrator who is generous with modes does not open it.
    let all = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&run.control, all).expect("open the socket");
    let refused = ask();
    assert_ne!(refused.code, Some(0), "{refused:#?}");
    refused.says(&["only the supervisor's own user and root may use this socket"]);
    let line = (run.log).wait_for(0, "a control request of another user is refused", LIMIT);
    assert!(line.text.contains("uid=65534"), "{}", line.text);
    run.segue(&["status"]).expect(0);
    run.finish();
}

#[test]
fn callers_that_never_finish_their_request_hold_up_nobody() {
    let run = Launch::standin("").start();
    let halves = [
        "GET /v1/sta",
        "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        "",
    ];
    let mut slow = Vec::new();
    for half in halves.iter().cycle().take(150) {
        let mut stream = UnixStream::connect(&run.control).expect("connect");
        // It may have been closed for the one before it by now.
        let _ = stream.write_all(half.as_bytes());
        slow.push(stream);
    }
    run.segue(&["status"]).expect(0);
    run.reload().expect(0);
    let large = format!(
        "{{\"wait\":\"none\",\"x\":\"{}\"}}",
        "y".repeat(segue_wire::control::MAX_BODY)
    );
    let answer = http::request_unix(&run.control, "POST", "/v1/reload", &large);
    // Refused before it has been read to its end, which may break the rest of it.
    assert!(answer.map_or(true, |answer| answer.status == 413));
    assert_eq!(run.app().generation, 2);
    drop(slow);
    run.finish();
}

fn segue(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env_remove("SEGUE_CONTROL");
    Pending::start(command).wait(LIMIT)
}

#[test]
fn without_a_supervisor_commands_end_with_3() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let path = nowhere.path().join("no.sock");
    let path = path.to_str().expect("a plain path");
    for command in ["status", "reload", "stop", "shutdown"] {
        segue(&[command, "--control", path]).expect(3);
    }
    // A socket that nobody listens at any more says the same.
    drop(std::os::unix::net::UnixListener::bind(path).expect("leave a stale socket"));
    segue(&["status", "--control", path]).expect(3);
}

#[test]
fn a_second_supervisor_does_not_take_the_socket_of_a_living_one() {
    let first = Launch::standin("").start();
    let path = first.control.to_str().expect("a plain path");
    let second = segue(&["run", "--control", path, "--workers", "1", "/bin/true"]);
    assert_ne!(second.code, Some(0));
    second.says(&[path]);
    assert_eq!(first.app().generation, 1, "the first one still answers");
    first.finish();
}

#[test]
fn the_socket_is_found_without_being_named() {
    let launch = Launch::standin("");
    let runtime = launch.site.path("runtime");
    std::fs::create_dir(&runtime).expect("make a runtime directory");
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).expect("close it");
    let mut launch = launch.flag("--name", "found");
    launch.default_control = true;
    let run = launch.start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command
        .arg("status")
        .env("XDG_RUNTIME_DIR", &runtime)
        .env_remove("SEGUE_CONTROL");
    Pending::start(command)
        .wait(LIMIT)
        .expect(0)
        .says(&["found"]);
    // segue has made the directory itself.
    let made = std::fs::metadata(runtime.join("segue")).expect("its directory");
    assert_eq!(made.permissions().mode() & 0o777, 0o700);
    let socket = std::fs::metadata(&run.control).expect("the socket");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    run.finish();
}

#[test]
fn the_api_answers_plain_http() {
    let run = Launch::standin("").start();
    let status = http::get_unix(&run.control, "/v1/status").expect("an answer");
    assert_eq!(status.status, 200);
    assert_eq!(status.header("content-type"), Some("application/json"));
    assert_eq!(
        http::get_unix(&run.control, "/v1/nothing")
            .expect("an answer")
            .status,
        404
    );
    assert_eq!(
        http::request_unix(&run.control, "POST", "/v1/status", "")
            .expect("an answer")
            .status,
        405
    );
    let unknown = http::request_unix(&run.control, "POST", "/v1/apps/unknown/reload", "");
    assert_eq!(unknown.expect("an answer").status, 404);
    let wrong = http::request_unix(&run.control, "POST", "/v1/reload", "{\"wait\": 7}");
    assert_eq!(wrong.expect("an answer").status, 400);
    run.finish();
}

#[test]
fn a_failed_reload_in_json() {
    let run = Launch::standin("").start();
    run.site
        .deploy("v2", "exit-at-boot=9 stderr=the_disk_is_full");
    let outcome = run.segue(&["reload", "--json"]);
    outcome
        .expect(1)
        .says(&["exited_booting", "the disk is full"]);
    for line in outcome.out.lines().filter(|line| !line.is_empty()) {
        serde_json::from_str::<serde_json::Value>(line).expect("every line is JSON");
    }
    run.finish();
}
