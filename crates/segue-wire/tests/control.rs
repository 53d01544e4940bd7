//! The control API between releases: the OpenAPI document names what the parser knows and what is
//! answered, and what earlier releases have asked and answered is still understood.

mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use segue_wire::control::{
    Decoder, Differences, OPENAPI, Outcome, ProblemBody, Progress, Request, Status, Story, parse,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("the document is JSON")
}

/// Method and path of every operation.
fn operations() -> BTreeSet<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().expect("operations").keys();
        methods.map(|method| (method.to_uppercase(), path.clone()))
    });
    operations.collect()
}

/// What a request of the parser is in the document. A new one needs a row here, and there.
fn operation_of(request: &Request) -> (&'static str, &'static str) {
    match request {
        Request::Status => ("GET", "/v1/status"),
        Request::Metrics => ("GET", "/v1/metrics"),
        Request::OpenApi => ("GET", "/v1/openapi.json"),
        Request::Events => ("GET", "/v1/events"),
        Request::Start { .. } => ("POST", "/v1/apps"),
        Request::StartAgain { .. } => ("POST", "/v1/apps/{app}/start"),
        Request::Delete { .. } => ("DELETE", "/v1/apps/{app}"),
        Request::Apply(_) => ("POST", "/v1/apply"),
        Request::ReopenLogs => ("POST", "/v1/logs/reopen"),
        Request::Reload { app: None, .. } => ("POST", "/v1/reload"),
        Request::Reload { app: Some(_), .. } => ("POST", "/v1/apps/{app}/reload"),
        Request::Promote { .. } => ("POST", "/v1/apps/{app}/promote"),
        Request::Rollback { .. } => ("POST", "/v1/apps/{app}/rollback"),
        Request::Restart { .. } => ("POST", "/v1/apps/{app}/restart"),
        Request::Why { .. } => ("GET", "/v1/apps/{app}/why"),
        Request::Scale { .. } => ("POST", "/v1/apps/{app}/scale"),
        Request::Stop { .. } => ("POST", "/v1/apps/{app}/stop"),
        Request::Shutdown => ("POST", "/v1/shutdown"),
        Request::Upgrade { .. } => ("POST", "/v1/upgrade"),
    }
}

/// What the documentation of the parser's requests names: every one has its method and path there.
fn operations_in_source() -> BTreeSet<(String, String)> {
    let source = include_str!("../src/control/request.rs");
    let end = source.find("#[cfg(test)]").expect("tests at its end");
    let mut found = BTreeSet::new();
    for quoted in source[..end].split('`').skip(1).step_by(2) {
        if let Some((method, path)) = quoted.split_once(" /v1/") {
            found.insert((method.to_owned(), format!("/v1/{path}")));
        }
    }
    found
}

#[test]
fn the_document_has_the_paths_of_the_parser_and_no_others() {
    let operations = operations();
    assert_eq!(operations, operations_in_source());
    for (method, path) in &operations {
        let concrete = path.replace("{app}", "web");
        let body = match path.as_str() {
            "/v1/apps/{app}/scale" => r#"{"to":1}"#,
            "/v1/apps" => r#"{"definition":{}}"#,
            "/v1/apply" => r#"{"source":"/srv/segue.toml"}"#,
            _ => "",
        };
        let request = parse(method, &concrete, body.as_bytes());
        let request = request.unwrap_or_else(|problem| panic!("{method} {path}: {problem}"));
        assert_eq!(operation_of(&request), (method.as_str(), path.as_str()));
        for other in ["GET", "POST", "DELETE"] {
            let is_known = operations.contains(&(other.to_owned(), path.clone()));
            let parsed = parse(other, &concrete, body.as_bytes());
            assert_eq!(parsed.is_ok(), is_known, "{other} {path}");
        }
    }
}

#[test]
fn the_document_is_whole() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = BTreeSet::new();
    each_reference(&document, &mut references);
    let schemas = document["components"]["schemas"].as_object();
    let schemas: BTreeSet<String> = schemas.expect("schemas").keys().cloned().collect();
    let named: BTreeSet<String> = references
        .iter()
        .map(|reference| reference.replace("#/components/schemas/", ""))
        .collect();
    assert!(named.is_subset(&schemas), "{named:?}");
    // Those are in streams, which have no schema of their own.
    let in_streams = ["Missed", "Notice"].map(str::to_owned);
    let unused: BTreeSet<_> = schemas.difference(&named).cloned().collect();
    assert_eq!(unused, BTreeSet::from(in_streams));
    let mut ids = BTreeSet::new();
    for (method, path) in operations() {
        let operation = &document["paths"][&path][method.to_lowercase()];
        let id = operation["operationId"].as_str().expect("an id");
        assert!(ids.insert(id.to_owned()), "{id} twice");
        assert!(operation["responses"]["200"].is_object(), "{path}");
        assert!(operation["responses"]["default"].is_object(), "{path}");
        let has_app = operation["parameters"]
            .as_array()
            .is_some_and(|parameters| parameters.iter().any(|one| one["name"] == "app"));
        assert_eq!(has_app, path.contains("{app}"), "{path}");
    }
}

fn each_reference(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(reference) if name == "$ref" => drop(found.insert(reference.to_owned())),
                    _ => each_reference(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_reference(item, found)),
        _ => {}
    }
}

/// What a release has asked and answered, as `e2e control_records` has recorded it.
struct Recorded {
    name: String,
    /// The method, the path and the body.
    asked: (String, String, String),
    /// The name of the schema of what was answered, or `stream`.
    kind: String,
    answer: String,
}

