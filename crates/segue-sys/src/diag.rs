//! What the kernel knows of sockets: queue lengths, handshakes under way, and who listens.
//! Everything here is a snapshot that may be outdated when it is returned.
//!
//! Two sources: `getsockopt` for a socket of our own, and the netlink protocol of sock_diag(7)
//! for all others. Neither needs a privilege.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// Connections that wait in the queue of a listening socket of ours, TCP or Unix-domain.
///
/// # Errors
/// `EINVAL` for a socket of another kind, or one that does not listen.
pub fn queue_length(socket: impl AsFd) -> io::Result<u32> {
    match sockopt::socket_domain(&socket)? {
        AddressFamily::UNIX => unix_queue_length(socket),
        AddressFamily::INET | AddressFamily::INET6 => tcp_queue_length(socket),
        _ => Err(invalid()),
    }
}

/// For a listening socket the kernel reports the length of the queue as `tcpi_unacked`
/// (`tcp_get_info` in net/ipv4/tcp.c).
fn tcp_queue_length(socket: impl AsFd) -> io::Result<u32> {
    const STATE: usize = 0;
    const UNACKED: usize = 6;
    // The beginning of `struct tcp_info`: eight bytes, then words; the kernel copies as much as
    // there is room for.
    let mut info = [0_u32; 8];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` has room for the `len` bytes that the kernel may write, and any bytes make
    // valid integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if info[STATE].to_ne_bytes()[0] != TCP_LISTEN {
        return Err(invalid());
    }
    Ok(info[UNACKED])
}

fn unix_queue_length(socket: impl AsFd) -> io::Result<u32> {
    const SHOW_QUEUE: u32 = 0x10;
    const QUEUE_ATTRIBUTE: u16 = 4;
    let mut length = None;
    unix_attribute(socket, SHOW_QUEUE, QUEUE_ATTRIBUTE, |rest| {
        length = word(rest, 4);
    })?;
    length.ok_or_else(invalid)
}

/// Asks for what `show` stands for and reads the attribute of this kind, which begins with its header.
fn unix_attribute(
    socket: impl AsFd,
    show: u32,
    wanted: u16,
    mut read: impl FnMut(&[u8]),
) -> io::Result<()> {
    const MESSAGE: usize = 16;

    let inode = u32::try_from(rustix::fs::fstat(&socket)?.st_ino).map_err(|_| invalid())?;
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    put(&mut request, ALL_STATES);
    put(&mut request, inode);
    put(&mut request, show);
    put(&mut request, NO_COOKIE);
    put(&mut request, NO_COOKIE);

    Netlink::open()?.ask(&request, Answer::One, |message| {
        let mut rest = message.get(MESSAGE..).unwrap_or_default();
        while let (Some(size), Some(kind)) = (half(rest, 0), half(rest, 2)) {
            if kind == wanted {
                read(rest);
            }
            let step = usize::from(size).next_multiple_of(4).max(4);
            rest = rest.get(step..).unwrap_or_default();
        }
    })
}

/// Clients whose handshake with a TCP listener at `local` has begun and is not over, as the
/// listener's family writes them: `::ffff:` addresses for IPv4 clients of an IPv6 listener.
/// Those of other listeners of the family at the same port are included.
///
/// The kernel walks all connections of the host for it: milliseconds, more on a busy host.
pub fn handshakes(local: SocketAddr) -> io::Result<BTreeSet<SocketAddr>> {
    let mut peers = BTreeSet::new();
    let family = match local {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    tcp_sockets(family, 1 << TCP_SYN_RECV, local.port(), |socket| {
        peers.insert(socket.remote);
    })?;
    Ok(peers)
}

/// The inode of the socket that serves a TCP connection to `server` from `client`, both on this host;
/// `None` while nobody has accepted it.
///
/// # Errors
/// `ENOENT` if there is no such connection.
pub fn accepted(server: SocketAddr, client: SocketAddr) -> io::Result<Option<u64>> {
    // struct inet_diag_req_v2.
    let family = match server {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    put(&mut request, ALL_STATES);
    request.extend_from_slice(&server.port().to_be_bytes());
    request.extend_from_slice(&client.port().to_be_bytes());
    for address in [server.ip(), client.ip()] {
        let mut bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        bytes.resize(16, 0);
        request.extend_from_slice(&bytes);
    }
    let interface = match server {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    put(&mut request, interface);
    put(&mut request, NO_COOKIE);
    put(&mut request, NO_COOKIE);
    let mut inode = None;
    Netlink::open()?.ask(&request, Answer::One, |message| {
        inode = parse_tcp_socket(message).map(|socket| socket.inode);
    })?;
    Ok(inode.filter(|inode| *inode != 0))
}

/// The inode of the socket that serves a Unix-domain connection of ours; `None` while nobody has
/// accepted it.
///
/// # Errors
/// `EINVAL` for a socket of another kind.
pub fn unix_accepted(client: impl AsFd) -> io::Result<Option<u64>> {
    const SHOW_PEER: u32 = 0x4;
    const PEER_ATTRIBUTE: u16 = 2;
    let mut inode = None;
    unix_attribute(client, SHOW_PEER, PEER_ATTRIBUTE, |rest| {
        inode = word(rest, 4);
    })?;
    Ok(inode.filter(|inode| *inode != 0).map(u64::from))
}

/// Whether a process, or one below it, has the socket of this inode open; `None` where we may not look.
#[must_use]
pub fn has_socket(pid: i32, inode: u64) -> Option<bool> {
    // The names in it may be seen without what they lead to (ptrace(2), access mode checking): by root
    // without CAP_SYS_PTRACE, as in a container, of a process of another user.
    let first = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.next();
    if let Some(Ok(first)) = first
        && let Err(error) = std::fs::read_link(first.path())
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return None;
    }
    let mut processes = std::iter::once(pid).chain(descendants(pid));
    Some(processes.any(|pid| socket_inodes(pid).any(|found| found == inode)))
}

/// Inodes of all listening TCP sockets of this network namespace, with their local addresses.
pub fn tcp_listeners() -> io::Result<BTreeMap<u64, SocketAddr>> {
    let mut listeners = BTreeMap::new();
    tcp_sockets_of_both(1 << TCP_LISTEN, 0, |socket| {
        listeners.insert(socket.inode, socket.local);
    })?;
    Ok(listeners)
}

/// Inodes of accepted connections to a TCP port that are open: established, or closed by the client alone. Of
/// this network namespace; the kernel leaves out the others, of which there may be tens of thousands.
pub fn tcp_connections(port: u16) -> io::Result<BTreeSet<u64>> {
    let mut connections = BTreeSet::new();
    let states = 1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT;
    tcp_sockets_of_both(states, port, |socket| {
        connections.insert(socket.inode);
    })?;
    // Nobody has accepted it.
    connections.remove(&0);
    Ok(connections)
}

/// How many of these sockets a process of this network namespace has open; `None` if that may not be seen.
#[must_use]
pub fn count_open(pid: i32, inodes: &BTreeSet<u64>) -> Option<usize> {
    // Needs the same right as what descriptors lead to (ptrace(2), access mode checking).
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if namespace(&pid.to_string())? != namespace("self")? {
        return None;
    }
    let held: BTreeSet<u64> = socket_inodes(pid).collect();
    Some(held.intersection(inodes).count())
}

/// A process below another one that listens at a TCP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescendantListener {
    pub pid: i32,
    pub address: SocketAddr,
}

/// The first descendant of `pid`, at any depth, that listens at a TCP address. `pid` itself
/// does not count. Processes that vanish meanwhile, or that may not be looked into, count as
/// not listening.
///
/// # Errors
/// Only those of [`tcp_listeners`].
pub fn listening_descendant(pid: i32) -> io::Result<Option<DescendantListener>> {
    let descendants = descendants(pid);
    if descendants.is_empty() {
        return Ok(None);
    }
    let listeners = tcp_listeners()?;
    Ok(descendants.into_iter().find_map(|pid| {
        let inode = socket_inodes(pid).find(|inode| listeners.contains_key(inode))?;
        let address = *listeners.get(&inode)?;
        Some(DescendantListener { pid, address })
    }))
}

fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut known: BTreeSet<i32> = found.iter().copied().collect();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        // A pid that is reused during the walk must not lead round in a circle.
        found.extend(children(pid).into_iter().filter(|pid| known.insert(*pid)));
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    children
}

fn socket_inodes(pid: i32) -> impl Iterator<Item = u64> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
    descriptors
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|descriptor| {
            let target = std::fs::read_link(descriptor.path()).ok()?;
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            inode.parse().ok()
        })
}

// States of include/net/tcp_states.h.
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_RECV: u8 = 3;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LISTEN: u8 = 10;
const ALL_STATES: u32 = u32::MAX;
const NO_COOKIE: u32 = u32::MAX;

struct TcpSocket {
    local: SocketAddr,
    remote: SocketAddr,
    inode: u64,
}

/// Reports every TCP socket of a family in one of `states` (a bit for each) at the local `port`,
/// 0 for all.
fn tcp_sockets(
    family: i32,
    states: u32,
    port: u16,
    mut report: impl FnMut(TcpSocket),
) -> io::Result<()> {
    // struct inet_diag_req_v2; of the 48 bytes of the socket's id only the port is given.
    let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    put(&mut request, states);
    request.extend_from_slice(&port.to_be_bytes());
    request.resize(56, 0);
    Netlink::open()?.ask(&request, Answer::Dump, |message| {
        if let Some(socket) = parse_tcp_socket(message) {
            report(socket);
        }
    })
}

/// The same of both families.
fn tcp_sockets_of_both(
    states: u32,
    port: u16,
    mut report: impl FnMut(TcpSocket),
) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        match tcp_sockets(family, states, port, &mut report) {
            // A kernel without this family has no such sockets.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            listed => listed?,
        }
    }
    Ok(())
}

/// Decodes a `struct inet_diag_msg`.
fn parse_tcp_socket(message: &[u8]) -> Option<TcpSocket> {
    let ip = |offset: usize| -> Option<IpAddr> {
        match i32::from(*message.first()?) {
            libc::AF_INET => {
                let bytes: [u8; 4] = message.get(offset..offset + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            }
            libc::AF_INET6 => {
                let bytes: [u8; 16] = message.get(offset..offset + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            }
            _ => None,
        }
    };
    Some(TcpSocket {
        local: SocketAddr::new(ip(8)?, u16::from_be(half(message, 4)?)),
        remote: SocketAddr::new(ip(24)?, u16::from_be(half(message, 6)?)),
        inode: word(message, 68)?.into(),
    })
}

/// What is expected of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// One message, or an error.
    One,
    /// Any number of messages and a final one.
    Dump,
}

struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    const HEADER: usize = 16;
    const BY_FAMILY: u16 = 20;
    const REQUEST: u16 = 0x1;
    const DUMP: u16 = 0x300;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    /// The kernel answers within the call; the limit is for a kernel that does not.
    const PATIENCE: Duration = Duration::from_secs(1);

    fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Self::PATIENCE))?;
        Ok(Self { socket })
    }

    /// Sends one request and hands each message of the answer, without its header, to `read`.
    fn ask(&self, body: &[u8], answer: Answer, mut read: impl FnMut(&[u8])) -> io::Result<()> {
        let flags = match answer {
            Answer::One => Self::REQUEST,
            Answer::Dump => Self::REQUEST | Self::DUMP,
        };
        let length = u32::try_from(Self::HEADER + body.len()).map_err(|_| invalid())?;
        let mut request = Vec::with_capacity(Self::HEADER + body.len());
        put(&mut request, length);
        request.extend_from_slice(&Self::BY_FAMILY.to_ne_bytes());
        request.extend_from_slice(&flags.to_ne_bytes());
        // Sequence number and port: one question at a time on a socket of its own.
        put(&mut request, 0);
        put(&mut request, 0);
        request.extend_from_slice(body);
        rustix::net::send(&self.socket, &request, SendFlags::empty())?;

        let mut buffer = vec![0; 32 * 1024];
        loop {
            let (received, _) =
                rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..received).unwrap_or_default();
            while let (Some(length), Some(kind)) = (word(rest, 0), half(rest, 4)) {
                let length = length as usize;
                let message = rest.get(Self::HEADER..length).ok_or_else(invalid)?;
                match kind {
                    Self::DONE => return Ok(()),
                    Self::ERROR => return Err(netlink_error(message)),
                    _ => read(message),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            if answer == Answer::One || received == 0 {
                return Ok(());
            }
        }
    }
}

fn netlink_error(message: &[u8]) -> io::Error {
    let negated = word(message, 0).map_or(0, u32::cast_signed);
    io::Error::from_raw_os_error(negated.checked_neg().unwrap_or(libc::EIO))
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn put(buffer: &mut Vec<u8>, word: u32) {
    buffer.extend_from_slice(&word.to_ne_bytes());
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..)?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*bytes))
}
