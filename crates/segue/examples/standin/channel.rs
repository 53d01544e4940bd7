//! The worker's end of the channel: JSON lines both ways, descriptors inward.

use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

/// A line from the primary, with the descriptor that came along.
pub(crate) struct Received {
    pub(crate) message: Value,
    pub(crate) handle: Option<OwnedFd>,
}

/// Sends; cloned freely. What is sent goes out in order, by a task of its own.
#[derive(Clone)]
pub(crate) struct Channel {
    socket: Rc<UnixStream>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    pending: Rc<Cell<usize>>,
    drained: Rc<Notify>,
    next_seq: Rc<Cell<u64>>,
}

impl Channel {
    /// Takes the descriptor that `NODE_CHANNEL_FD` names.
    pub(crate) fn open() -> io::Result<(Self, mpsc::UnboundedReceiver<Received>)> {
        let number = std::env::var("NODE_CHANNEL_FD")
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| io::Error::other("NODE_CHANNEL_FD is not set: nobody is the primary"))?;
        // A copy of one's own descriptor, in safe code: the number itself stays open, so the
        // channel is ended by shutting it down.
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        let socket = pidfd_getfd(own, number, PidfdGetfdFlags::empty())?;
        ioctl_fionbio(&socket, true)?;
        let socket = Rc::new(UnixStream::from_std(socket.into())?);

        let (outgoing, to_send) = mpsc::unbounded_channel();
        let (received, incoming) = mpsc::unbounded_channel();
        let channel = Self {
            socket: Rc::clone(&socket),
            outgoing,
            pending: Rc::default(),
            drained: Rc::default(),
            next_seq: Rc::default(),
        };
        tokio::task::spawn_local(channel.clone().write_all(to_send));
        if !std::env::args().any(|word| word == "never-read") {
            tokio::task::spawn_local(read_all(socket, received));
        }
        Ok((channel, incoming))
    }

    /// Sends a message with the next `seq`, which is returned.
    pub(crate) fn send(&self, mut message: Value) -> u64 {
        let seq = self.next_seq.get();
        self.next_seq.set(seq + 1);
        message["seq"] = Value::from(seq);
        self.send_raw(&format!("{message}\n"));
        seq
    }

    /// Sends bytes that may or may not be a message.
    pub(crate) fn send_raw(&self, text: &str) {
        self.pending.set(self.pending.get() + 1);
        // The writing task lives as long as the process.
        let _ = self.outgoing.send(text.as_bytes().to_vec());
    }

    /// Waits until everything sent so far has been written.
    pub(crate) async fn flushed(&self) {
        while self.pending.get() > 0 {
            self.drained.notified().await;
        }
    }

    /// Ends the channel while the process lives on.
    pub(crate) fn shut(&self) {
        // It may have ended from the other side already.
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }

    async fn write_all(self, mut to_send: mpsc::UnboundedReceiver<Vec<u8>>) {
        while let Some(bytes) = to_send.recv().await {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                if self.socket.writable().await.is_err() {
                    return;
                }
                match self.socket.try_write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            self.pending.set(self.pending.get() - 1);
            self.drained.notify_waiters();
        }
    }
}

async fn read_all(socket: Rc<UnixStream>, received: mpsc::UnboundedSender<Received>) {
    let mut text = Vec::new();
    let mut handle = None;
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        let mut bytes = vec![0; 64 << 10];
        let read = socket.try_io(Interest::READABLE, || Ok(receive(&*socket, &mut bytes)?));
        let (count, came) = match read {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        if count == 0 {
            return;
        }
        handle = came.or(handle);
        text.extend(bytes.into_iter().take(count));
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let Ok(message) = serde_json::from_slice::<Value>(&line) else {
                eprintln!("standin: the primary sent what is no JSON");
                crate::behaviour::leave(1);
            };
            let wants = message["cmd"] == "NODE_HANDLE";
            let handle = if wants { handle.take() } else { None };
            if received.send(Received { message, handle }).is_err() {
                return;
            }
        }
    }
}

fn receive(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let handle = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .next();
    Ok((message.bytes, handle))
}
