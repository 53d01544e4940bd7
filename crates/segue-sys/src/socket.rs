//! Makes listening and datagram sockets, accepts and resets connections. Every descriptor
//! made here is `O_NONBLOCK` and `CLOEXEC`: a worker that inherits a blocking listener from us
//! would hang in accept (Node 16 does).

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// A queue as long as the system allows: the kernel cuts it to `net.core.somaxconn`.
const LONGEST_QUEUE: u32 = 65_535;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Binds a TCP socket that nobody else may share the port with. A port in `TIME_WAIT` is no
/// obstacle, one that anybody listens at is `EADDRINUSE`, sockets with `SO_REUSEPORT` included.
/// `v6_only` means nothing for IPv4; without it an IPv6 wildcard serves IPv4 too.
pub fn bind_tcp(address: SocketAddr, v6_only: bool) -> io::Result<OwnedFd> {
    let socket = inet_socket(address, SocketType::STREAM, v6_only)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Binds a TCP socket beside others that share the port: those of [`join_tcp`] and a first one
/// of [`bind_tcp`] that was opened up with [`share_port`]. All must have one effective user.
pub fn join_tcp(address: SocketAddr, v6_only: bool) -> io::Result<OwnedFd> {
    let socket = inet_socket(address, SocketType::STREAM, v6_only)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Says whether others may join the port of a bound socket. To be called before it listens.
pub fn share_port(socket: impl AsFd, shared: bool) -> io::Result<()> {
    Ok(sockopt::set_socket_reuseport(socket, shared)?)
}

/// Binds a client's socket to a host and a port that the kernel chooses, which nobody else gets while
/// it is open.
pub fn bind_client(host: SocketAddr, v6_only: bool) -> io::Result<OwnedFd> {
    let mut address = host;
    address.set_port(0);
    let socket = inet_socket(address, SocketType::STREAM, v6_only)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Binds a UDP socket. With `reuse_address` others who say the same may bind the address too.
pub fn bind_udp(address: SocketAddr, v6_only: bool, reuse_address: bool) -> io::Result<OwnedFd> {
    let socket = inet_socket(address, SocketType::DGRAM, v6_only)?;
    if reuse_address {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn inet_socket(address: SocketAddr, kind: SocketType, v6_only: bool) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, kind, FLAGS, None)?;
    if address.is_ipv6() {
        // Said either way: the default is the sysctl net.ipv6.bindv6only.
        sockopt::set_ipv6_v6only(&socket, v6_only)?;
    }
    Ok(socket)
}

/// Binds a stream socket in the abstract namespace. `name` is what follows the NUL byte.
pub fn bind_abstract(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(socket)
}

/// Binds a stream socket to `name` in `directory`, however long the directory's path is: the
/// 108 bytes of `sun_path` hold only the name and a few more. The name must be free.
pub fn bind_path(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    rustix::net::bind(&socket, &path_address(directory, name)?)?;
    Ok(socket)
}

/// Connects to the stream socket `name` in `directory`.
///
/// # Errors
/// `EAGAIN` if its queue is full; else those of connect(2).
pub fn connect_path(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    rustix::net::connect(&socket, &path_address(directory, name)?)?;
    Ok(socket)
}

/// What is at a path where a stream socket is to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    Nobody,
    /// A socket that nobody listens on: left behind by a program that is gone.
    Stale(Inode),
    /// A socket that somebody listens on.
    Live,
    /// A file of another kind.
    NotASocket,
}

/// A file, independent of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    pub device: u64,
    pub number: u64,
}

/// Finds out what `name` in `directory` is. Only a refused connection proves a socket stale;
/// whatever else the attempt gives (a full queue, no permission), it counts as live.
pub fn path_occupant(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Occupant> {
    let status = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => status,
        Err(Errno::NOENT) => return Ok(Occupant::Nobody),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
        return Ok(Occupant::NotASocket);
    }
    let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    match rustix::net::connect(&client, &path_address(directory, name)?) {
        Err(Errno::CONNREFUSED) => Ok(Occupant::Stale(inode(&status))),
        Err(Errno::NOENT) => Ok(Occupant::Nobody),
        _ => Ok(Occupant::Live),
    }
}

/// The file `name` in `directory`, or `None` if there is none.
pub fn path_inode(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Inode>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some(inode(&status))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub mode: u32,
    pub user: u32,
    pub group: u32,
}

/// Those of `name` in `directory`.
pub fn path_permissions(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Permissions> {
    let status = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Permissions {
        mode: status.st_mode & 0o7777,
        user: status.st_uid,
        group: status.st_gid,
    })
}

/// Gives `name` in `directory` these permissions.
///
/// # Errors
/// `EPERM` if its owner is to be another and we are not root; else those of chmod(2).
pub fn set_path_permissions(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    wanted: Permissions,
) -> io::Result<()> {
    let present = path_permissions(directory, name)?;
    // In this order: chown(2) may take bits of the mode away.
    if (present.user, present.group) != (wanted.user, wanted.group) {
        let user = Some(rustix::fs::Uid::from_raw(wanted.user));
        let group = Some(rustix::fs::Gid::from_raw(wanted.group));
        rustix::fs::chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let mode = Mode::from_raw_mode(wanted.mode);
    Ok(rustix::fs::chmodat(
        directory,
        name,
        mode,
        AtFlags::empty(),
    )?)
}

/// Adds the permissions that Node's `readableAll` and `writableAll` stand for: for user, group
/// and others.
pub fn open_path_to_all(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    readable: bool,
    writable: bool,
) -> io::Result<()> {
    let status = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut mode = Mode::from_raw_mode(status.st_mode);
    if readable {
        mode |= Mode::RUSR | Mode::RGRP | Mode::ROTH;
    }
    if writable {
        mode |= Mode::WUSR | Mode::WGRP | Mode::WOTH;
    }
    Ok(rustix::fs::chmodat(
        directory,
        name,
        mode,
        AtFlags::empty(),
    )?)
}

/// Opens a directory for the `*_path` calls of this module; needs no read permission.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn inode(status: &rustix::fs::Stat) -> Inode {
    Inode {
        device: status.st_dev,
        number: status.st_ino,
    }
}

fn path_address(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<SocketAddrUnix> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    Ok(SocketAddrUnix::new(path)?)
}

/// Starts to listen, or makes the queue of a listening socket as long as the system allows
/// again: each `listen` sets the length anew, a worker's own included.
pub fn listen(socket: impl AsFd) -> io::Result<()> {
    listen_for(socket, LONGEST_QUEUE)
}

/// The same with a queue of `length`. The kernel lets one connection more into it, and leaves
/// the SYN of any other unanswered.
pub fn listen_for(socket: impl AsFd, length: u32) -> io::Result<()> {
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    Ok(rustix::net::listen(socket, length)?)
}

/// Begins to connect, which on loopback is as good as done.
pub fn connect(socket: impl AsFd, address: SocketAddr) -> io::Result<()> {
    match rustix::net::connect(socket, &address) {
        Err(Errno::INPROGRESS) => Ok(()),
        result => Ok(result?),
    }
}

/// Takes the next connection from the queue, `O_NONBLOCK` and `CLOEXEC`.
///
/// # Errors
/// `WouldBlock` when the queue is empty; see accept(2) for those of a connection that died in
/// the queue, and for `EMFILE`.
pub fn accept(socket: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(socket, FLAGS)?)
}

