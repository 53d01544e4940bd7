//! What a worker is told, as lines ready to be written.
//!
//! Some lines end the worker at once (an uncaught exception inside Node) and must be avoided by
//! whoever sends them: an acknowledgement it does not wait for, and a `newconn` without its
//! descriptor for a key it does not hold.

use serde_json::{Value, json};

use super::cluster::HandleType;
use super::drain::{self, Drain};

/// One message to a worker. `seq` is the sender's own number; any increasing one will do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order<'a> {
    /// Answer a question with a socket, which is sent with the line. `key` must differ from every
    /// other key the worker holds; it names the socket in `close`.
    Give {
        seq: u64,
        ack: u64,
        key: &'a str,
        data: &'a Value,
        kind: HandleType,
    },
    /// Answer a question with an error, a positive errno. `data` in the shape of the question's,
    /// or a TLS server throws.
    Deny {
        seq: u64,
        ack: u64,
        key: &'a str,
        data: &'a Value,
        errno: i32,
    },
    /// Hand over an accepted connection, which is sent with the line.
    NewConnection {
        seq: u64,
        key: &'a str,
        /// For one that another worker has served before: its keep-alive time-out in milliseconds,
        /// 0 for none. Only a preload reads it.
        keep_alive: Option<u64>,
    },
    /// Tell the preload to drain.
    Drain(Drain),
    /// Ask the preload to answer with this number, as soon as the event loop gets there.
    Ping { number: u64 },
    /// Have the preload count answers, from zero unless it does already, or no more.
    Count { on: bool },
    /// Have Node write what it has compiled into its compile cache.
    FillCache,
    /// A message to the app, which gets it in its `'message'` listeners.
    Say(&'a str),
    /// Close every server, wait for their connections, close the channel.
    Disconnect { seq: u64 },
    /// Answer `exitedAfterDisconnect`.
    ConfirmExit { seq: u64, ack: u64 },
    /// Ask the preload to answer with this number, which shows that it has read everything before.
    Sync { number: u64 },
    /// The worker's descriptor has arrived.
    HandleAck,
    /// The worker's message came without its descriptor: it sends it again, three times at most.
    HandleNack,
}

impl Order<'_> {
    /// A descriptor goes with the first byte of the line, and the worker will acknowledge it.
    #[must_use]
    pub fn carries_handle(&self) -> bool {
        match self {
            Self::Give { .. } | Self::NewConnection { .. } => true,
            Self::Deny { .. }
            | Self::Drain(_)
            | Self::Ping { .. }
            | Self::Count { .. }
            | Self::FillCache
            | Self::Say(_)
            | Self::Disconnect { .. }
            | Self::ConfirmExit { .. }
            | Self::Sync { .. }
            | Self::HandleAck
            | Self::HandleNack => false,
        }
    }

    /// The line, newline included.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let value = match self {
            Self::Give {
                seq,
                ack,
                key,
                data,
                kind,
            } => handle(
                *kind,
                json!({"cmd": "NODE_CLUSTER", "errno": 0, "key": key, "ack": ack, "data": data, "seq": seq}),
            ),
            Self::Deny {
                seq,
                ack,
                key,
                data,
                errno,
            } => {
                let errno = -errno.saturating_abs();
                json!({"cmd": "NODE_CLUSTER", "errno": errno, "key": key, "ack": ack, "data": data, "seq": seq})
            }
            Self::NewConnection {
                seq,
                key,
                keep_alive,
            } => {
                let mut message =
                    json!({"cmd": "NODE_CLUSTER", "act": "newconn", "key": key, "seq": seq});
                if let (Some(keep_alive), Some(members)) = (keep_alive, message.as_object_mut()) {
                    members.insert("segue".into(), json!({"ka": keep_alive}));
                }
                handle(HandleType::NetNative, message)
            }
            Self::Drain(drain) => drain.value(),
            Self::Ping { number } => drain::ping(*number),
            Self::Count { on } => drain::count_answers(*on),
            Self::FillCache => drain::fill_cache(),
            Self::Say(text) => json!(text),
            Self::Disconnect { seq } => {
                json!({"cmd": "NODE_CLUSTER", "act": "disconnect", "seq": seq})
            }
            Self::ConfirmExit { seq, ack } => {
                json!({"cmd": "NODE_CLUSTER", "ack": ack, "seq": seq})
            }
            Self::Sync { number } => drain::sync(*number),
            Self::HandleAck => json!({"cmd": "NODE_HANDLE_ACK"}),
            Self::HandleNack => json!({"cmd": "NODE_HANDLE_NACK"}),
        };
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

