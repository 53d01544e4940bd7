//! The channel against a fake worker at its other end that behaves, or does not; and against Node.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Pair;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use segue_wire::node::AddressType;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

type Reports = mpsc::UnboundedReceiver<(WorkerId, Report)>;

const ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
const NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
const ONLINE: &str = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n";
const QUERY: &str = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"index\":0,\"data\":null,\
    \"address\":null,\"port\":80,\"addressType\":4,\"seq\":1}\n";

/// The other end.
struct Fake {
    stream: UnixStream,
    heard: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Fake {
    async fn say(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("the channel is open");
    }

    async fn accept(&mut self, ack: u64, accepted: bool) {
        let answer = json!({"cmd": "NODE_CLUSTER", "ack": ack, "accepted": accepted, "seq": 1});
        self.say(&format!("{answer}\n")).await;
    }

    /// The next line; `None` at the end.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("only JSON is sent"));
            }
            self.stream.readable().await.expect("the channel is open");
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = self.stream.try_io(Interest::READABLE, || {
                let mut buffers = [IoSliceMut::new(&mut bytes)];
                let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                Ok(recvmsg(&self.stream, &mut buffers, &mut control, flags)?)
            });
            match received {
                Ok(message) if message.bytes == 0 => return None,
                Ok(message) => self.heard.extend_from_slice(&bytes[..message.bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    self.sockets.extend(rights);
                }
            }
        }
    }

    /// The next line carries a descriptor: the number of the order, and the descriptor.
    async fn hear_handle(&mut self) -> (u64, OwnedFd) {
        let line = self.hear().await.expect("the channel is open");
        assert_eq!(line["cmd"], "NODE_HANDLE", "{line}");
        let [socket] = std::mem::take(&mut self.sockets)
            .try_into()
            .expect("one with each line");
        (
            line["msg"]["seq"].as_u64().expect("orders are numbered"),
            socket,
        )
    }
}

fn open(limits: Limits) -> (Channel, Fake, Reports) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let ours = ours.into_std().expect("ours alone");
    let (sender, reports) = mpsc::unbounded_channel();
    let channel = Channel::open_with(limits, WorkerId(7), ours.into(), sender);
    let fake = Fake {
        stream: theirs,
        heard: Vec::new(),
        sockets: Vec::new(),
    };
    (channel, fake, reports)
}

fn hasty() -> Limits {
    Limits {
        patience: Duration::from_millis(250),
        ..Limits::default()
    }
}

async fn next(reports: &mut Reports) -> Report {
    let (worker, report) = reports.recv().await.expect("a report before the end");
    assert_eq!(worker, WorkerId(7));
    report
}

async fn ended(reports: &mut Reports) -> End {
    loop {
        if let Report::Ended(end) = next(reports).await {
            return end;
        }
    }
}

/// A connection: the client's end, which never blocks, and the server's.
fn connection() -> (Pair, OwnedFd) {
    let (client, server) = Pair::pair().expect("a socket pair");
    client.set_nonblocking(true).expect("it is open");
    (client, server.into())
}

/// Says whether anybody still holds the other end.
fn is_held(client: &mut Pair) -> bool {
    match client.read(&mut [0; 1]) {
        Ok(0) => false,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
        other => panic!("{other:?}"),
    }
}

fn same(client: &mut Pair, server: OwnedFd) {
    let mut server = Pair::from(server);
    server.write_all(b"x").expect("the client is there");
    assert_eq!(client.read(&mut [0; 8]).expect("just written"), 1);
}

#[tokio::test]
async fn talks_in_pieces_of_one_byte() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    for byte in format!("{ONLINE}{ONLINE}{QUERY}").chars() {
        fake.say(&byte.to_string()).await;
    }
    assert_eq!(next(&mut reports).await, Report::Online);
    let Report::Query(query) = next(&mut reports).await else {
        panic!("it asked")
    };
    assert_eq!((query.seq, query.place.address_type), (1, AddressType::V4));

    let (mut client, socket) = connection();
    channel.give(query.seq, "k", &query.data, socket, HandleType::NetNative);
    let line = fake.hear().await.expect("an answer");
    assert_eq!(line["msg"]["ack"], 1);
    assert_eq!(line["msg"]["key"], "k");
    let theirs = fake.sockets.pop().expect("a socket comes with it");
    assert!(
        fcntl_getfl(&theirs)
            .expect("it is open")
            .contains(OFlags::NONBLOCK)
    );
    fake.say(ACK).await;
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"index\":0,\"port\":80,\"addressType\":4}\n").await;
    fake.say("\"ready\"\n\"ready\"\n{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"k\"}\n")
        .await;
    assert!(matches!(
        next(&mut reports).await,
        Report::Listening { index: 0, .. }
    ));
    drop(theirs);
    assert!(!is_held(&mut client), "acknowledged: our copy is closed");
    assert_eq!(next(&mut reports).await, Report::SaidReady);
    assert_eq!(next(&mut reports).await, Report::Closed { key: "k".into() });

    channel.disconnect();
    assert_eq!(fake.hear().await.expect("an order")["act"], "disconnect");
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":9}\n")
        .await;
    assert_eq!(fake.hear().await.expect("an answer")["ack"], 9);
    drop(fake);
    assert_eq!(next(&mut reports).await, Report::Ended(End::Eof));
    assert_eq!(reports.recv().await, None);
}

