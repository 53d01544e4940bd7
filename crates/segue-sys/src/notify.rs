//! Datagrams to a service manager, with a descriptor beside them (sd_notify(3)). What they say, and
//! what is done when they cannot be sent, is the caller's business.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

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
