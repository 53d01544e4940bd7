//! The WebSocket load (RFC 6455): a connection from its handshake to its end. Each message must come
//! back as it was sent; the end must be a closing handshake, whoever begins it.

mod frame;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::{Client, place, stopped};
use crate::connection::Answer;
use crate::failure::{FailureKind, Trouble};
use crate::kind::WebSocket;
use crate::random::Random;
use crate::response::Head;
use crate::tally::{Closing, Place, Ticket};
use crate::target::Stream;
use frame::{Frame, Opcode, masked};

/// The nonce of RFC 6455, 1.3, and the answer to it. It is there against caches, and there is none here.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const NORMAL: u16 = 1000;

/// What came from the server.
#[derive(Debug)]
enum Event {
    Message(Vec<u8>),
    Close(Option<u16>),
    /// The end of the stream or a reset, without a close frame.
    Gone(String),
    Broken(Trouble),
}

/// An open connection.
#[derive(Debug)]
struct Socket {
    stream: Stream,
    buffer: Vec<u8>,
    /// The fragments of a message so far.
    partial: Option<Vec<u8>>,
    random: Random,
}

impl Client {
    /// One connection, with its messages until somebody ends it. Says whether all went well.
    pub(crate) async fn converse(&mut self, first: Ticket, kind: &WebSocket) -> bool {
        let shared = Arc::clone(&self.shared);
        let limit = shared.answer_timeout;
        let Some(mut connection) = self.connect(&first).await else {
            return false;
        };
        let opened = connection.opened;
        let mut place = place(&connection);
        let request = shared.writer.upgrade(first.number, &kind.path);
        let answer = match connection.upgrade(&request, limit).await {
            Ok(head) => check_handshake(&head).map(|()| Answer {
                version: head.field("x-segue-version").map(str::to_owned),
                worker: head.field("x-segue-worker").map(str::to_owned),
                closes: false,
            }),
            Err(trouble) => Err(trouble),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(trouble) => {
                shared.tally.failed(&first, place, trouble);
                return false;
            }
        };
        let (stream, buffer) = connection.into_parts();
        let mut socket = Socket {
            stream,
            buffer,
            partial: None,
            random: Random::new(self.random.next(), 0),
        };

        let mut ticket = first;
        let mut previous = Vec::new();
        loop {
            self.number = ticket.number;
            let message = message(&mut self.random, ticket.number, kind.bytes);
            // An error of the write shows in the read as well, after what the server still had to say.
            let _ = socket.send(Opcode::Text, &message).await;
            match socket.within(limit).await {
                Some(Event::Message(got)) if got == message => {
                    shared.tally.answered(&ticket, opened, place, &answer);
                    place.answered_before += 1;
                }
                Some(Event::Message(got)) => {
                    let trouble = stray(&got, &previous);
                    shared.tally.failed(&ticket, place, trouble);
                    return false;
                }
                Some(Event::Close(code)) => {
                    shared.tally.lost(&ticket);
                    return self.closed_by_server(socket, code, place).await;
                }
                Some(Event::Gone(how)) => {
                    let trouble = Trouble::new(FailureKind::NoCloseFrame, how);
                    shared.tally.failed(&ticket, place, trouble);
                    return false;
                }
                Some(Event::Broken(trouble)) => {
                    shared.tally.failed(&ticket, place, trouble);
                    return false;
                }
                None => {
                    let detail = format!("no echo after {limit:?}");
                    let trouble = Trouble::new(FailureKind::Timeout, detail);
                    shared.tally.failed(&ticket, place, trouble);
                    return false;
                }
            }
            previous = message;

            let pause = self.random.duration(kind.pause);
            let seen = tokio::select! {
                seen = socket.within(pause) => seen,
                () = stopped(&mut self.stop) => None,
            };
            if let Some(event) = seen {
                return self.interrupted(socket, event, &previous, place).await;
            }
            let next = if *self.stop.borrow() {
                None
            } else {
                shared.tally.begin(self.class)
            };
            match next {
                Some(next) => ticket = next,
                None => return self.close_socket(socket, &previous, place).await,
            }
        }
    }

    /// Something came while nothing was asked.
    async fn interrupted(
        &self,
        socket: Socket,
        event: Event,
        previous: &[u8],
        place: Place,
    ) -> bool {
        let trouble = match event {
            Event::Close(code) => return self.closed_by_server(socket, code, place).await,
            Event::Message(got) => stray(&got, previous),
            Event::Gone(how) => Trouble::new(FailureKind::NoCloseFrame, how),
            Event::Broken(trouble) => trouble,
        };
        self.fail(place, trouble);
        false
    }

    /// The server began the closing handshake: answers it, and expects the end of the stream.
    async fn closed_by_server(&self, mut socket: Socket, code: Option<u16>, place: Place) -> bool {
        self.shared.tally.close_frame(self.class, code);
        let payload = code.map_or_else(Vec::new, |code| code.to_be_bytes().to_vec());
        // A server that does not wait for the answer has closed already.
        let _ = socket.send(Opcode::Close, &payload).await;
        self.expect_end(socket, place).await
    }

