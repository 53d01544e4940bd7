//! A worker that plays its part by itself, as Node and the preload script would, whoever
//! supervises it. What would end a real one, or serve a client twice, fails the test.

use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Pair;

use segue_sys::passing;
use serde_json::{Value, json};

/// What it does, in this order: comes up, asks for a socket, listens, accepts connections `A` and
/// `B` and declines `C`, says that it is ready. Told to drain it hands over what it has open and
/// says that it has drained; told to end it asks for leave to, and goes.
pub(super) struct Scripted {
    socket: Pair,
    heard: Vec<u8>,
    arrived: VecDeque<OwnedFd>,
    /// It has a preload script.
    is_preloaded: bool,
    /// Every line leaves it in two pieces.
    in_pieces: bool,
    /// Node's own queue, while a descriptor has not been acknowledged.
    held_back: Option<VecDeque<Outgoing>>,
    under_way: Option<Outgoing>,
    /// Connections handed over.
    passed: u64,
    /// A descriptor does not arrive, once.
    misses: Option<char>,
    given: Option<OwnedFd>,
    decided: u32,
    open: VecDeque<OwnedFd>,
    is_draining: bool,
    /// It has been told to end.
    pub(super) ends: u32,
    is_gone: bool,
}

struct Outgoing {
    line: Value,
    descriptor: Option<OwnedFd>,
}

impl Scripted {
    /// `open` are the connections that it has, besides those that it will be offered.
    pub(super) fn new(
        socket: Pair,
        is_preloaded: bool,
        in_pieces: bool,
        open: Vec<OwnedFd>,
    ) -> Self {
        socket.set_nonblocking(true).expect("it is open");
        let mut worker = Self {
            socket,
            heard: Vec::new(),
            arrived: VecDeque::new(),
            is_preloaded,
            in_pieces,
            held_back: None,
            under_way: None,
            passed: 0,
            misses: is_preloaded.then_some('B'),
            given: None,
            decided: 0,
            open: open.into(),
            is_draining: false,
            ends: 0,
            is_gone: false,
        };
        worker.say(json!({"cmd": "NODE_CLUSTER", "act": "online", "seq": 0}));
        if is_preloaded {
            worker.say(json!({"cmd": "NODE_SEGUE", "act": "hello", "v": 1, "node": "20.20.2"}));
        }
        worker.say(
            json!({"cmd": "NODE_CLUSTER", "act": "queryServer", "index": 0, "port": 80,
            "addressType": 4, "seq": 1}),
        );
        worker
    }

