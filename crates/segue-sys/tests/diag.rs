//! What the kernel tells about sockets and their owners.

#![expect(
    clippy::unwrap_used,
    reason = "where the kernel refuses, the test has failed"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use segue_sys::diag;

/// Keeps handshakes under way until the client sends something.
fn defer_accept(listener: &TcpListener) {
    let seconds: libc::c_int = 30;
    // SAFETY: the option's value is a `c_int` that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

/// Waits until the kernel has got there: what a client has begun may end a moment later.
fn eventually(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never was so");
        std::thread::yield_now();
    }
}

fn check_handshakes(listen_at: SocketAddr, connect_to: impl Fn(u16) -> SocketAddr) {
    let listener = TcpListener::bind(listen_at).unwrap();
    defer_accept(&listener);
    let local = listener.local_addr().unwrap();
    let port = local.port();
    assert!(diag::handshakes(local).unwrap().is_empty());

    let mut client = TcpStream::connect(connect_to(port)).unwrap();
    let other = TcpStream::connect(connect_to(port)).unwrap();
    let under_way = || -> Vec<u16> {
        let peers = diag::handshakes(local).unwrap();
        peers.iter().map(SocketAddr::port).collect()
    };
    let mut expected = [&client, &other].map(|client| client.local_addr().unwrap().port());
    expected.sort_unstable();
    eventually(|| under_way() == expected);
    assert_eq!(diag::queue_length(&listener).unwrap(), 0);

    client.write_all(b"x").unwrap();
    listener.accept().unwrap();
    assert_eq!(under_way(), [other.local_addr().unwrap().port()]);
}

#[test]
fn handshakes_of_every_family() {
    let v4 = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = |port| SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    check_handshakes(v4(0), v4);
    check_handshakes(v6(0), v6);
    check_handshakes(any, v6);
    check_handshakes(any, v4);
}

#[test]
fn queue_lengths_are_those_of_listeners_only() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
    eventually(|| diag::queue_length(&listener).unwrap() == 3);
    listener.accept().unwrap();
    assert_eq!(diag::queue_length(&listener).unwrap(), 2);
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for other in [diag::queue_length(&clients[0]), diag::queue_length(&udp)] {
        assert!(other.is_err());
    }
}

#[test]
fn listeners_are_found_by_inode() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
    let found = diag::tcp_listeners().unwrap();
    assert_eq!(found.get(&inode), Some(&listener.local_addr().unwrap()));
}

/// Run in a child process by the test below: listens, says where, and ends with its input.
#[test]
fn child_that_listens() {
    if std::env::var_os("SEGUE_TEST_CHILD").is_none() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    println!("\nlistens at {}", listener.local_addr().unwrap());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_listening_grandchild_is_found() {
    // The command after it keeps the shell from becoming the program.
    let mut shell = Command::new("sh")
        .args(["-c", "\"$0\" --exact child_that_listens --nocapture; true"])
        .arg(std::env::current_exe().unwrap())
        .env("SEGUE_TEST_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let mut said = lines.map_while(Result::ok).filter_map(|line| {
        Some(
            line.strip_prefix("listens at ")?
                .parse::<SocketAddr>()
                .unwrap(),
        )
    });
    let address = said.next().expect("the child listens");
    let pid = i32::try_from(shell.id()).unwrap();

    let found = diag::listening_descendant(pid)
        .unwrap()
        .expect("it listens");
    assert_eq!(found.address, address);
    assert_ne!(found.pid, pid);
    assert_eq!(
        diag::listening_descendant(found.pid).unwrap(),
        None,
        "itself does not count"
    );

    drop(shell.stdin.take());
    assert_eq!(said.next(), None);
    assert!(shell.wait().unwrap().success());
    assert_eq!(diag::listening_descendant(pid).unwrap(), None, "it is gone");
}
