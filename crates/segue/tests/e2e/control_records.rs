//! Every request of the control API, and what a supervisor answers to it: as the OpenAPI document that it
//! serves says. `SEGUE_CONTROL_RECORD=FILE` keeps all of it for the releases to come
//! (`crates/segue-wire/tests/control`).

#[path = "../../../segue-wire/tests/schema/mod.rs"]
mod schema;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use segue_wire::control::{Decoder, Frame};
use serde_json::{Value, json};

use crate::harness::http::{self, Answer};
use crate::harness::run::{LIMIT, Launch, Run};

/// What has been asked and answered so far, as lines of JSON.
struct Recorder<'a> {
    run: &'a Run,
    document: Value,
    lines: Vec<Value>,
}

impl Recorder<'_> {
    /// Asks, and looks whether the answer is what the document says; `kind` is the name of its schema.
    #[track_caller]
    fn ask(&mut self, method: &str, path: &str, body: &str, status: u16, kind: &str) -> Answer {
        let key = format!("record-{}", self.lines.len());
        let control = &self.run.control;
        let answer = http::request_unix_until_answered(control, method, path, body, &key);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let text = answer.text();
        assert_eq!(answer.status, status, "{method} {path}: {text}");
        let media = answer.header("content-type").expect("a type");
        let media = media.split(';').next().unwrap_or_default();
        assert_eq!(
            self.documented(method, path, status, media),
            kind,
            "{method} {path}"
        );
        let kept = match kind {
            "stream" => {
                let mut decoder = Decoder::new();
                let frames = decoder.feed(&answer.body).expect("a stream");
                self.check_frames(&frames);
                &text
            }
            "metrics" | "openapi" => "",
            kind => {
                self.check(kind, &answer.json());
                &text
            }
        };
        self.keep(method, path, body, kind, kept);
        answer
    }

    /// The kind of answer that the document names.
    #[track_caller]
    fn documented(&self, method: &str, path: &str, status: u16, media: &str) -> String {
        let path = path.replace("/apps/web/", "/apps/{app}/");
        let path = match path.as_str() {
            "/v1/apps/web" => "/v1/apps/{app}".to_owned(),
            _ => path,
        };
        let operation = &self.document["paths"][&path][method.to_lowercase()];
        let responses = &operation["responses"];
        let response = match responses.get(status.to_string()) {
            Some(response) => response,
            None => &responses["default"],
        };
        let content = &response["content"][media];
        assert!(
            content.is_object(),
            "{method} {path}: {status} {media}: {operation}"
        );
        match (media, content["schema"]["$ref"].as_str()) {
            ("text/event-stream", _) => "stream".to_owned(),
            ("application/openmetrics-text", _) => "metrics".to_owned(),
            (_, Some(reference)) => reference.replace("#/components/schemas/", ""),
            (_, None) => "openapi".to_owned(),
        }
    }

    #[track_caller]
    fn check(&self, kind: &str, value: &Value) {
        let complaints = schema::complaints(&self.document, kind, value);
        assert!(complaints.is_empty(), "{complaints:#?}\n{value:#}");
    }

    #[track_caller]
    fn check_frames(&self, frames: &[Frame]) {
        for frame in frames {
            let kind = match frame.event.as_str() {
                "notice" => "Notice",
                "outcome" => "Outcome",
                "missed" => "Missed",
                other => panic!("the document does not name {other}"),
            };
            self.check(kind, &serde_json::from_str(&frame.data).expect("JSON"));
        }
    }

    fn keep(&mut self, method: &str, path: &str, body: &str, kind: &str, answer: &str) {
        self.lines.push(json!({
            "method": method, "path": path, "body": body, "kind": kind, "answer": answer,
        }));
    }
}

/// The first events of the stream of all of them, up to one that contains this.
fn events_until(run: &Run, text: &'static str) -> mpsc::Receiver<String> {
    let mut stream = UnixStream::connect(&run.control).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let request = b"GET /v1/events HTTP/1.0\r\nHost: x\r\n\r\n";
    stream.write_all(request).expect("ask for events");
    let mut block = [0; 4096];
    let mut bytes = Vec::new();
    let mut more = move |bytes: &mut Vec<u8>| {
        let count = stream.read(&mut block).expect("more of it");
        assert!(count > 0, "{}", String::from_utf8_lossy(bytes));
        bytes.extend_from_slice(&block[..count]);
    };
    let head = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"\r\n\r\n");
    while head(&bytes).is_none() {
        more(&mut bytes);
    }
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let body = String::from_utf8_lossy(&bytes[head(&bytes).expect("a head") + 4..]);
            // Whole ones only.
            if let Some((whole, _)) = body.rsplit_once("\n\n")
                && whole.contains(text)
            {
                let _ = done.send(format!("{whole}\n\n"));
                return;
            }
            more(&mut bytes);
        }
    });
    result
}

