//! Thousands of idle connections at once, which a reload moves without a client being the wiser, and
//! how long a client that is busy meanwhile has to wait.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::heavy;
use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch};

/// A client that asks for the version, on one connection for good.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream
            .set_read_timeout(Some(LIMIT))
            .expect("set a time limit");
        Self(stream)
    }

    fn ask(&mut self) -> String {
        self.0
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("ask");
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        // The body is the version and a line feed, and the only one that stands alone.
        while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
            let count = self.0.read(&mut buffer).expect("read the answer");
            assert!(count > 0, "closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(buffer.get(..count).expect("it was read"));
        }
        let text = String::from_utf8(answer).expect("an answer in ASCII");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!text.to_lowercase().contains("connection: close"), "{text}");
        let body = text.rsplit("\r\n\r\n").next().expect("a body");
        body.trim().to_owned()
    }
}

/// Each connection takes a descriptor here, and one in a worker that inherits the limit.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("raise the soft limit of descriptors");
}

/// Asks without a pause until it is told to stop; the longest time that an answer took.
fn probe(address: SocketAddr, stop: &AtomicBool) -> Duration {
    let mut client = Client::connect(address);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        client.ask();
        longest = longest.max(asked.elapsed());
    }
    longest
}

fn idle_connections_move(number: usize) {
    let _turn = heavy();
    allow_descriptors();
    each_node(|node| {
        let run = Launch::node("idle.js").with_node(node).start();
        let mut clients: Vec<_> = (0..number)
            .map(|_| Client::connect(run.address()))
            .collect();
        for client in &mut clients {
            assert_eq!(client.ask(), "v1");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (address, told) = (run.address(), Arc::clone(&stop));
        let probe = std::thread::spawn(move || probe(address, &told));
        run.roll("v2", "idle.js");
        let flipped = Instant::now();
        run.until("the old generation is gone", |app| app.workers.len() == 2);
        let took = flipped.elapsed();
        stop.store(true, Ordering::Relaxed);
        let longest = probe.join().expect("the probe was answered each time");
        eprintln!("{node}: {number} idle connections in {took:?}, longest wait {longest:?}");
        for client in &mut clients {
            assert_eq!(client.ask(), "v2");
        }
        drop(clients);
        run.finish();
    });
}

#[test]
fn a_thousand_idle_connections_move() {
    idle_connections_move(1000);
}

#[test]
#[ignore = "long"]
fn four_thousand_idle_connections_move() {
    idle_connections_move(4000);
}
