//! What the preload script of a worker and the supervisor say to each other: about draining, and about
//! how the worker is while it serves.
//!
//! The `cmd` of every message begins with `NODE_`, so that Node keeps it from the app's own
//! `'message'` listeners (Node's documentation of `process.send`).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::loose::Loose;

/// The `cmd` of all of them.
pub(super) const COMMAND: &str = "NODE_SEGUE";

/// Longest message that is believed, 4 KiB: the preload's are below 400 bytes.
const LIMIT: usize = 4 << 10;

/// Longest text that is kept of one; longer ones are cut.
const TEXT_LIMIT: usize = 200;

/// What a preload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has set itself up.
    Hello(Hello),
    /// What is left of the drain.
    State(DrainState),
    /// Nothing is left.
    Drained(Totals),
    /// The app listens on a socket that the supervisor did not make.
    Bypass(Bypass),
    /// Its event loop has come to the ping of this number.
    Pong { number: u64 },
    /// What it has answered since it was told to count.
    Counted(Counted),
    /// It has read everything up to the [`Order::Sync`](super::Order::Sync) of this number, and
    /// whether Node awaits an acknowledgement. It comes as a `NODE_HANDLE_ACK` with members of its
    /// own, because Node sends nothing else meanwhile.
    Synced { number: u64, awaits: bool },
}

/// The first word of a preload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Hello {
    /// Of these messages; 1.
    pub version: u64,
    /// Node's version, `20.20.2`.
    pub node: String,
    /// It knows this Node well enough to hand connections over.
    pub migrates: bool,
}

/// Open connections of a worker that drains, by what keeps them open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct DrainState {
    /// HTTP/1 between two requests.
    pub idle: u64,
    /// HTTP/1 in a request.
    pub busy: u64,
    /// WebSockets and other upgrades.
    pub upgraded: u64,
    pub tls: u64,
    pub http2: u64,
    pub other: u64,
    /// Connections that are being handed over.
    pub outgoing: u64,
    /// Age of the oldest one, in milliseconds.
    pub oldest: u64,
    pub totals: Totals,
}

/// Connections that are gone since the drain began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Totals {
    /// Handed to another worker.
    pub moved: u64,
    /// Closed after the client had been told.
    pub announced: u64,
    /// Cut off, because they stalled or at the deadline.
    pub cut: u64,
    /// Of those, the ones that stalled.
    pub stalled: u64,
}

/// Answers to clients since the count began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Counted {
    /// All that are over, whatever became of them.
    pub answers: u64,
    /// Of those, the ones with a status of 500 or more, and the ones that were cut off.
    pub errors: u64,
}

/// A socket beside the cluster's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// Where it listens, as far as known.
    pub place: String,
}

/// The message that comes with an idle connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The key of the address it was accepted at.
    pub key: String,
    /// Its server's keep-alive time-out in milliseconds; 0 for none.
    pub keep_alive: u64,
}

/// How a worker is to drain. Said again, the newest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// It goes on accepting: others get the new connections, but some may be on their way.
    pub accept: bool,
    pub idle: Idle,
    /// A transfer that moves no byte for so long is cut off, in milliseconds.
    pub stall: u64,
    /// Milliseconds from now until whatever is left is cut off.
    pub deadline: u64,
    /// WebSockets are closed at random times within so many milliseconds.
    pub websocket_after: u64,
    /// The code in their close frame.
    pub websocket_code: u16,
}

/// What becomes of idle HTTP/1 connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// They are handed to other workers.
    Migrate,
    /// They are closed after an announced last response.
    Close,
    /// They are left alone.
    Keep,
}

impl Idle {
    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Close => "close",
            Self::Keep => "keep",
        }
    }
}