/// Closes a connection so that its peer learns at once that it is not served: with a reset for
/// TCP, with the end of the stream for a Unix-domain socket.
pub fn reset(connection: OwnedFd) {
    // Without it the close below is an orderly one, which a client may take for an empty answer.
    let _ = sockopt::set_socket_linger(&connection, Some(Duration::ZERO));
    drop(connection);
}

/// Whether it is a stream socket, TCP or Unix, that does not listen.
#[must_use]
pub fn is_stream(socket: impl AsFd) -> bool {
    let socket = socket.as_fd();
    let look = || -> Result<bool, Errno> {
        let domain = sockopt::socket_domain(socket)?;
        let families = [
            AddressFamily::INET,
            AddressFamily::INET6,
            AddressFamily::UNIX,
        ];
        Ok(families.contains(&domain)
            && sockopt::socket_type(socket)? == SocketType::STREAM
            && !sockopt::socket_acceptconn(socket)?)
    };
    look().unwrap_or(false)
}

/// Whether it is a stream socket that has a peer: nothing else can be served as a connection. One
/// that its peer has reset has none any more.
#[must_use]
pub fn is_connection(socket: impl AsFd) -> bool {
    is_stream(&socket) && rustix::net::getpeername(socket).is_ok()
}

/// The address a TCP or UDP socket is bound to.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?)
}

/// Whether it is an IPv6 socket that takes no IPv4 connections.
pub fn is_v6_only(socket: impl AsFd) -> io::Result<bool> {
    let socket = socket.as_fd();
    Ok(sockopt::socket_domain(socket)? == AddressFamily::INET6 && sockopt::ipv6_v6only(socket)?)
}

/// The number of a network interface, for the zone of a link-local address such as `fe80::1%eth0`.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let any = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, FLAGS, None)?;
    Ok(rustix::net::netdevice::name_to_index(&any, name)?)
}

/// Whether a connection waits in the queue of a listening socket.
pub fn has_waiting(socket: impl AsFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut poll_fds = [PollFd::new(&socket, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut poll_fds, Some(&now))? > 0)
}