fn handle(kind: HandleType, message: Value) -> Value {
    // Every socket that is not UDP is a stream socket to Node.
    let kind = kind.word().unwrap_or("net.Native");
    json!({"cmd": "NODE_HANDLE", "type": kind, "msg": message})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Decoder, Idle, Line, Message};
    use proptest::prelude::*;

    fn check(order: &Order<'_>, expected: &Value) {
        let line = order.line();
        let (last, body) = line.split_last().unwrap();
        assert_eq!(*last, b'\n');
        assert!(!body.contains(&b'\n'));
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), *expected);
        assert_eq!(order.carries_handle(), expected["cmd"] == "NODE_HANDLE");
    }

    #[test]
    fn writes_what_node_reads() {
        let data = json!({"ticketKeys": "00"});
        check(
            &Order::Give {
                seq: 9,
                ack: 1,
                key: ":80:4",
                data: &Value::Null,
                kind: HandleType::NetNative,
            },
            &json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg":
                {"cmd": "NODE_CLUSTER", "errno": 0, "key": ":80:4", "ack": 1, "data": null, "seq": 9}}),
        );
        check(
            &Order::Give {
                seq: 9,
                ack: 1,
                key: "u",
                data: &data,
                kind: HandleType::DgramNative,
            },
            &json!({"cmd": "NODE_HANDLE", "type": "dgram.Native", "msg":
                {"cmd": "NODE_CLUSTER", "errno": 0, "key": "u", "ack": 1, "data": {"ticketKeys": "00"}, "seq": 9}}),
        );
        for errno in [98, -98] {
            check(
                &Order::Deny {
                    seq: 2,
                    ack: 0,
                    key: "k",
                    data: &data,
                    errno,
                },
                &json!({"cmd": "NODE_CLUSTER", "errno": -98, "key": "k", "ack": 0, "data": {"ticketKeys": "00"}, "seq": 2}),
            );
        }
        check(
            &Order::NewConnection {
                seq: 3,
                key: "k",
                keep_alive: None,
            },
            &json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg":
                {"cmd": "NODE_CLUSTER", "act": "newconn", "key": "k", "seq": 3}}),
        );
        check(
            &Order::NewConnection {
                seq: 3,
                key: "k",
                keep_alive: Some(5000),
            },
            &json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg":
                {"cmd": "NODE_CLUSTER", "act": "newconn", "key": "k", "seq": 3, "segue": {"ka": 5000}}}),
        );
        check(
            &Order::Drain(Drain {
                accept: false,
                idle: Idle::Migrate,
                stall: 30_000,
                deadline: 300_000,
                websocket_after: 30_000,
                websocket_code: 1012,
            }),
            &json!({"cmd": "NODE_SEGUE", "act": "drain", "accept": false, "idle": "migrate", "stall": 30_000,
                "deadline": 300_000, "ws_after": 30_000, "ws_code": 1012}),
        );
        check(&Order::Say("shut\ndown"), &json!("shut\ndown"));
        check(
            &Order::Disconnect { seq: 4 },
            &json!({"cmd": "NODE_CLUSTER", "act": "disconnect", "seq": 4}),
        );
        check(
            &Order::ConfirmExit { seq: 5, ack: 8 },
            &json!({"cmd": "NODE_CLUSTER", "ack": 8, "seq": 5}),
        );
        check(
            &Order::Ping { number: 17 },
            &json!({"cmd": "NODE_SEGUE", "act": "ping", "n": 17}),
        );
        for on in [true, false] {
            check(
                &Order::Count { on },
                &json!({"cmd": "NODE_SEGUE", "act": "count", "on": on}),
            );
        }
        check(
            &Order::FillCache,
            &json!({"cmd": "NODE_SEGUE", "act": "cache"}),
        );
        check(&Order::HandleAck, &json!({"cmd": "NODE_HANDLE_ACK"}));
        check(&Order::HandleNack, &json!({"cmd": "NODE_HANDLE_NACK"}));
    }

    proptest! {
        #[test]
        fn any_key_stays_on_one_line(key in any::<String>(), seq in any::<u64>()) {
            let data = json!([key]);
            for order in [
                Order::Give { seq, ack: seq, key: &key, data: &data, kind: HandleType::NetNative },
                Order::Deny { seq, ack: seq, key: &key, data: &data, errno: 13 },
                Order::NewConnection { seq, key: &key, keep_alive: Some(seq) },
                Order::Say(&key),
            ] {
                let mut found = Vec::new();
                Decoder::default().feed(&order.line(), |line| found.push(line));
                let is_handle = matches!(found.as_slice(), [Line::Message(Message::Handle { .. })]);
                prop_assert_eq!(found.len(), 1);
                prop_assert_eq!(is_handle, order.carries_handle());
            }
        }
    }
}