impl DrainState {
    /// Connections that clients have open.
    #[must_use]
    pub fn connections(&self) -> u64 {
        [
            self.idle,
            self.busy,
            self.upgraded,
            self.tls,
            self.http2,
            self.other,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

impl Drain {
    pub(super) fn value(&self) -> Value {
        json!({
            "cmd": COMMAND,
            "act": "drain",
            "accept": self.accept,
            "idle": self.idle.word(),
            "stall": self.stall,
            "deadline": self.deadline,
            "ws_after": self.websocket_after,
            "ws_code": self.websocket_code,
        })
    }
}

/// Asks the preload to answer as soon as the event loop gets there.
pub(super) fn ping(number: u64) -> Value {
    json!({"cmd": COMMAND, "act": "ping", "n": number})
}

/// Has the preload count answers, or no more. Said again it goes on from where it is.
pub(super) fn count_answers(on: bool) -> Value {
    json!({"cmd": COMMAND, "act": "count", "on": on})
}

/// Has Node write down what it has compiled.
pub(super) fn fill_cache() -> Value {
    json!({"cmd": COMMAND, "act": "cache"})
}

/// Asks the preload to say how far it has read.
pub(super) fn sync(number: u64) -> Value {
    json!({"cmd": COMMAND, "act": "sync", "n": number})
}

/// Reads a line whose `cmd` is [`COMMAND`]; it is known to be an object.
pub(super) fn read(line: &[u8]) -> Option<Said> {
    if line.len() > LIMIT {
        return None;
    }
    let body: Body = serde_json::from_slice(line).ok()?;
    match body.act.text()? {
        "hello" => Some(Said::Hello(Hello {
            version: body.v.number()?,
            node: text(&body.node),
            migrates: body.migrate.is_true(),
        })),
        "state" => Some(Said::State(DrainState {
            idle: count(&body.idle),
            busy: count(&body.busy),
            upgraded: count(&body.upgraded),
            tls: count(&body.tls),
            http2: count(&body.h2),
            other: count(&body.other),
            outgoing: count(&body.outgoing),
            oldest: count(&body.oldest_ms),
            totals: body.totals(),
        })),
        "drained" => Some(Said::Drained(body.totals())),
        "bypass" => Some(Said::Bypass(Bypass {
            place: text(&body.what),
        })),
        "pong" => Some(Said::Pong {
            number: body.n.number()?,
        }),
        "counted" => Some(Said::Counted(Counted {
            answers: count(&body.answers),
            errors: count(&body.errors),
        })),
        _ => None,
    }
}

/// Reads what a message with a descriptor wraps, if it is a connection of the preload's.
pub(super) fn read_passed(line: &[u8]) -> Option<Passed> {
    if line.len() > LIMIT {
        return None;
    }
    let Wrapper { msg } = serde_json::from_slice(line).ok()?;
    let is = |member: &str, word: &str| msg.get(member).and_then(Value::as_str) == Some(word);
    if !is("cmd", COMMAND) || !is("act", "conn") {
        return None;
    }
    Some(Passed {
        key: msg.get("key")?.as_str()?.to_owned(),
        keep_alive: msg.get("ka").and_then(Value::as_u64).unwrap_or(0),
    })
}

fn count(member: &Loose) -> u64 {
    member.number().unwrap_or(0)
}

fn text(member: &Loose) -> String {
    let text = member.text().unwrap_or_default().chars();
    // It ends up in logs and on terminals.
    let printable = text.filter(|character| !character.is_control());
    printable.take(TEXT_LIMIT).collect()
}

#[derive(Deserialize)]
struct Wrapper {
    #[serde(default)]
    msg: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    act: Loose,
    v: Loose,
    node: Loose,
    migrate: Loose,
    idle: Loose,
    busy: Loose,
    upgraded: Loose,
    tls: Loose,
    h2: Loose,
    other: Loose,
    outgoing: Loose,
    oldest_ms: Loose,
    moved: Loose,
    announced: Loose,
    cut: Loose,
    stalled: Loose,
    what: Loose,
    n: Loose,
    answers: Loose,
    errors: Loose,
}

impl Body {
    fn totals(&self) -> Totals {
        Totals {
            moved: count(&self.moved),
            announced: count(&self.announced),
            cut: count(&self.cut),
            stalled: count(&self.stalled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HandleType, Message};
    use super::*;

    fn read(value: &Value) -> Message {
        Message::read(value.to_string().as_bytes()).expect("valid JSON is always a message")
    }

    #[test]
    fn reads_what_a_preload_says() {
        let totals = Totals {
            moved: 7,
            announced: 8,
            cut: 9,
            stalled: 4,
        };
        let cases = [
            (
                json!({"act": "hello", "v": 1, "node": "20.20.2", "migrate": true}),
                Said::Hello(Hello {
                    version: 1,
                    node: "20.20.2".into(),
                    migrates: true,
                }),
            ),
            (
                json!({"act": "hello", "v": 1, "node": "2\u{1b}[2J".repeat(100), "migrate": "yes"}),
                Said::Hello(Hello {
                    version: 1,
                    node: "2[2J".repeat(50),
                    migrates: false,
                }),
            ),
            (
                json!({"act": "state", "idle": 1, "busy": 2, "upgraded": 3, "tls": 4, "h2": 5, "other": 6,
                    "outgoing": 10, "oldest_ms": 11, "moved": 7, "announced": 8, "cut": 9, "stalled": 4, "more": []}),
                Said::State(DrainState {
                    idle: 1,
                    busy: 2,
                    upgraded: 3,
                    tls: 4,
                    http2: 5,
                    other: 6,
                    outgoing: 10,
                    oldest: 11,
                    totals,
                }),
            ),
            (
                json!({"act": "state", "idle": -1, "busy": "2", "upgraded": 1.5}),
                Said::State(DrainState::default()),
            ),
            (
                json!({"act": "drained", "moved": 7, "announced": 8, "cut": 9, "stalled": 4}),
                Said::Drained(totals),
            ),
            (
                json!({"act": "bypass", "what": ":::3000"}),
                Said::Bypass(Bypass {
                    place: ":::3000".into(),
                }),
            ),
            (json!({"act": "pong", "n": 17}), Said::Pong { number: 17 }),
            (
                json!({"act": "counted", "answers": 1000, "errors": 3}),
                Said::Counted(Counted {
                    answers: 1000,
                    errors: 3,
                }),
            ),
            (
                json!({"act": "counted", "answers": -1, "errors": "3"}),
                Said::Counted(Counted::default()),
            ),
        ];
        for (mut said, expected) in cases {
            said["cmd"] = COMMAND.into();
            assert_eq!(read(&said), Message::Segue(expected), "{said}");
        }
    }

    #[test]
    fn what_it_does_not_understand_is_nothing() {
        let long = "x".repeat(LIMIT);
        for said in [
            json!({"cmd": COMMAND}),
            json!({"cmd": COMMAND, "act": "sing"}),
            json!({"cmd": COMMAND, "act": ["hello"], "v": 1}),
            json!({"cmd": COMMAND, "act": "hello"}),
            json!({"cmd": COMMAND, "act": "pong"}),
            json!({"cmd": COMMAND, "act": "pong", "n": -1}),
            json!({"cmd": COMMAND, "act": "drained", "more": long}),
        ] {
            assert_eq!(read(&said), Message::Unknown, "{said}");
        }
    }

    #[test]
    fn reads_connections_that_are_passed() {
        let wrapped =
            |kind: &str, msg: Value| json!({"cmd": "NODE_HANDLE", "type": kind, "msg": msg});
        let connection = json!({"cmd": COMMAND, "act": "conn", "key": "3", "ka": 5000});
        let passed = |keep_alive| {
            Some(Passed {
                key: "3".into(),
                keep_alive,
            })
        };
        let cases = [
            (wrapped("net.Native", connection.clone()), passed(5000)),
            (
                wrapped(
                    "net.Native",
                    json!({"cmd": COMMAND, "act": "conn", "key": "3"}),
                ),
                passed(0),
            ),
            (wrapped("net.Socket", connection.clone()), None),
            (wrapped("net.Native", json!([connection])), None),
            (wrapped("net.Native", json!("conn")), None),
            (
                wrapped(
                    "net.Native",
                    json!({"cmd": COMMAND, "act": "conn", "key": 3}),
                ),
                None,
            ),
            (
                wrapped(
                    "net.Native",
                    json!({"cmd": "NODE_CLUSTER", "act": "conn", "key": "3"}),
                ),
                None,
            ),
            (
                wrapped(
                    "net.Native",
                    json!({"cmd": COMMAND, "act": "conn", "key": "3", "more": "x".repeat(LIMIT)}),
                ),
                None,
            ),
        ];
        for (line, expected) in cases {
            match read(&line) {
                Message::Handle { passed, .. } => assert_eq!(passed, expected, "{line}"),
                other => panic!("{other:?}"),
            }
        }
        let bare = json!({"cmd": "NODE_HANDLE", "type": "net.Native"});
        assert_eq!(
            read(&bare),
            Message::Handle {
                kind: HandleType::NetNative,
                passed: None
            }
        );
    }
}