fn recorded() -> Vec<Recorded> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control");
    let entries = std::fs::read_dir(&directory).expect("records");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a record");
        for (number, line) in text.lines().enumerate() {
            let line: Value = serde_json::from_str(line).expect("a record is JSON");
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            all.push(Recorded {
                name: format!("{}:{}", file.display(), number + 1),
                asked: (word("method"), word("path"), word("body")),
                kind: word("kind"),
                answer: word("answer"),
            });
        }
    }
    all
}

#[test]
fn what_a_release_has_asked_is_still_understood() {
    let mut seen = BTreeSet::new();
    for Recorded { name, asked, .. } in recorded() {
        let (method, path, body) = asked;
        let request = parse(&method, &path, body.as_bytes());
        let request = request.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let (method, path) = operation_of(&request);
        seen.insert((method.to_owned(), path.to_owned()));
        // A newer command may say more.
        let newer = match serde_json::from_str::<Map<String, Value>>(&body) {
            Ok(mut members) => {
                members.insert("later".to_owned(), json!({ "on": [1, null] }));
                Value::from(members).to_string()
            }
            Err(_) => body,
        };
        assert_eq!(
            parse(
                &asked_method(&request),
                &asked_path(&request),
                newer.as_bytes()
            )
            .as_ref(),
            Ok(&request),
            "{name}"
        );
    }
    assert_eq!(seen, operations(), "every operation is recorded");
}

fn asked_method(request: &Request) -> String {
    operation_of(request).0.to_owned()
}

fn asked_path(request: &Request) -> String {
    operation_of(request).1.replace("{app}", "web")
}

fn understood<T: DeserializeOwned>(name: &str, text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads it as what it is; gives what is written again.
fn read_again(name: &str, kind: &str, text: &str) -> Value {
    fn again<T: DeserializeOwned + serde::Serialize>(name: &str, text: &str) -> Value {
        serde_json::to_value(understood::<T>(name, text)).expect("it has a JSON form")
    }
    match kind {
        "Status" => again::<Status>(name, text),
        "Story" => again::<Story>(name, text),
        "Outcome" => again::<Outcome>(name, text),
        "ProblemBody" => again::<ProblemBody>(name, text),
        "Differences" => again::<Differences>(name, text),
        other => panic!("{name}: {other} is no kind of answer"),
    }
}

#[test]
fn what_a_release_has_answered_is_still_understood_and_fits_the_document() {
    let document = document();
    let mut kinds = BTreeSet::new();
    for Recorded {
        name, kind, answer, ..
    } in recorded()
    {
        kinds.insert(kind.clone());
        match kind.as_str() {
            "stream" => {
                let frames = Decoder::new().feed(answer.as_bytes()).expect("a stream");
                assert!(!frames.is_empty(), "{name}");
                for frame in frames {
                    let progress = Progress::decode(&frame).expect("it is understood");
                    let (schema, value) = match progress.expect("an event of ours") {
                        Progress::Notice(notice) => ("Notice", serde_json::to_value(notice)),
                        Progress::Outcome(outcome) => ("Outcome", serde_json::to_value(outcome)),
                        Progress::Missed(missed) => ("Missed", serde_json::to_value(missed)),
                    };
                    let written: Value = understood(&name, &frame.data);
                    assert_eq!(value.expect("it has a JSON form"), written, "{name}");
                    let complaints = schema::complaints(&document, schema, &written);
                    assert_eq!(complaints, [""; 0], "{name}");
                    kinds.insert(schema.to_owned());
                }
            }
            "metrics" | "openapi" => {}
            kind => {
                let written: Value = understood(&name, &answer);
                assert_eq!(read_again(&name, kind, &answer), written, "{name}");
                let complaints = schema::complaints(&document, kind, &written);
                assert_eq!(complaints, [""; 0], "{name}");
                let mut newer = written;
                add_later(&mut newer);
                let newer = newer.to_string();
                assert_eq!(
                    read_again(&name, kind, &newer),
                    read_again(&name, kind, &answer),
                    "{name}: what it does not know changes nothing"
                );
            }
        }
    }
    for kind in [
        "Status",
        "Story",
        "Outcome",
        "ProblemBody",
        "Notice",
        "stream",
    ] {
        assert!(kinds.contains(kind), "no {kind} is recorded");
    }
}

/// Puts something new into every object.
fn add_later(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(add_later);
            members.insert("later".to_owned(), json!({ "on": [1, null] }));
        }
        Value::Array(items) => items.iter_mut().for_each(add_later),
        _ => {}
    }
}

#[test]
fn a_schema_finds_what_does_not_fit() {
    let document = document();
    let good = json!({ "error": { "code": "conflict", "message": "no" } });
    assert_eq!(schema::complaints(&document, "ProblemBody", &good), [""; 0]);
    for (name, bad) in [
        ("ProblemBody", json!({})),
        ("ProblemBody", json!({ "error": { "code": "conflict" } })),
        (
            "ProblemBody",
            json!({ "error": { "code": 4, "message": "no" } }),
        ),
        (
            "Problem",
            json!({ "code": "x", "message": "y", "mood": "z" }),
        ),
        ("Canary", json!({ "percent": 100, "for_ms": 1 })),
        ("Canary", json!({ "percent": 0, "for_ms": 1 })),
        ("ReloadBody", json!({ "wait": "soon" })),
        ("ReloadBody", json!({ "canary": "on" })),
        ("ScaleBody", json!({ "to": 1, "by": 1 })),
        ("Missed", json!([])),
        ("Nothing", json!({})),
    ] {
        let complaints = schema::complaints(&document, name, &bad);
        assert!(!complaints.is_empty(), "{name} {bad}");
    }
}
