//! A worker at the other end of a channel that does what a test tells it to.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream as Pair;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use segue_sys::passing;
use serde_json::json;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::super::*;

pub(super) type Reports = mpsc::UnboundedReceiver<Told>;

/// What comes of a channel.
#[derive(Debug)]
pub(super) enum Told {
    Report(Report),
    Ended(End),
}

/// Any socket of the pool.
pub(super) const SOCKET: SocketRef = SocketRef {
    address: segue_core::AddressId(0),
    index: segue_core::SocketIndex(0),
};

/// A connection that nobody else holds.
pub(super) fn deposit(socket: impl Into<OwnedFd>) -> Deposit {
    Deposit::make(&Journal::nowhere(), 1, socket.into(), &())
}

pub(super) const ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
pub(super) const NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
pub(super) const ONLINE: &str = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n";
pub(super) const QUERY: &str = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"index\":0,\"data\":null,\
    \"address\":null,\"port\":80,\"addressType\":4,\"seq\":1}\n";

pub(super) const HELLO: &str =
    "{\"cmd\":\"NODE_SEGUE\",\"act\":\"hello\",\"v\":1,\"node\":\"20.20.2\",\"migrate\":true}\n";
pub(super) const CONNECTION: &str = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":\
    {\"cmd\":\"NODE_SEGUE\",\"act\":\"conn\",\"key\":\"3\",\"ka\":5000}}\n";

/// The other end.
pub(super) struct Fake {
    pub(super) stream: UnixStream,
    pub(super) heard: Vec<u8>,
    pub(super) sockets: Vec<OwnedFd>,
}

impl Fake {
    pub(super) async fn say(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("the channel is open");
    }

    pub(super) async fn accept(&mut self, ack: u64, accepted: bool) {
        let answer = json!({"cmd": "NODE_CLUSTER", "ack": ack, "accepted": accepted, "seq": 1});
        self.say(&format!("{answer}\n")).await;
    }

    /// The next line; `None` at the end.
    pub(super) async fn hear(&mut self) -> Option<Value> {
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
    pub(super) async fn hear_handle(&mut self) -> (u64, OwnedFd) {
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

pub(super) fn pass(fake: &Fake, line: &str, descriptor: impl AsFd) {
    let sent = passing::send(&fake.stream, line.as_bytes(), Some(descriptor.as_fd()));
    assert_eq!(sent.expect("it fits"), line.len());
}

pub(super) fn open(limits: Limits) -> (Channel, Fake, Reports) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let ours = ours.into_std().expect("ours alone");
    let (sender, heard) = mpsc::unbounded_channel();
    let state = State::new(Ledger::new(limits), Journal::nowhere());
    let channel = Channel::begin(WorkerId(7), ours.into(), sender, state);
    let reports = hear(heard);
    let fake = Fake {
        stream: theirs,
        heard: Vec::new(),
        sockets: Vec::new(),
    };
    (channel, fake, reports)
}

pub(super) fn hasty() -> Limits {
    Limits {
        patience: Duration::from_millis(250),
        ..Limits::default()
    }
}

/// Hears what the supervisor's loop would.
pub(super) fn hear(mut heard: mpsc::UnboundedReceiver<Heard>) -> Reports {
    let (sender, reports) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((worker, news)) = heard.recv().await {
            assert_eq!(worker, WorkerId(7));
            match news {
                News::Lines(mut lines) => {
                    while let Some(reports) = lines.next() {
                        for report in reports {
                            drop(sender.send(Told::Report(report)));
                        }
                    }
                }
                News::Ended(last, end) => {
                    for report in last {
                        drop(sender.send(Told::Report(report)));
                    }
                    drop(sender.send(Told::Ended(end)));
                }
            }
        }
    });
    reports
}

pub(super) async fn next(reports: &mut Reports) -> Report {
    match reports.recv().await.expect("a report before the end") {
        Told::Report(report) => report,
        Told::Ended(end) => panic!("{end:?}"),
    }
}

/// The end, which comes next.
pub(super) async fn end(reports: &mut Reports) -> End {
    match reports.recv().await.expect("an end") {
        Told::Ended(end) => end,
        Told::Report(report) => panic!("{report:?}"),
    }
}

/// The end, whatever comes before.
pub(super) async fn ended(reports: &mut Reports) -> End {
    loop {
        if let Told::Ended(end) = reports.recv().await.expect("an end") {
            return end;
        }
    }
}

/// A connection: the client's end, which never blocks, and the server's.
pub(super) fn connection() -> (Pair, OwnedFd) {
    let (client, server) = Pair::pair().expect("a socket pair");
    client.set_nonblocking(true).expect("it is open");
    (client, server.into())
}

/// Says whether anybody still holds the other end.
pub(super) fn is_held(client: &mut Pair) -> bool {
    match client.read(&mut [0; 1]) {
        Ok(0) => false,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
        other => panic!("{other:?}"),
    }
}

/// Nobody has the other end any more, or will not in a moment: a process that another test has just
/// started has everything until its exec.
#[track_caller]
pub(super) fn assert_released(client: &mut Pair) {
    client.set_nonblocking(false).expect("it is open");
    let limit = Some(Duration::from_secs(10));
    client.set_read_timeout(limit).expect("it is open");
    let released = client.read(&mut [0; 1]);
    assert_eq!(released.expect("nobody holds it"), 0);
}

pub(super) fn same(client: &mut Pair, server: impl AsFd) {
    let server = server.as_fd().try_clone_to_owned().expect("it is open");
    let mut server = Pair::from(server);
    server.write_all(b"x").expect("the client is there");
    assert_eq!(client.read(&mut [0; 8]).expect("just written"), 1);
}