#[tokio::test]
async fn one_socket_is_in_flight_at_a_time() {
    let (channel, mut fake, _reports) = open(Limits::default());
    for seq in 1..=3 {
        channel.give(
            seq,
            &format!("k{seq}"),
            &Value::Null,
            connection().1,
            HandleType::NetNative,
        );
    }
    channel.deny(4, "k4", &json!({"ticketKeys": "00"}), 98);
    assert_eq!(fake.hear_handle().await.0, 1);
    let denied = fake.hear().await.expect("it need not wait");
    assert_eq!(
        (&denied["errno"], &denied["data"]),
        (&json!(-98), &json!({"ticketKeys": "00"}))
    );
    // An answer to the worker's own message shows that nothing else has been written.
    for seq in 2..=3 {
        fake.say("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n")
            .await;
        assert_eq!(
            fake.hear().await.expect("an answer")["cmd"],
            "NODE_HANDLE_ACK"
        );
        fake.say(ACK).await;
        assert_eq!(fake.hear_handle().await.0, seq);
    }
}

#[tokio::test]
async fn sends_again_what_was_refused() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (mut client, server) = connection();
    let handed = channel.hand_over("k", server);
    for _ in 0..4 {
        assert_eq!(fake.hear_handle().await.0, 1);
        fake.say(NACK).await;
    }
    assert_eq!(ended(&mut reports).await, End::Broken(Broken::Refused));
    same(&mut client, handed.await.expect_err("it comes back"));
}

#[tokio::test]
async fn keeps_a_connection_until_it_is_accepted() {
    let (channel, mut fake, _reports) = open(Limits::default());
    let (mut client, server) = connection();
    let handed = channel.hand_over("k", server);
    let (seq, theirs) = fake.hear_handle().await;
    drop(theirs);
    fake.say(ACK).await;
    assert!(is_held(&mut client));
    fake.accept(seq, true).await;
    handed.await.expect("it was accepted");
    assert!(!is_held(&mut client));

    let (mut client, server) = connection();
    let handed = channel.hand_over("k", server);
    let (seq, _theirs) = fake.hear_handle().await;
    fake.say(ACK).await;
    fake.accept(seq, false).await;
    same(&mut client, handed.await.expect_err("it was declined"));
}

#[tokio::test]
async fn a_death_during_hand_over_gives_the_connection_back() {
    // How far the worker gets with the first of two connections.
    for stage in ["unread", "received", "acknowledged"] {
        let (channel, mut fake, mut reports) = open(Limits::default());
        let (mut first, server) = connection();
        let one = channel.hand_over("k", server);
        let (mut second, server) = connection();
        let two = channel.hand_over("k", server);
        if stage != "unread" {
            let _ = fake.hear_handle().await;
        }
        if stage == "acknowledged" {
            fake.say(ACK).await;
        }
        drop(fake);
        assert_eq!(ended(&mut reports).await, End::Eof, "{stage}");
        same(&mut first, one.await.expect_err(stage));
        same(&mut second, two.await.expect_err(stage));

        let (mut third, server) = connection();
        same(
            &mut third,
            channel
                .hand_over("k", server)
                .await
                .expect_err("it has ended"),
        );
        let (mut given, socket) = connection();
        channel.give(1, "k", &Value::Null, socket, HandleType::NetNative);
        assert!(!is_held(&mut given));
    }
}

#[tokio::test]
async fn everything_said_before_the_end_is_reported() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (_client, server) = connection();
    let handed = channel.hand_over("k", server);
    let (seq, _theirs) = fake.hear_handle().await;
    channel.disconnect();
    fake.say(ACK).await;
    fake.accept(seq, true).await;
    for key in 0..200 {
        fake.say(&format!(
            "{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"{key}\"}}\n"
        ))
        .await;
    }
    fake.say("half a li").await;
    // It dies with `disconnect` unread, which resets the channel.
    drop(fake);
    for key in 0..200 {
        assert_eq!(
            next(&mut reports).await,
            Report::Closed {
                key: key.to_string()
            }
        );
    }
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Garbage)
    );
    assert_eq!(next(&mut reports).await, Report::Ended(End::Eof));
    assert_eq!(reports.recv().await, None);
    handed.await.expect("it was accepted before the end");
}

