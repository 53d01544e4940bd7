//! What a worker says: one JSON value, read into the few shapes a primary has to know.
//!
//! Reading is lenient, because an app can send anything through `process.send`: unknown members
//! are ignored, and a member of the wrong type counts as absent. Nothing that an app sends is
//! kept unless the cluster protocol needs it.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::drain::{self, Passed, Said};
use super::loose::Loose;

/// Longest message of the cluster protocol that is believed, 64 KiB. Node's are below 1 KiB; the
/// limit bounds what the `data` of a forged question can make us build.
const CLUSTER_LIMIT: usize = 64 << 10;

/// One message from a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The process runs; its script has not started.
    Online,
    /// It wants a socket. Must be answered, or the server never comes up.
    QueryServer(QueryServer),
    /// It listens. Said again after each `listen`; `place.port` is the real port.
    Listening { index: u64, place: Place },
    /// It no longer listens on the socket it was given under this key. Open connections go on.
    Close { key: String },
    /// The app called `worker.disconnect()` or `kill()`. Must be acknowledged; then the channel ends.
    ExitedAfterDisconnect { seq: u64 },
    /// Its answer to the `newconn` with this number. On `false` it has closed its copy unserved.
    Accepted { ack: u64, accepted: bool },
    /// A descriptor of the worker's comes with this message. Must be acknowledged.
    Handle {
        kind: HandleType,
        /// What the preload says of it, if it is one of the connections it hands over.
        passed: Option<Passed>,
    },
    /// The preload speaks.
    Segue(Said),
    /// The descriptor sent last has arrived.
    HandleAck,
    /// The message sent last arrived without its descriptor.
    HandleNack,
    /// `process.send('ready')`.
    Ready,
    /// Anything else the app said.
    User,
    /// An internal message of Node's that a primary has no answer to.
    Unknown,
}

/// A worker's question for a socket.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct QueryServer {
    /// The answer's `ack`.
    pub seq: u64,
    /// Counts the questions for one place within a worker; tells several `listen(0)` apart.
    /// On Node 16 and 18 it stays above 0 after an early close, so it means nothing for fixed ports.
    pub index: u64,
    /// To be given back in the answer in the same shape; see [`TicketKeys`](super::TicketKeys).
    pub data: Value,
    pub place: Place,
}

/// Where a worker wants to listen, or does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Place {
    /// An IP address in text, or a path; names have been resolved by the worker. `None`: any address.
    pub address: Option<String>,
    /// As asked; 0 for any. `None` and -1 where there are no ports.
    pub port: Option<i64>,
    pub address_type: AddressType,
    /// A descriptor number in the worker, of `listen({fd})`.
    pub fd: Option<i32>,
    /// As in libuv: see [`is_v6_only`](Self::is_v6_only) and [`reuses_address`](Self::reuses_address).
    pub flags: u32,
    /// `None` where the app left it to Node (absent, `false` or 0): 511.
    pub backlog: Option<u32>,
    /// `listen({path, readableAll: true})`: everybody may read the socket file.
    pub readable_all: bool,
    /// `listen({path, writableAll: true})`: everybody may connect.
    pub writable_all: bool,
}

/// The `addressType` of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum AddressType {
    V4,
    V6,
    Path,
    /// The app named a descriptor of its own.
    Fd,
    Udp4,
    Udp6,
    #[default]
    Unknown,
}

/// The `type` of a message that carries a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleType {
    /// A stream socket, TCP or Unix, listening or connected. The receiver looks at its family.
    NetNative,
    /// A UDP socket.
    DgramNative,
    NetServer,
    NetSocket,
    DgramSocket,
    Unknown,
}

impl Place {
    /// IPV6_V6ONLY is wanted (libuv's `UV_TCP_IPV6ONLY` and `UV_UDP_IPV6ONLY`, both bit 0).
    /// Node 16, 18 and 20 never say so without a host.
    #[must_use]
    pub fn is_v6_only(&self) -> bool {
        self.flags & 1 != 0
    }

    /// UDP only: SO_REUSEADDR is wanted (libuv's `UV_UDP_REUSEADDR`).
    #[must_use]
    pub fn reuses_address(&self) -> bool {
        self.flags & 4 != 0
    }

