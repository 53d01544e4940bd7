//! A worker at the other end of a channel that does what a test tells it to.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream as Pair;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::super::*;

pub(super) type Reports = mpsc::UnboundedReceiver<(WorkerId, Report)>;

pub(super) const ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
pub(super) const NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
pub(super) const ONLINE: &str = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n";
pub(super) const QUERY: &str = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"index\":0,\"data\":null,\
    \"address\":null,\"port\":80,\"addressType\":4,\"seq\":1}\n";

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

pub(super) fn open(limits: Limits) -> (Channel, Fake, Reports) {
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

pub(super) fn hasty() -> Limits {
    Limits {
        patience: Duration::from_millis(250),
        ..Limits::default()
    }
}

pub(super) async fn next(reports: &mut Reports) -> Report {
    let (worker, report) = reports.recv().await.expect("a report before the end");
    assert_eq!(worker, WorkerId(7));
    report
}

pub(super) async fn ended(reports: &mut Reports) -> End {
    loop {
        if let Report::Ended(end) = next(reports).await {
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

pub(super) fn same(client: &mut Pair, server: OwnedFd) {
    let mut server = Pair::from(server);
    server.write_all(b"x").expect("the client is there");
    assert_eq!(client.read(&mut [0; 8]).expect("just written"), 1);
}