    /// We begin the closing handshake.
    async fn close_socket(&self, mut socket: Socket, previous: &[u8], place: Place) -> bool {
        let _ = socket.send(Opcode::Close, &NORMAL.to_be_bytes()).await;
        let limit = self.shared.answer_timeout;
        match socket.within(limit).await {
            Some(Event::Close(Some(NORMAL))) => {
                self.shared.tally.closed(self.class, Closing::Client);
                self.expect_end(socket, place).await
            }
            // Both began at once: each one's frame is the answer to the other's.
            Some(Event::Close(code)) => {
                self.shared.tally.close_frame(self.class, code);
                self.expect_end(socket, place).await
            }
            Some(event) => Box::pin(self.interrupted(socket, event, previous, place)).await,
            None => {
                let detail = format!("no answer to our close frame after {limit:?}");
                self.fail(place, Trouble::new(FailureKind::Timeout, detail));
                false
            }
        }
    }

    /// After both close frames nothing may come but the end.
    async fn expect_end(&self, mut socket: Socket, place: Place) -> bool {
        let limit = self.shared.answer_timeout;
        let end = async {
            if socket.buffer.is_empty() {
                socket.stream.read_buf(&mut socket.buffer).await.ok();
            }
            socket.buffer.len()
        };
        let trouble = match timeout(limit, end).await {
            Ok(0) => return true,
            Ok(bytes) => Trouble::new(
                FailureKind::UnsolicitedBytes,
                format!("{bytes} bytes behind a close frame"),
            ),
            Err(_) => Trouble::new(
                FailureKind::Timeout,
                format!("the connection is open {limit:?} after the closing handshake"),
            ),
        };
        self.fail(place, trouble);
        false
    }

    fn fail(&self, place: Place, trouble: Trouble) {
        self.shared
            .tally
            .failed_after(self.class, self.number, place, trouble);
    }
}

impl Socket {
    async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> std::io::Result<()> {
        let mask = (self.random.next() as u32).to_be_bytes();
        self.stream
            .write_all(&masked(opcode, payload, mask))
            .await?;
        self.stream.flush().await
    }

    /// The next event, if there is one in time.
    async fn within(&mut self, time: Duration) -> Option<Event> {
        timeout(time, self.next()).await.ok()
    }

    // Cancelled between two reads, it has lost nothing.
    async fn next(&mut self) -> Event {
        loop {
            match Frame::parse(&self.buffer) {
                Err(why) => return broken(why),
                Ok(Some((frame, used))) => {
                    self.buffer.drain(..used);
                    if let Some(event) = self.take(frame).await {
                        return event;
                    }
                }
                Ok(None) => match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) => return Event::Gone("end of stream without a close frame".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Event::Gone(format!("read: {error}")),
                },
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Option<Event> {
        match frame.opcode {
            Opcode::Ping => {
                let _ = self.send(Opcode::Pong, &frame.payload).await;
                None
            }
            Opcode::Pong => None,
            Opcode::Close => Some(match frame.close_code() {
                Ok(code) => Event::Close(code),
                Err(why) => broken(why),
            }),
            Opcode::Text | Opcode::Binary if self.partial.is_some() => {
                Some(broken("a message within another one".to_owned()))
            }
            Opcode::Continuation if self.partial.is_none() => {
                Some(broken("a continuation of nothing".to_owned()))
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                let mut message = self.partial.take().unwrap_or_default();
                message.extend(frame.payload);
                if frame.is_final {
                    return Some(Event::Message(message));
                }
                self.partial = Some(message);
                None
            }
        }
    }
}

fn broken(why: String) -> Event {
    Event::Broken(Trouble::new(FailureKind::BadSyntax, why))
}

fn check_handshake(head: &Head) -> Result<(), Trouble> {
    let is = |name: &str, value: &str| {
        head.field(name)
            .is_some_and(|have| have.eq_ignore_ascii_case(value))
    };
    let wrong = if head.status != 101 {
        format!("status {} for a WebSocket handshake", head.status)
    } else if !is("upgrade", "websocket") || !is("connection", "upgrade") {
        "a 101 that does not upgrade to WebSocket".to_owned()
    } else if head.field("sec-websocket-accept") != Some(ACCEPT) {
        "a wrong Sec-WebSocket-Accept".to_owned()
    } else if head.field("sec-websocket-extensions").is_some()
        || head.field("sec-websocket-protocol").is_some()
    {
        "an extension or a protocol that was not offered".to_owned()
    } else {
        return Ok(());
    };
    Err(Trouble::new(FailureKind::WrongAnswer, wrong))
}

fn message(random: &mut Random, number: u64, longest: u64) -> Vec<u8> {
    let mut message = format!("{number} ").into_bytes();
    let filler = random.up_to(longest.saturating_sub(20));
    message.extend((0..filler).map(|at| b'a' + ((number + at) % 26) as u8));
    message
}

fn stray(got: &[u8], previous: &[u8]) -> Trouble {
    let shown = got.get(..got.len().min(32)).unwrap_or_default();
    let shown = shown.escape_ascii();
    if !previous.is_empty() && got == previous {
        Trouble::new(
            FailureKind::RepeatedAnswer,
            format!("the message \"{shown}\" came twice"),
        )
    } else {
        Trouble::new(
            FailureKind::WrongAnswer,
            format!("the message \"{shown}\" is not what was sent"),
        )
    }
}