    /// The name of an abstract socket, without its leading NUL. Node takes `\0name` for a relative
    /// path and puts its working directory before it, so the name starts after the first NUL.
    #[must_use]
    pub fn abstract_name(&self) -> Option<&str> {
        match self.address_type {
            AddressType::Path => self
                .address
                .as_deref()?
                .split_once('\0')
                .map(|(_, name)| name),
            _ => None,
        }
    }
}

impl HandleType {
    /// The word on the wire; `None` for those that only workers send.
    pub(super) fn word(self) -> Option<&'static str> {
        match self {
            Self::NetNative => Some("net.Native"),
            Self::DgramNative => Some("dgram.Native"),
            Self::NetServer | Self::NetSocket | Self::DgramSocket | Self::Unknown => None,
        }
    }

    fn of(word: &Loose) -> Self {
        match word.text() {
            Some("net.Native") => Self::NetNative,
            Some("dgram.Native") => Self::DgramNative,
            Some("net.Server") => Self::NetServer,
            Some("net.Socket") => Self::NetSocket,
            Some("dgram.Socket") => Self::DgramSocket,
            _ => Self::Unknown,
        }
    }
}

impl Message {
    /// Reads one line without its newline; `None` if it is not JSON.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        // A derived struct would also take an array for an object.
        if line.trim_ascii_start().first() != Some(&b'{') {
            let value: Loose = serde_json::from_slice(line).ok()?;
            return Some(match value.text() {
                Some("ready") => Self::Ready,
                _ => Self::User,
            });
        }
        let Ok(envelope) = serde_json::from_slice::<Envelope>(line) else {
            // Node writes no member twice and no lone surrogate into those we look at; an app may.
            serde_json::from_slice::<IgnoredAny>(line).ok()?;
            return Some(Self::User);
        };
        let message = match envelope.cmd.text() {
            Some("NODE_CLUSTER") => read_cluster(line).unwrap_or(Self::Unknown),
            Some("NODE_HANDLE") => {
                let kind = HandleType::of(&envelope.kind);
                let passed = match kind {
                    HandleType::NetNative => drain::read_passed(line),
                    _ => None,
                };
                Self::Handle { kind, passed }
            }
            Some(drain::COMMAND) => drain::read(line).map_or(Self::Unknown, Self::Segue),
            Some("NODE_HANDLE_ACK") => match envelope.segue.text() {
                Some("synced") => Self::Segue(Said::Synced {
                    number: envelope.n.number().unwrap_or(0),
                    awaits: envelope.awaits.is_true(),
                }),
                _ => Self::HandleAck,
            },
            Some("NODE_HANDLE_NACK") => Self::HandleNack,
            // Node's own rule for what is internal.
            Some(cmd) if cmd.len() > 5 && cmd.starts_with("NODE_") => Self::Unknown,
            _ => Self::User,
        };
        Some(message)
    }
}