#[tokio::test]
async fn waits_end_and_the_worker_keeps_its_channel() {
    for acknowledges in [false, true] {
        let (channel, mut fake, mut reports) = open(hasty());
        let (mut client, server) = connection();
        let handed = channel.hand_over("k", server);
        let _ = fake.hear_handle().await;
        if acknowledges {
            fake.say(ACK).await;
        }
        let patience = hasty().patience;
        let expected = match acknowledges {
            false => Broken::Unacknowledged(patience),
            true => Broken::Undecided(patience),
        };
        assert_eq!(ended(&mut reports).await, End::Broken(expected));
        same(&mut client, handed.await.expect_err("it comes back"));
        // An end of the channel would end the worker, with the requests it has.
        fake.say(ONLINE).await;
        drop(channel);
        assert_eq!(fake.hear().await, None);
        assert_eq!(reports.recv().await, None);
    }
}

#[tokio::test]
async fn what_came_in_time_counts_even_if_it_is_read_late() {
    let (channel, mut fake, mut reports) = open(hasty());
    let (_client, server) = connection();
    let handed = channel.hand_over("k", server);
    let (seq, _theirs) = fake.hear_handle().await;
    let long = "x".repeat(2 * TURN);
    fake.say(&format!("\"{long}\"\n")).await;
    passing::send(&fake.stream, ACK.as_bytes(), None).expect("it fits");
    let accepted = json!({"cmd": "NODE_CLUSTER", "ack": seq, "accepted": true});
    passing::send(&fake.stream, format!("{accepted}\n").as_bytes(), None).expect("it fits");
    // As if the supervisor had been stopped: no task has its turn until the deadline is past.
    thread::park_timeout(2 * hasty().patience);
    handed.await.expect("accepted in time");
    fake.say(ONLINE).await;
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn one_that_never_reads_is_broken() {
    let limits = Limits {
        unwritten: 1 << 20,
        ..Limits::default()
    };
    let long = "k".repeat(64 << 10);
    let (channel, fake, mut reports) = open(limits);
    for seq in 0..32 {
        channel.deny(seq, &long, &Value::Null, 98);
    }
    assert!(
        matches!(ended(&mut reports).await, End::Broken(Broken::Unread(bytes)) if bytes > 1 << 20)
    );

    // Messages that wait for an acknowledgement count too.
    let (channel, _fake, mut reports) = open(limits);
    let connections: Vec<_> = (0..32)
        .map(|_| channel.hand_over(&long, connection().1))
        .collect();
    assert!(matches!(
        ended(&mut reports).await,
        End::Broken(Broken::Unread(_))
    ));
    for handed in connections {
        handed.await.expect_err("all come back");
    }
    drop(fake);
}

#[tokio::test]
async fn one_that_asks_without_end_is_broken() {
    let limits = Limits {
        unanswered: 10,
        ..Limits::default()
    };
    let (channel, mut fake, mut reports) = open(limits);
    for _ in 0..20 {
        fake.say(QUERY).await;
        let Report::Query(query) = next(&mut reports).await else {
            panic!("it asked")
        };
        channel.deny(query.seq, "k", &query.data, 13);
    }
    fake.say(&QUERY.repeat(11)).await;
    assert_eq!(
        ended(&mut reports).await,
        End::Broken(Broken::Insatiable(11))
    );
}

#[tokio::test]
async fn garbage_is_survived_and_reported_once() {
    let (_channel, mut fake, mut reports) = open(Limits::default());
    fake.say("oops\n\n{]\n").await;
    fake.say(ACK).await;
    fake.say(NACK).await;
    fake.stream
        .write_all(&[0xff, 0, b'\n'])
        .await
        .expect("the channel is open");
    let long = "x".repeat(1 << 20);
    fake.say("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":\"")
        .await;
    for _ in 0..9 {
        fake.say(&long).await;
    }
    fake.say("\"}\n").await;
    assert_eq!(
        fake.hear().await.expect("it must be answered")["cmd"],
        "NODE_HANDLE_ACK"
    );
    fake.say(ONLINE).await;
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Garbage)
    );
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::OutOfStep)
    );
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Oversized)
    );
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn sockets_from_a_worker_are_acknowledged_and_closed() {
    let (_channel, mut fake, _reports) = open(Limits::default());
    for _ in 0..3 {
        let (mut client, server) = connection();
        let line = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":\"x\"}\n";
        passing::send(&fake.stream, line, Some(server.as_fd())).expect("it fits");
        drop(server);
        assert_eq!(
            fake.hear().await.expect("an answer")["cmd"],
            "NODE_HANDLE_ACK"
        );
        assert!(!is_held(&mut client));
    }
}