    /// Reads what is there and does what it asks for.
    pub(super) fn act(&mut self) {
        let mut bytes = [0; 4096];
        while !self.is_gone
            && let Ok((count, descriptor)) = passing::receive(&self.socket, &mut bytes)
        {
            assert!(count > 0, "the supervisor does not close the channel");
            self.heard.extend_from_slice(&bytes[..count]);
            self.arrived.extend(descriptor);
            while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let line = serde_json::from_slice(&line);
                self.hear(&line.expect("what is not JSON would end Node"));
            }
        }
    }

    /// As a process that ends.
    pub(super) fn leave(&mut self) {
        self.is_gone = true;
        // Fails only if the other end is gone.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn hear(&mut self, line: &Value) {
        if line == "end" {
            self.ends += 1;
            return self
                .say(json!({"cmd": "NODE_CLUSTER", "act": "exitedAfterDisconnect", "seq": 9}));
        }
        match line["cmd"].as_str().expect("an internal message") {
            "NODE_HANDLE" => self.hear_handle(&line["msg"]),
            "NODE_HANDLE_ACK" => self.go_on(None),
            "NODE_HANDLE_NACK" => {
                let again = self.under_way.take();
                self.go_on(again);
            }
            "NODE_CLUSTER" if line["ack"] == 9 => self.leave(),
            "NODE_SEGUE" => match line["act"].as_str() {
                Some("drain") => self.drain(),
                Some("sync") => self.answer_sync(&line["n"]),
                other => panic!("{other:?}"),
            },
            _ => panic!("{line}"),
        }
    }

    /// Its descriptor has been acknowledged, or is to be sent again.
    fn go_on(&mut self, again: Option<Outgoing>) {
        let held_back = self.held_back.take();
        self.under_way = None;
        let held_back = held_back.expect("Node asserts that it waits");
        for Outgoing { line, descriptor } in again.into_iter().chain(held_back) {
            self.send(line, descriptor);
        }
    }

    fn hear_handle(&mut self, message: &Value) {
        let descriptor = self.arrived.pop_front();
        let descriptor = descriptor.expect("without it the message would end Node");
        if message["ack"] == 1 {
            self.answer("NODE_HANDLE_ACK");
            // A second one is closed.
            if self.given.is_none() {
                self.given = Some(descriptor);
                self.say(
                    json!({"cmd": "NODE_CLUSTER", "act": "listening", "index": 0, "port": 80,
                    "addressType": 4}),
                );
            }
            return;
        }
        assert_eq!(message["act"], "newconn");
        let mut name = [0];
        passing::peek_bytes(&descriptor, &mut name).expect("its client has said");
        let [name] = name.map(char::from);
        if self.misses.take_if(|missed| *missed == name).is_some() {
            return self.answer("NODE_HANDLE_NACK");
        }
        self.answer("NODE_HANDLE_ACK");
        let accepted = name != 'C';
        if accepted {
            let mut connection = Pair::from(descriptor);
            connection.write_all(b"w").expect("its client waits");
        }
        let seq = &message["seq"];
        self.say(json!({"cmd": "NODE_CLUSTER", "ack": seq, "accepted": accepted, "seq": 2}));
        self.decided += 1;
        if self.decided == 3 {
            self.say(json!("ready"));
        }
    }

    fn drain(&mut self) {
        if std::mem::replace(&mut self.is_draining, true) {
            return;
        }
        while let Some(connection) = self.open.pop_front() {
            self.passed += 1;
            let message = json!({"cmd": "NODE_SEGUE", "act": "conn", "key": "3", "ka": 5000});
            let line = json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": message});
            self.send(line, Some(connection));
        }
        self.say(json!({"cmd": "NODE_SEGUE", "act": "drained", "moved": self.passed}));
    }

    fn answer_sync(&mut self, number: &Value) {
        assert!(self.is_preloaded, "nobody else knows what it is");
        let awaits = self.held_back.is_some();
        let answer = json!({"cmd": "NODE_HANDLE_ACK", "segue": "synced", "n": number,
            "awaits": awaits});
        self.write(&answer, None);
    }

    fn say(&mut self, line: Value) {
        self.send(line, None);
    }

    fn send(&mut self, line: Value, descriptor: Option<OwnedFd>) {
        if let Some(held_back) = &mut self.held_back {
            held_back.push_back(Outgoing { line, descriptor });
            return;
        }
        self.write(&line, descriptor.as_ref());
        if descriptor.is_some() {
            self.held_back = Some(VecDeque::new());
            self.under_way = Some(Outgoing { line, descriptor });
        }
    }

    /// Acknowledgements overtake everything.
    fn answer(&mut self, cmd: &str) {
        self.write(&json!({"cmd": cmd}), None);
    }

    fn write(&mut self, line: &Value, descriptor: Option<&OwnedFd>) {
        let line = format!("{line}\n");
        let half = if self.in_pieces { line.len() / 2 } else { 0 };
        let (first, last) = line.split_at(half);
        let mut descriptor = descriptor.map(AsFd::as_fd);
        for piece in [first, last].into_iter().filter(|piece| !piece.is_empty()) {
            let sent = passing::send(&self.socket, piece.as_bytes(), descriptor.take());
            assert_eq!(sent.expect("there is room"), piece.len());
        }
    }
}