fn read_cluster(line: &[u8]) -> Option<Message> {
    if line.len() > CLUSTER_LIMIT {
        return None;
    }
    let body: Body = serde_json::from_slice(line).ok()?;
    // Node, too, looks for an `ack` before anything else.
    if let Some(ack) = body.ack.number() {
        let accepted = body.accepted.is_true();
        return Some(Message::Accepted { ack, accepted });
    }
    match body.act.text()? {
        "online" => Some(Message::Online),
        "queryServer" => Some(Message::QueryServer(QueryServer {
            seq: body.seq.number()?,
            index: body.index.number().unwrap_or(0),
            place: body.place(),
            data: body.data,
        })),
        "listening" => Some(Message::Listening {
            index: body.index.number().unwrap_or(0),
            place: body.place(),
        }),
        "close" => Some(Message::Close {
            key: body.key.text()?.to_owned(),
        }),
        "exitedAfterDisconnect" => Some(Message::ExitedAfterDisconnect {
            seq: body.seq.number()?,
        }),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    cmd: Loose,
    #[serde(default, rename = "type")]
    kind: Loose,
    // Node holds everything back but acknowledgements while it awaits one itself: a preload's answer
    // to `Order::Sync` comes in that guise.
    #[serde(default)]
    segue: Loose,
    #[serde(default)]
    n: Loose,
    #[serde(default)]
    awaits: Loose,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Body {
    act: Loose,
    ack: Loose,
    accepted: Loose,
    seq: Loose,
    index: Loose,
    key: Loose,
    data: Value,
    address: Loose,
    port: Loose,
    address_type: Loose,
    fd: Loose,
    flags: Loose,
    backlog: Loose,
    readable_all: Loose,
    writable_all: Loose,
}

impl Body {
    fn place(&self) -> Place {
        let fd = self.fd.number().and_then(|fd| i32::try_from(fd).ok());
        let address_type = match &self.address_type {
            Loose::Integer(4) => AddressType::V4,
            Loose::Integer(6) => AddressType::V6,
            Loose::Integer(-1) => AddressType::Path,
            Loose::Text(word) if word == "udp4" => AddressType::Udp4,
            Loose::Text(word) if word == "udp6" => AddressType::Udp6,
            Loose::Absent if fd.is_some() => AddressType::Fd,
            _ => AddressType::Unknown,
        };
        let backlog = self.backlog.number().filter(|backlog| *backlog > 0);
        Place {
            address: self.address.text().map(str::to_owned),
            port: self.port.integer(),
            address_type,
            fd,
            flags: self
                .flags
                .number()
                .and_then(|flags| u32::try_from(flags).ok())
                .unwrap_or(0),
            backlog: backlog.map(|backlog| u32::try_from(backlog).unwrap_or(u32::MAX)),
            readable_all: self.readable_all.is_true(),
            writable_all: self.writable_all.is_true(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: &Value) -> Message {
        Message::read(value.to_string().as_bytes()).expect("valid JSON is always a message")
    }

    fn place(extra: Value) -> Place {
        let mut question = json!({"cmd": "NODE_CLUSTER", "act": "queryServer", "seq": 1});
        let members = question.as_object_mut().unwrap();
        members.extend(extra.as_object().unwrap().clone());
        match read(&question) {
            Message::QueryServer(query) => query.place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_internal_messages_from_the_apps_own() {
        let cases = [
            (
                json!({"cmd": "NODE_CLUSTER", "act": "online", "seq": 0}),
                Message::Online,
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "act": "close", "key": "k"}),
                Message::Close { key: "k".into() },
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "act": "exitedAfterDisconnect", "seq": 7}),
                Message::ExitedAfterDisconnect { seq: 7 },
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "ack": 3, "accepted": true, "act": "online"}),
                Message::Accepted {
                    ack: 3,
                    accepted: true,
                },
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "ack": 3}),
                Message::Accepted {
                    ack: 3,
                    accepted: false,
                },
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "ack": 3, "accepted": "yes"}),
                Message::Accepted {
                    ack: 3,
                    accepted: false,
                },
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "act": "queryServer"}),
                Message::Unknown,
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "act": "close", "key": 5}),
                Message::Unknown,
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "act": "more"}),
                Message::Unknown,
            ),
            (
                json!({"cmd": "NODE_CLUSTER", "act": {"a": [1]}}),
                Message::Unknown,
            ),
            (json!({"cmd": "NODE_CLUSTER"}), Message::Unknown),
            (json!({"cmd": "NODE_HANDLE_ACK"}), Message::HandleAck),
            (json!({"cmd": "NODE_HANDLE_NACK"}), Message::HandleNack),
            (
                json!({"cmd": "NODE_HANDLE_ACK", "segue": "synced", "n": 7, "awaits": true}),
                Message::Segue(Said::Synced {
                    number: 7,
                    awaits: true,
                }),
            ),
            (
                json!({"cmd": "NODE_HANDLE_ACK", "segue": "synced", "awaits": 1}),
                Message::Segue(Said::Synced {
                    number: 0,
                    awaits: false,
                }),
            ),
            (
                json!({"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": "x", "key": "k"}),
                Message::Handle {
                    kind: HandleType::NetSocket,
                    passed: None,
                },
            ),
            (
                json!({"cmd": "NODE_HANDLE", "type": 5}),
                Message::Handle {
                    kind: HandleType::Unknown,
                    passed: None,
                },
            ),
            (json!({"cmd": "NODE_DEBUG_ENABLED"}), Message::Unknown),
            (json!({"cmd": "NODE_"}), Message::User),
            (json!({"cmd": 5, "act": "online"}), Message::User),
            (json!(["NODE_CLUSTER", "online"]), Message::User),
            (json!("ready"), Message::Ready),
            (json!("steady"), Message::User),
            (json!(null), Message::User),
            (json!(4.5), Message::User),
        ];
        for (line, expected) in cases {
            assert_eq!(read(&line), expected, "{line}");
        }
    }

    #[test]
    fn reads_places() {
        let any = Place::default();
        assert_eq!(
            place(
                json!({"address": null, "port": 18080, "addressType": 4, "flags": 0, "backlog": 0})
            ),
            Place {
                port: Some(18080),
                address_type: AddressType::V4,
                ..any.clone()
            }
        );
        assert_eq!(
            place(
                json!({"address": "::1", "port": 0, "addressType": 6, "flags": 1, "backlog": 77})
            ),
            Place {
                address: Some("::1".into()),
                port: Some(0),
                address_type: AddressType::V6,
                flags: 1,
                backlog: Some(77),
                ..any.clone()
            }
        );
        assert_eq!(
            place(
                json!({"address": "/a", "port": -1, "addressType": -1, "backlog": false, "readableAll": true, "writableAll": false})
            ),
            Place {
                address: Some("/a".into()),
                port: Some(-1),
                address_type: AddressType::Path,
                readable_all: true,
                ..any.clone()
            }
        );
        assert_eq!(
            place(json!({"address": null, "port": null, "addressType": null, "fd": 7})),
            Place {
                address_type: AddressType::Fd,
                fd: Some(7),
                ..any.clone()
            }
        );
        assert_eq!(
            place(
                json!({"address": "0.0.0.0", "port": 53, "addressType": "udp4", "fd": -1, "flags": 4})
            ),
            Place {
                address: Some("0.0.0.0".into()),
                port: Some(53),
                address_type: AddressType::Udp4,
                flags: 4,
                ..any.clone()
            }
        );
        for nonsense in [
            json!({"addressType": 5}),
            json!({"addressType": [4]}),
            json!({"addressType": null, "fd": -1}),
            json!({"address": {}, "port": "80", "flags": -1, "backlog": -5, "fd": 1u64 << 40, "readableAll": 1}),
        ] {
            assert_eq!(place(nonsense.clone()), any, "{nonsense}");
        }
        assert!(place(json!({"flags": 1})).is_v6_only());
        assert!(place(json!({"flags": 4})).reuses_address());
    }

    #[test]
    fn finds_abstract_names() {
        let named = |address: &str, kind: i64| {
            place(json!({"address": address, "addressType": kind}))
                .abstract_name()
                .map(str::to_owned)
        };
        assert_eq!(named("/srv/web/\0app", -1).as_deref(), Some("app"));
        assert_eq!(named("\0app\0x", -1).as_deref(), Some("app\0x"));
        assert_eq!(named("/srv/app.sock", -1), None);
        assert_eq!(named("\0app", 4), None);
    }

    #[test]
    fn is_not_impressed_by_size_or_depth() {
        let deep = format!(
            "{{\"cmd\":\"x\",\"data\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(Message::read(deep.as_bytes()), Some(Message::User));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(Message::read(deep.as_bytes()), Some(Message::User));
        let wide = format!(
            "{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"seq\":1,\"data\":[{}0]}}",
            "0,".repeat(100_000)
        );
        assert_eq!(Message::read(wide.as_bytes()), Some(Message::Unknown));
        for odd in [
            r#"{"text":"\ud800"}"#,
            r#"{"cmd":"\ud800"}"#,
            r#"{"cmd":1,"cmd":2}"#,
        ] {
            assert_eq!(Message::read(odd.as_bytes()), Some(Message::User), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::read(&line);
        }

        #[test]
        fn members_of_any_type_do_no_harm(
            member in prop::sample::select(vec!["cmd", "act", "seq", "ack", "accepted", "index", "key", "data", "address",
                "port", "addressType", "fd", "flags", "backlog", "readableAll", "writableAll", "type", "msg", "other"]),
            value in prop::sample::select(vec!["null", "true", "-1", "0", "1e300", "18446744073709551615", "\"\"", "\"x\"",
                "[]", "[[1]]", "{}", "{\"a\":{\"b\":1}}"]),
        ) {
            let mut line = json!({"cmd": "NODE_CLUSTER", "act": "queryServer", "seq": 1, "index": 0, "data": null,
                "address": null, "port": 80, "addressType": 4});
            line[member] = serde_json::from_str(value).unwrap();
            let read = Message::read(line.to_string().as_bytes());
            prop_assert!(read.is_some());
            if !matches!(member, "cmd" | "act" | "seq" | "ack") {
                prop_assert!(matches!(read, Some(Message::QueryServer(_))), "{line}");
            }
        }
    }
}
