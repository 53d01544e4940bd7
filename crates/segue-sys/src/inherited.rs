//! Descriptors that whoever started this process has left open for it, and what the sockets among
//! them are.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, ipproto, sockopt};

/// The first number that a service manager uses (sd_listen_fds(3)).
pub const FIRST: RawFd = 3;

/// Takes the descriptors of `count` numbers from [`FIRST`] on, in order; the numbers are free after
/// that. `None` stands for one that was not open, or could not be had. For the start of a program
/// only, when nothing else can own them.
#[must_use]
pub fn take(count: u16) -> Vec<Option<OwnedFd>> {
    let numbers = FIRST..FIRST + RawFd::from(count);
    // All of them before any is taken: a number that is not open may be ours a moment later.
    let open: Vec<bool> = numbers.clone().map(is_open).collect();
    numbers
        .zip(open)
        .map(|(number, is_open)| is_open.then(|| take_one(number).ok()).flatten())
        .collect()
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: the borrow ends with this function; a number that is not open is an error.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(original).is_ok()
}

fn take_one(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number is open, and the borrow ends before it is closed.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    // Needs room for one more only, however many there are.
    let ours = rustix::io::fcntl_dupfd_cloexec(original, FIRST)?;
    // SAFETY: by contract no Rust object owns it.
    unsafe { libc::close(number) };
    Ok(ours)
}

/// A socket that connections or datagrams come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    Tcp {
        local: SocketAddr,
        v6_only: bool,
    },
    Udp {
        local: SocketAddr,
        v6_only: bool,
    },
    /// A Unix-domain stream socket, by the bytes of the path that it was bound to.
    Path(Vec<u8>),
    /// One in the abstract namespace, by what follows the NUL byte.
    Abstract(Vec<u8>),
}

/// What it is; `None` for anything that is no such socket.
///
/// # Errors
/// `ENOTSOCK`; else those of getsockopt(2) and getsockname(2).
pub fn identify(socket: impl AsFd) -> io::Result<Option<Listener>> {
    let socket = socket.as_fd();
    let family = sockopt::socket_domain(socket)?;
    let kind = sockopt::socket_type(socket)?;
    let listens = kind == SocketType::STREAM && sockopt::socket_acceptconn(socket)?;
    if family == AddressFamily::UNIX && listens {
        let address = SocketAddrUnix::try_from(rustix::net::getsockname(socket)?)?;
        if let Some(name) = address.abstract_name() {
            return Ok(Some(Listener::Abstract(name.to_vec())));
        }
        let path = address.path_bytes().map(<[u8]>::to_vec);
        return Ok(path.map(Listener::Path));
    }
    if family != AddressFamily::INET && family != AddressFamily::INET6 {
        return Ok(None);
    }
    let is_tcp = sockopt::socket_protocol(socket)? == Some(ipproto::TCP);
    let local = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    let v6_only = family == AddressFamily::INET6 && sockopt::ipv6_v6only(socket)?;
    Ok(match kind {
        SocketType::STREAM if listens && is_tcp => Some(Listener::Tcp { local, v6_only }),
        SocketType::DGRAM if rustix::net::getpeername(socket).is_err() => {
            Some(Listener::Udp { local, v6_only })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

    use super::*;
    use crate::socket;

    #[test]
    fn each_kind_of_listener_is_recognised() {
        for (ip, v6_only) in [
            (Ipv4Addr::LOCALHOST.into(), false),
            (Ipv6Addr::UNSPECIFIED.into(), false),
            (Ipv6Addr::UNSPECIFIED.into(), true),
        ] {
            let tcp = socket::bind_tcp(SocketAddr::new(ip, 0), v6_only).unwrap();
            assert_eq!(identify(&tcp).unwrap(), None, "it does not listen yet");
            socket::listen(&tcp).unwrap();
            let local = socket::local_address(&tcp).unwrap();
            assert_eq!(
                identify(&tcp).unwrap(),
                Some(Listener::Tcp { local, v6_only })
            );
            let udp = socket::bind_udp(SocketAddr::new(ip, 0), v6_only, false).unwrap();
            let local = socket::local_address(&udp).unwrap();
            assert_eq!(
                identify(&udp).unwrap(),
                Some(Listener::Udp { local, v6_only })
            );
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let bound = UnixListener::bind(&path).unwrap();
        let bytes = path.into_os_string().into_encoded_bytes();
        assert_eq!(identify(&bound).unwrap(), Some(Listener::Path(bytes)));
        let name = format!("segue-identify-{}", std::process::id());
        let address = UnixAddr::from_abstract_name(&name).unwrap();
        let bound = UnixListener::bind_addr(&address).unwrap();
        let name = Listener::Abstract(name.into_bytes());
        assert_eq!(identify(&bound).unwrap(), Some(name));

        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(identify(&one).unwrap(), None);
        assert!(identify(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