#[tokio::test]
async fn an_app_that_speaks_for_its_node_does_no_harm() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (mut first, server) = connection();
    let one = channel.hand_over("k", server);
    let (mut second, server) = connection();
    let two = channel.hand_over("k", server);
    let _ = fake.hear_handle().await;
    // Accepts what it has not been sent, and something that never was.
    fake.accept(2, true).await;
    fake.accept(99, true).await;
    two.await.expect("so it says");
    assert!(!is_held(&mut second));
    fake.say(ACK).await;
    fake.accept(1, false).await;
    same(&mut first, one.await.expect_err("declined"));
    // The second line is not sent: without its socket it could end a worker.
    channel.disconnect();
    assert_eq!(fake.hear().await.expect("an order")["act"], "disconnect");
    fake.say(ONLINE).await;
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn a_flood_starves_nobody() {
    let (_flooded, mut flooder, _) = open(Limits::default());
    let (_channel, mut fake, mut reports) = open(Limits::default());
    // The flood goes on until the quiet neighbour has been heard.
    let is_heard = AtomicBool::new(false);
    let flood = async {
        let lines = "{\"a\":1}\n".repeat(8 << 10);
        while !is_heard.load(Ordering::Relaxed) {
            flooder.say(&lines).await;
        }
    };
    let neighbour = async {
        for _ in 0..200 {
            fake.say(QUERY).await;
            assert!(matches!(next(&mut reports).await, Report::Query(_)));
        }
        is_heard.store(true, Ordering::Relaxed);
    };
    tokio::join!(flood, neighbour);
}

#[tokio::test]
async fn dropping_it_closes_it() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (mut client, server) = connection();
    let handed = channel.hand_over("k", server);
    let other = channel.clone();
    drop(channel);
    let _ = fake.hear_handle().await;
    drop(other);
    same(&mut client, handed.await.expect_err("it comes back"));
    assert_eq!(fake.hear().await, None);
    assert_eq!(reports.recv().await, None, "who closes it knows");
}

#[tokio::test]
async fn a_real_worker_serves_and_leaves() {
    const APP: &str = "require('http').createServer((q, s) => s.end('served')).listen(0)";
    let directory = tempfile::tempdir().expect("a directory");
    let app = directory.path().join("app.js");
    std::fs::write(&app, APP).expect("it is writable");
    let (ours, theirs) = Pair::pair().expect("a socket pair");
    let mut node = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; exec node \"$1\"", "sh"])
        .arg(&app)
        .envs([
            ("NODE_CHANNEL_FD", "3"),
            ("NODE_CHANNEL_SERIALIZATION_MODE", "json"),
            ("NODE_UNIQUE_ID", "7"),
        ])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("sh is there");
    let (sender, mut reports) = mpsc::unbounded_channel();
    let channel = Channel::open(WorkerId(7), ours.into(), sender);

    assert_eq!(next(&mut reports).await, Report::Online);
    let Report::Query(query) = next(&mut reports).await else {
        panic!("it asked")
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    channel.give(
        query.seq,
        "k",
        &query.data,
        listener.into(),
        HandleType::NetNative,
    );
    let Report::Listening { place, .. } = next(&mut reports).await else {
        panic!("it listens")
    };
    assert_eq!(place.port, Some(address.port().into()));

    let (client, server) = UnixStream::pair().expect("a socket pair");
    let server = server.into_std().expect("ours alone");
    channel
        .hand_over("k", server.into())
        .await
        .expect("it is accepted");
    for mut client in [
        Box::new(client) as Box<dyn Stream>,
        Box::new(
            tokio::net::TcpStream::connect(address)
                .await
                .expect("it listens"),
        ),
    ] {
        client
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .await
            .expect("it reads");
        let mut answer = String::new();
        client
            .read_to_string(&mut answer)
            .await
            .expect("it answers");
        assert!(answer.ends_with("served"), "{answer}");
    }
    channel.disconnect();
    assert_eq!(next(&mut reports).await, Report::Closed { key: "k".into() });
    assert_eq!(next(&mut reports).await, Report::Ended(End::Eof));
    let status = thread::spawn(move || node.wait())
        .join()
        .expect("it waits")
        .expect("our child");
    assert!(status.success(), "{status}");
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for T {}
