//! Conversations recorded from real Node versions (`examples/record.rs`): every line a worker said
//! is read, and our primary says again, word for word, what it said then.

mod primary;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::slice;

use primary::{CASES, Case, Primary};
use segue_wire::node::{AddressType, Decoder, Place, QueryServer};
use serde_json::Value;

const VERSIONS: [u32; 6] = [16, 18, 20, 22, 24, 26];

/// Plays a recorded conversation and returns the questions in it.
fn replay(version: u32, case: &Case) -> Vec<QueryServer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/transcripts/{version}/{}.jsonl", case.name));
    let transcript = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut primary = Primary::new(case);
    let mut decoder = Decoder::default();
    let mut said = VecDeque::new();
    for (number, entry) in (1..).zip(transcript.lines()) {
        let place = format!("{path:?}, line {number}");
        let entry: Value = serde_json::from_str(entry).expect("a transcript is JSON");
        let text = entry["line"].as_str().expect("an entry has a line");
        if entry["from"] == "worker" {
            let mut lines = Vec::new();
            decoder.feed(format!("{text}\n").as_bytes(), |line| lines.push(line));
            assert_eq!(lines.len(), 1, "{place}");
            said.extend(lines.iter().flat_map(|line| primary.hear(line)));
        } else {
            let now = said
                .pop_front()
                .unwrap_or_else(|| panic!("{place}: nothing to say"));
            assert_eq!(format!("{text}\n").as_bytes(), now.line, "{place}");
        }
    }
    assert!(said.is_empty(), "{path:?}: more to say: {said:?}");
    primary.questions
}

fn replay_named(version: u32, name: &str) -> Vec<QueryServer> {
    let case = CASES.iter().find(|case| case.name == name);
    replay(version, case.unwrap_or_else(|| panic!("no case {name}")))
}

#[test]
fn every_conversation_is_understood() {
    for version in VERSIONS {
        for case in CASES {
            let questions = replay(version, case);
            assert_eq!(
                questions.is_empty(),
                case.name == "messages",
                "{version} {}",
                case.name
            );
        }
    }
}

#[test]
fn places_are_what_the_app_asked_for() {
    let any = Place {
        address_type: AddressType::V4,
        port: Some(18080),
        ..Place::default()
    };
    for version in VERSIONS {
        let check = |name: &str, expected: &[Place]| {
            let places: Vec<Place> = replay_named(version, name)
                .into_iter()
                .map(|query| query.place)
                .collect();
            assert_eq!(places, expected, "{version} {name}");
        };
        check("port", slice::from_ref(&any));
        check("taken", slice::from_ref(&any));
        check("tls", slice::from_ref(&any));
        check(
            "two-servers",
            &[
                any.clone(),
                Place {
                    port: Some(18081),
                    ..any.clone()
                },
            ],
        );
        check("same-port-twice", &[any.clone(), any.clone()]);
        check("close-and-listen-again", &[any.clone(), any.clone()]);
        let zero = Place {
            port: Some(0),
            ..any.clone()
        };
        check("port-0-twice", &[zero.clone(), zero]);
        check(
            "host",
            &[Place {
                address: Some("127.0.0.1".into()),
                backlog: Some(77),
                ..any.clone()
            }],
        );
        check(
            "v6-only",
            &[Place {
                address: Some("::1".into()),
                address_type: AddressType::V6,
                flags: 1,
                ..any.clone()
            }],
        );
        check(
            "path",
            &[Place {
                address: Some("/srv/app/app.sock".into()),
                address_type: AddressType::Path,
                port: Some(-1),
                readable_all: true,
                writable_all: true,
                ..any.clone()
            }],
        );
        check(
            "udp",
            &[Place {
                address: Some("0.0.0.0".into()),
                address_type: AddressType::Udp4,
                flags: 4,
                ..any.clone()
            }],
        );
    }
}

#[test]
fn odd_questions_are_read_too() {
    for version in VERSIONS {
        let questions = replay_named(version, "port-0-twice");
        let indices: Vec<u64> = questions.iter().map(|query| query.index).collect();
        assert_eq!(indices, [0, 1], "{version}");

        for name in ["tls", "taken-tls"] {
            let questions = replay_named(version, name);
            let keys = questions
                .first()
                .and_then(|query| query.data.get("ticketKeys"));
            assert_eq!(
                keys,
                Some(&Value::from("5e".repeat(48))),
                "{version} {name}"
            );
        }

        let questions = replay_named(version, "abstract");
        let name = questions
            .first()
            .and_then(|query| query.place.abstract_name());
        assert_eq!(name, Some("segue-record"), "{version}");

        let questions = replay_named(version, "fd");
        let place = questions.first().map(|query| &query.place);
        assert!(
            place.is_some_and(|place| place.fd.is_some()),
            "{version}: {place:?}"
        );
        assert_eq!(
            place.map(|place| place.address_type),
            Some(AddressType::Fd),
            "{version}"
        );
    }
}