#[test]
fn every_answer_is_what_the_document_says() {
    let launch = Launch::standin("").flag("--name", "web");
    let log = launch.site.path("web.log");
    let run = launch.flag("--log", &log).flag("--memory", "1GiB").start();
    let document = http::get_unix(&run.control, "/v1/openapi.json");
    let document = document.expect("an answer").json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut recorder = Recorder {
        run: &run,
        document,
        lines: Vec::new(),
    };
    recorder.ask("GET", "/v1/openapi.json", "", 200, "openapi");
    recorder.ask("GET", "/v1/metrics", "", 200, "metrics");
    let odd = r#"{"definition":{"name":"api"}}"#;
    recorder.ask("POST", "/v1/apps", odd, 400, "ProblemBody");
    recorder.ask("POST", "/v1/apps/web/start", "", 409, "ProblemBody");
    let file = r#"{"source":"/srv/segue.toml","definitions":[],"dry_run":true}"#;
    recorder.ask("POST", "/v1/apply", file, 200, "Differences");
    recorder.ask("POST", "/v1/logs/reopen", "", 200, "Outcome");
    let web = |verb: &str| format!("/v1/apps/web/{verb}");
    let events = events_until(&run, "reload_failed");
    run.site
        .deploy("v2", "exit-at-boot=9 stderr=the_disk_is_full");
    recorder.ask("POST", "/v1/reload", "", 200, "stream");
    let events = events.recv_timeout(LIMIT).expect("a failed reload is told");
    let frames = Decoder::new().feed(events.as_bytes()).expect("a stream");
    recorder.check_frames(&frames);
    recorder.keep("GET", "/v1/events", "", "stream", &events);
    recorder.ask("GET", &web("why"), "", 200, "Story");

    run.site.deploy("v3", "");
    let body = r#"{"wait":"drained","canary":"off"}"#;
    recorder.ask("POST", &web("reload"), body, 200, "stream");
    let body = r#"{"wait":"none","canary":{"percent":10,"for_ms":60000,"max_errors_per_mille":5}}"#;
    recorder.ask("POST", &web("reload"), body, 200, "stream");
    run.until("its canary runs", |app| {
        app.reload
            .as_ref()
            .is_some_and(|reload| reload.canary.is_some())
    });
    recorder.ask("GET", "/v1/status", "", 200, "Status");
    recorder.ask("POST", &web("scale"), r#"{"to":3}"#, 409, "ProblemBody");
    recorder.ask("POST", &web("promote"), "", 200, "stream");
    recorder.ask("POST", &web("promote"), "", 200, "stream");
    recorder.ask("POST", &web("rollback"), "", 200, "stream");
    recorder.ask("POST", &web("restart"), "", 200, "stream");
    run.until("nothing drains", |app| {
        app.workers.len() == 2 && app.reload.is_none()
    });
    recorder.ask("POST", &web("scale"), r#"{"by":1}"#, 200, "Outcome");
    recorder.ask("POST", &web("scale"), r#"{"to":0}"#, 400, "ProblemBody");
    let binary = json!({ "binary": env!("CARGO_BIN_EXE_segue") }).to_string();
    recorder.ask("POST", "/v1/upgrade", &binary, 200, "stream");
    recorder.ask("GET", "/v1/status", "", 200, "Status");
    recorder.ask("GET", &web("why"), "", 200, "Story");
    recorder.ask("POST", &web("stop"), "", 200, "stream");
    // The only app has gone, and the supervisor with it.
    let another = Launch::standin("").flag("--name", "web").start();
    let mut recorder = Recorder {
        run: &another,
        ..recorder
    };
    recorder.ask("POST", "/v1/shutdown", "", 200, "stream");
    let third = Launch::standin("").flag("--name", "web").start();
    let mut recorder = Recorder {
        run: &third,
        ..recorder
    };
    recorder.ask("DELETE", "/v1/apps/web", "", 200, "stream");
    if let Ok(path) = std::env::var("SEGUE_CONTROL_RECORD") {
        let lines = recorder.lines.iter().map(|line| format!("{line}\n"));
        std::fs::write(path, lines.collect::<String>()).expect("write the records");
    }
}

/// As a command of a newer release finds it.
#[test]
fn a_path_of_a_newer_release_is_refused_with_the_release_of_this_one() {
    let run = Launch::standin("").start();
    let answer = http::request_unix(&run.control, "POST", "/v1/apps/web/teleport", "{}");
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 404);
    let error = &answer.json()["error"];
    let expected = format!("this supervisor is release {} ", env!("CARGO_PKG_VERSION"));
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.starts_with(&expected))
    );
    assert_eq!(error["code"], "no_such_path");
    run.finish();
}
