//! Sockets and paths against the real kernel.

#![expect(
    clippy::unwrap_used,
    reason = "where the kernel refuses, the test has failed"
)]

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::FdFlags;
use segue_sys::diag::queue_length;
use segue_sys::socket::{self, Occupant};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn assert_private_and_nonblocking(descriptor: &OwnedFd) {
    let flags = rustix::fs::fcntl_getfl(descriptor).unwrap();
    assert!(flags.contains(OFlags::NONBLOCK));
    let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
    assert!(flags.contains(FdFlags::CLOEXEC));
}

/// Waits until the kernel has got there: what a client has begun may end a moment later.
fn eventually(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never was so");
        std::thread::yield_now();
    }
}

fn listening() -> (OwnedFd, SocketAddr) {
    let listener = socket::bind_tcp(LOOPBACK, false).unwrap();
    socket::listen(&listener).unwrap();
    let address = socket::local_address(&listener).unwrap();
    (listener, address)
}

#[test]
fn nothing_here_blocks_or_leaks() {
    let (listener, address) = listening();
    assert_private_and_nonblocking(&listener);
    let empty = socket::accept(&listener).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::WouldBlock);
    assert!(!socket::has_waiting(&listener).unwrap());

    let _client = TcpStream::connect(address).unwrap();
    eventually(|| socket::has_waiting(&listener).unwrap());
    assert_private_and_nonblocking(&socket::accept(&listener).unwrap());
    assert_private_and_nonblocking(&socket::join_tcp(LOOPBACK, false).unwrap());
    assert_private_and_nonblocking(&socket::bind_udp(LOOPBACK, false, false).unwrap());
}

#[test]
fn a_reset_is_no_empty_answer() {
    let (listener, address) = listening();
    let mut client = TcpStream::connect(address).unwrap();
    eventually(|| socket::has_waiting(&listener).unwrap());
    socket::reset(socket::accept(&listener).unwrap());
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_queue_that_a_worker_shortened_grows_again() {
    let (listener, address) = listening();
    rustix::net::listen(&listener, 1).unwrap();
    socket::listen(&listener).unwrap();
    let clients: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    eventually(|| queue_length(&listener).unwrap() == 50);
    drop(clients);
}

#[test]
fn dual_stack_is_a_choice() {
    for v6_only in [false, true] {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = socket::bind_tcp(any, v6_only).unwrap();
        socket::listen(&listener).unwrap();
        let port = socket::local_address(&listener).unwrap().port();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        let v4 = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        assert_eq!(v4.is_err(), v6_only);
    }
}

#[test]
fn datagram_sockets() {
    let socket = socket::bind_udp(LOOPBACK, false, true).unwrap();
    let address = socket::local_address(&socket).unwrap();
    let refused = socket::bind_udp(address, false, false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    socket::bind_udp(address, false, true).unwrap();

    let client = UdpSocket::bind(LOOPBACK).unwrap();
    client.send_to(b"ping", address).unwrap();
    let mut buffer = [0; 8];
    let (length, from) = UdpSocket::from(socket).recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from),
        (&b"ping"[..], client.local_addr().unwrap())
    );
}

#[test]
fn abstract_names() {
    let name = format!("segue-test-{}", std::process::id());
    let listener = socket::bind_abstract(name.as_bytes()).unwrap();
    socket::listen(&listener).unwrap();
    let taken = socket::bind_abstract(name.as_bytes()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let address = UnixAddr::from_abstract_name(name).unwrap();
    let mut client = UnixStream::connect_addr(&address).unwrap();
    assert_eq!(queue_length(&listener).unwrap(), 1);
    socket::reset(socket::accept(&listener).unwrap());
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn paths_may_be_long() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let deep = socket::open_directory(&deep).unwrap();
    let name = OsStr::new("app.sock");
    let listener = socket::bind_path(deep.as_fd(), name).unwrap();
    socket::listen(&listener).unwrap();
    let taken = socket::bind_path(deep.as_fd(), name).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    assert_eq!(
        socket::path_occupant(deep.as_fd(), name).unwrap(),
        Occupant::Live
    );
    assert_eq!(
        queue_length(&listener).unwrap(),
        1,
        "the look was a connection"
    );
}

#[test]
fn a_path_is_free_stale_live_or_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it");
    let opened = socket::open_directory(directory.path()).unwrap();
    let occupant = || socket::path_occupant(opened.as_fd(), OsStr::new("it")).unwrap();

    assert_eq!(occupant(), Occupant::Nobody);
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(occupant(), Occupant::Live);
    let inode = socket::path_inode(opened.as_fd(), OsStr::new("it"))
        .unwrap()
        .unwrap();
    drop(listener);
    assert_eq!(occupant(), Occupant::Stale(inode));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "data").unwrap();
    assert_eq!(occupant(), Occupant::NotASocket);
}

#[test]
fn permissions_are_added() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    let opened = socket::open_directory(directory.path()).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    socket::open_path_to_all(opened.as_fd(), OsStr::new("it"), true, false).unwrap();
    assert_eq!(mode(), 0o744);
    socket::open_path_to_all(opened.as_fd(), OsStr::new("it"), false, true).unwrap();
    assert_eq!(mode(), 0o766);
}

#[test]
fn interfaces_have_numbers() {
    assert!(socket::interface_index("lo").unwrap() > 0);
    assert!(socket::interface_index("no-such-if").is_err());
}

#[test]
fn accepted_connections_work() {
    let (listener, address) = listening();
    let mut client = TcpStream::connect(address).unwrap();
    eventually(|| socket::has_waiting(&listener).unwrap());
    TcpStream::from(socket::accept(&listener).unwrap())
        .write_all(b"ok")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ok");
}

#[test]
fn only_a_stream_with_a_peer_is_a_connection() {
    let (listener, address) = listening();
    let mut client = TcpStream::connect(address).unwrap();
    eventually(|| socket::has_waiting(&listener).unwrap());
    let server = socket::accept(&listener).unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(socket::is_connection(&server));
    assert!(socket::is_connection(&one));

    client.write_all(b"unread").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(socket::is_connection(&server), "half-closed");
    drop(server);
    eventually(|| !socket::is_connection(&client));

    assert!(!socket::is_connection(&listener));
    let datagrams = UdpSocket::bind(LOOPBACK).unwrap();
    datagrams.connect(address).unwrap();
    assert!(!socket::is_connection(&datagrams));
    let (datagrams, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(!socket::is_connection(&datagrams));
    assert!(!socket::is_connection(tempfile::tempfile().unwrap()));
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(!socket::is_connection(&reader));
}
