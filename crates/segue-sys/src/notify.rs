//! Datagrams to a service manager, with a descriptor beside them (sd_notify(3)), and from processes for
//! whom we are one. What they say, and what is done when they cannot be sent, is the caller's business.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};

/// The way to a service manager.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl NotifySocket {
    /// `address` is what `NOTIFY_SOCKET` says: a path, or `@` and a name of the abstract namespace.
    /// Nobody need be there yet.
    ///
    /// # Errors
    /// `InvalidInput` for any other kind of address, or one that is too long; `EMFILE`.
    pub fn open(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(address.as_bytes())?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, address })
    }

    /// Sends one message, and a copy of a descriptor with it. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` where the manager has not read what came before, `ETOOMANYREFS` where too many
    /// descriptors are under way; `ENOENT` and `ECONNREFUSED` where nobody is there.
    pub fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // A datagram is never cut in two.
        sendmsg_addr(
            &self.socket,
            &self.address,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

/// Bytes of a message that are looked at.
const MESSAGE_LIMIT: usize = 4096;

/// Room for credentials and as many descriptors as may be sent at once (SCM_MAX_FD, 253).
const CONTROL_LIMIT: usize = 1280;

/// A socket that others send notices to, in the abstract namespace, where it needs no directory and
/// leaves nothing behind. Anybody can send to it: see [`Notice::sender`].
#[derive(Debug)]
pub struct NotifyListener(OwnedFd);

/// What somebody has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// As it came, cut at 4 KiB.
    pub text: Vec<u8>,
    /// The process, as the kernel says; `None` for one that has no number here.
    pub sender: Option<u32>,
}

impl NotifyListener {
    /// One at a name that the kernel chooses.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn bind() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        // An address without a name asks for one (unix(7), "Autobind feature").
        rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
        Ok(Self(socket))
    }

    /// What `NOTIFY_SOCKET` is to say.
    ///
    /// # Errors
    /// That it has no name.
    pub fn address(&self) -> io::Result<OsString> {
        let bound = SocketAddrUnix::try_from(rustix::net::getsockname(&self.0)?)?;
        let name = bound.abstract_name().ok_or(io::ErrorKind::NotFound)?;
        let mut address = b"@".to_vec();
        address.extend_from_slice(name);
        Ok(OsString::from_vec(address))
    }

    /// The first notice that waits, which stays where it is; `None` if none does.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub fn peek(&self) -> io::Result<Option<Notice>> {
        self.receive(libc::MSG_PEEK)
    }

    /// Takes the first notice away, and closes what came with it: a sender may wait for that.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub fn discard(&self) -> io::Result<()> {
        self.receive(0).map(drop)
    }

    fn receive(&self, flags: libc::c_int) -> io::Result<Option<Notice>> {
        let mut control = [0_u8; CONTROL_LIMIT];
        let mut text = vec![0_u8; MESSAGE_LIMIT];
        let mut piece = libc::iovec {
            iov_base: text.as_mut_ptr().cast(),
            iov_len: text.len(),
        };
        // SAFETY: zeros are an empty `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len();
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let received = loop {
            // SAFETY: `message` points to buffers of ours, of the lengths that it says.
            let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags) };
            if let Ok(received) = usize::try_from(received) {
                break received;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            }
        };
        text.truncate(received);
        let filled = message.msg_controllen;
        let sender = take_apart(control.get(..filled).unwrap_or_default());
        Ok(Some(Notice { text, sender }))
    }
}

/// The process that the kernel names beside a message. Descriptors that came with it are closed.
///
/// A piece has a length of eight bytes, which counts its own head of sixteen, a level and a type of
/// four each, and begins where a multiple of eight does (cmsg(3)).
fn take_apart(control: &[u8]) -> Option<u32> {
    const HEAD: usize = 16;
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    let mut sender = None;
    let mut rest = control;
    while let Some(length) = rest
        .first_chunk()
        .map(|length| usize::from_ne_bytes(*length))
    {
        let Some(data) = rest.get(HEAD..length) else {
            break;
        };
        let kind = (
            rest.get(8..).and_then(number),
            rest.get(12..).and_then(number),
        );
        if kind == (Some(libc::SOL_SOCKET), Some(libc::SCM_RIGHTS)) {
            for descriptor in data.chunks_exact(4).filter_map(number) {
                // SAFETY: the kernel has made this descriptor for us in the call that filled `control`.
                drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        } else if kind == (Some(libc::SOL_SOCKET), Some(libc::SCM_CREDENTIALS)) {
            // struct ucred; 0 for a process that has no number here.
            let pid = number(data).and_then(|pid| u32::try_from(pid).ok());
            sender = pid.filter(|pid| *pid != 0);
        }
        rest = rest
            .get(length.next_multiple_of(align_of::<usize>())..)
            .unwrap_or_default();
    }
    sender
}

impl From<OwnedFd> for NotifyListener {
    /// One that [`NotifyListener::bind`] has made, here or in a process before this one.
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for NotifyListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for NotifyListener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;
    use crate::passing::receive;

    #[test]
    fn a_path_and_an_abstract_name_are_reached_with_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("segue-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&address).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            let socket = NotifySocket::open(&address).unwrap();
            socket.send(b"READY=1", None).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"stored").unwrap();
            socket.send(b"FDSTORE=1", Some(file.as_fd())).unwrap();
            let mut bytes = [0; 64];
            let (length, none) = receive(&manager, &mut bytes).unwrap();
            assert_eq!((&bytes[..length], none.is_none()), (&b"READY=1"[..], true));
            let (length, stored) = receive(&manager, &mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"FDSTORE=1");
            let mut file = File::from(stored.unwrap());
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "stored");

            let error = loop {
                if let Err(error) = socket.send(b"STATUS=again", None) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            drop(manager);
            assert!(socket.send(b"STATUS=nobody", None).is_err());
        }
    }

    #[test]
    fn notices_come_with_their_sender_and_stay_until_they_are_taken() {
        let listener = NotifyListener::bind().unwrap();
        let address = listener.address().unwrap();
        assert_ne!(NotifyListener::bind().unwrap().address().unwrap(), address);
        assert_eq!(listener.peek().unwrap(), None);
        let socket = NotifySocket::open(&address).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        socket
            .send(b"READY=1\nSTATUS=up", Some(writer.as_fd()))
            .unwrap();
        drop(writer);
        socket.send(b"STATUS=two", None).unwrap();
        let expected = |text: &[u8]| Notice {
            text: text.to_vec(),
            sender: Some(std::process::id()),
        };
        for _ in 0..2 {
            let notice = listener.peek().unwrap();
            assert_eq!(notice, Some(expected(b"READY=1\nSTATUS=up")));
        }
        listener.discard().unwrap();
        // A sender that waits at the other end is released.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(listener.peek().unwrap(), Some(expected(b"STATUS=two")));

        let mut child = std::process::Command::new("sh")
            .args(["-c", "exec python3 -c 'import os,socket;s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM);s.sendto(b\"READY=1\",\"\\0\"+os.environ[\"NOTIFY_SOCKET\"][1:])'"])
            .env("NOTIFY_SOCKET", &address)
            .spawn()
            .unwrap();
        let pid = child.id();
        if child.wait().unwrap().success() {
            listener.discard().unwrap();
            let notice = listener.peek().unwrap().unwrap();
            assert_eq!(notice.sender, Some(pid));
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        let long = format!("/{}", "x".repeat(200));
        for address in ["", "relative", "vsock:2:1234", &long] {
            assert!(
                NotifySocket::open(OsStr::new(address)).is_err(),
                "{address}"
            );
        }
    }
}
