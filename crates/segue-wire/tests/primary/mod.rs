//! A small primary without I/O: hears lines, says lines. `examples/record.rs` lets it talk to real
//! workers; `tests/transcripts.rs` lets it hear the recorded workers again and compares what it says.

use std::collections::BTreeMap;

use segue_wire::node::{
    Acknowledged, AddressType, HandleQueue, HandleType, Line, Message, Order, Place, QueryServer,
    Refused, TicketKeys,
};

/// One conversation: what the primary does about the app `tests/apps/NAME.js`.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Act when the worker has said so often that it listens; 0: never.
    pub(crate) after: u32,
    pub(crate) then: Then,
    /// Answer every question with this errno.
    pub(crate) deny: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Disconnect,
    /// Hand over a connection, and disconnect when it has been accepted.
    HandOver,
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "port",
        after: 1,
        then: Then::HandOver,
        deny: None,
    },
    Case {
        name: "port-0-twice",
        after: 2,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "host",
        after: 1,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "v6-only",
        after: 1,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "path",
        after: 1,
        then: Then::HandOver,
        deny: None,
    },
    Case {
        name: "abstract",
        after: 1,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "tls",
        after: 1,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "udp",
        after: 1,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "two-servers",
        after: 2,
        then: Then::HandOver,
        deny: None,
    },
    Case {
        name: "same-port-twice",
        after: 0,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "taken",
        after: 0,
        then: Then::Disconnect,
        deny: Some(98),
    },
    Case {
        name: "taken-tls",
        after: 0,
        then: Then::Disconnect,
        deny: Some(98),
    },
    Case {
        name: "fd",
        after: 0,
        then: Then::Disconnect,
        deny: Some(22),
    },
    Case {
        name: "close-and-listen-again",
        after: 2,
        then: Then::HandOver,
        deny: None,
    },
    Case {
        name: "messages",
        after: 0,
        then: Then::Disconnect,
        deny: None,
    },
    Case {
        name: "leaves-by-itself",
        after: 0,
        then: Then::Disconnect,
        deny: None,
    },
];

/// A line to the worker, and the descriptor that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Say {
    pub(crate) line: Vec<u8>,
    pub(crate) handle: Option<Handle>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Handle {
    Socket { key: String, place: Place },
    Connection,
}

pub(crate) struct Primary<'a> {
    case: &'a Case,
    seq: u64,
    keys: u32,
    held: BTreeMap<String, QueryServer>,
    tickets: TicketKeys,
    handles: HandleQueue<Say>,
    listened: u32,
    /// Every question, for the tests to look at.
    pub(crate) questions: Vec<QueryServer>,
}

impl<'a> Primary<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Self {
            case,
            seq: 0,
            keys: 0,
            held: BTreeMap::new(),
            tickets: TicketKeys::default(),
            handles: HandleQueue::new(1000),
            listened: 0,
            questions: Vec::new(),
        }
    }

    /// Hears one line and says what is to be said about it at once.
    pub(crate) fn hear(&mut self, line: &Line) -> Vec<Say> {
        let Line::Message(message) = line else {
            panic!("a worker said {line:?}");
        };
        match message {
            Message::QueryServer(query) => self.answer(query),
            Message::Listening { .. } => {
                self.listened += 1;
                if self.listened != self.case.after {
                    return Vec::new();
                }
                match self.case.then {
                    Then::Disconnect => self.disconnect(),
                    Then::HandOver => self.hand_over(),
                }
            }
            Message::Close { key } => {
                assert!(
                    self.held.remove(key).is_some(),
                    "closed {key}, which it does not hold"
                );
                Vec::new()
            }
            Message::ExitedAfterDisconnect { seq } => {
                let order = Order::ConfirmExit {
                    seq: self.next(),
                    ack: *seq,
                };
                vec![Say {
                    line: order.line(),
                    handle: None,
                }]
            }
            Message::Accepted { accepted, .. } => {
                assert!(accepted);
                self.disconnect()
            }
            Message::Handle { kind, .. } => {
                assert_eq!(*kind, HandleType::NetServer);
                vec![Say {
                    line: Order::HandleAck.line(),
                    handle: None,
                }]
            }
            Message::HandleAck => match self.handles.acknowledge(0) {
                Acknowledged::Arrived { next, .. } => next.cloned().into_iter().collect(),
                Acknowledged::Unexpected => panic!("an acknowledgement of nothing"),
            },
            Message::HandleNack => match self.handles.refuse(0) {
                Refused::Resend(again) => vec![again.clone()],
                refused => panic!("{refused:?}"),
            },
            // The last word of every app that is not told to go.
            Message::User if self.case.after == 0 && self.case.name != "messages" => {
                self.disconnect()
            }
            Message::Online | Message::Ready | Message::User => Vec::new(),
            Message::Unknown | Message::Segue(_) => panic!("a worker said something unknown"),
        }
    }

    fn answer(&mut self, query: &QueryServer) -> Vec<Say> {
        self.questions.push(query.clone());
        self.keys += 1;
        let (seq, ack) = (self.next(), query.seq);
        let key = format!("key {}", self.keys);
        let data = &self.tickets.answer(&query.data);
        let is_held = self.held.values().any(|held| {
            held.place == query.place && (query.place.port != Some(0) || held.index == query.index)
        });
        let errno = self.case.deny.or(is_held.then_some(98));
        if let Some(errno) = errno {
            let order = Order::Deny {
                seq,
                ack,
                key: &key,
                data,
                errno,
            };
            return vec![Say {
                line: order.line(),
                handle: None,
            }];
        }
        self.held.insert(key.clone(), query.clone());
        let kind = match query.place.address_type {
            AddressType::Udp4 | AddressType::Udp6 => HandleType::DgramNative,
            _ => HandleType::NetNative,
        };
        let line = Order::Give {
            seq,
            ack,
            key: &key,
            data,
            kind,
        }
        .line();
        let place = query.place.clone();
        self.send(Say {
            line,
            handle: Some(Handle::Socket { key, place }),
        })
    }

    fn hand_over(&mut self) -> Vec<Say> {
        let seq = self.next();
        let Some(key) = self.held.keys().next() else {
            panic!("no server to hand a connection to");
        };
        let line = Order::NewConnection {
            seq,
            key,
            keep_alive: None,
        }
        .line();
        self.send(Say {
            line,
            handle: Some(Handle::Connection),
        })
    }

    fn disconnect(&mut self) -> Vec<Say> {
        let order = Order::Disconnect { seq: self.next() };
        vec![Say {
            line: order.line(),
            handle: None,
        }]
    }

    fn send(&mut self, say: Say) -> Vec<Say> {
        self.handles.offer(say, 0).cloned().into_iter().collect()
    }

    fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
}
