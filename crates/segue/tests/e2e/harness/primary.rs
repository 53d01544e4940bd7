//! The smallest primary there can be: one worker, one listening socket, every message written down.
//! It shares nothing with the supervisor, so it can be held against it and against Node.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// A worker and the other end of its channel.
pub(crate) struct Primary {
    child: Child,
    channel: BufReader<UnixStream>,
}

impl Primary {
    /// Starts a program with its channel as descriptor 0.
    pub(crate) fn start(mut command: Command) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("set a time limit");
        let child = command
            .env("NODE_CHANNEL_FD", "0")
            .env("NODE_CHANNEL_SERIALIZATION_MODE", "json")
            .env("NODE_UNIQUE_ID", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("start a worker");
        Self {
            child,
            channel: BufReader::new(ours),
        }
    }

    /// The next message; none at the channel's end.
    fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self
            .channel
            .read_line(&mut line)
            .expect("a message in time");
        (count > 0).then(|| serde_json::from_str(&line).expect("a JSON message"))
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.channel.get_mut(), "{message}").expect("send");
    }

    fn send_with(&self, message: &Value, handle: impl AsFd) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let handles = [handle.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&handles)));
        let line = format!("{message}\n");
        let sent = sendmsg(
            self.channel.get_ref(),
            &[IoSlice::new(line.as_bytes())],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent, Ok(line.len()));
    }

    /// Leads the worker from its start to its end: gives it the socket that it asks for, hands it a
    /// connection, tells it to disconnect. Returns what it said, without what differs from run to
    /// run, and its exit code.
    pub(crate) fn whole_life(
        mut self,
        listener: &TcpListener,
        meanwhile: impl FnOnce(),
    ) -> (Vec<String>, Option<i32>) {
        listener
            .set_nonblocking(true)
            .expect("make it non-blocking");
        let mut said = Vec::new();
        let mut meanwhile = Some(meanwhile);
        while let Some(message) = self.receive() {
            said.push(summary(&message));
            match message["act"].as_str() {
                Some("queryServer") => {
                    let reply = json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {
                        "cmd": "NODE_CLUSTER", "errno": 0, "key": "place", "ack": message["seq"],
                        "data": null, "seq": 1,
                    }});
                    self.send_with(&reply, listener);
                }
                Some("listening") => {
                    if let Some(meanwhile) = meanwhile.take() {
                        meanwhile();
                    }
                    self.send(&json!({"cmd": "NODE_CLUSTER", "act": "disconnect", "seq": 2}));
                }
                _ => {}
            }
        }
        (said, self.child.wait().expect("reap the worker").code())
    }
}

fn summary(message: &Value) -> String {
    let part = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    match message["act"].as_str() {
        Some("queryServer" | "listening") => {
            format!(
                "{} {} {} {}",
                part("act"),
                message["address"],
                message["port"],
                message["addressType"]
            )
        }
        Some(act) => format!("{act} {}", part("key")),
        None => part("cmd"),
    }
}
