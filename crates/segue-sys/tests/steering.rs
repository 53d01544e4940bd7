//! Groups of TCP sockets against the real kernel, on loopback: who may join a port, who gets a
//! connection, and what happens to those that are queued.

#![expect(
    clippy::unwrap_used,
    reason = "where the kernel refuses, the test has failed"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use segue_sys::diag::queue_length;
use segue_sys::socket;
use segue_sys::steering::{Instruction, attach_filter, attach_group_program, detach_filter};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn instruction(code: u16, k: u32) -> Instruction {
    let (jt, jf) = (0, 0);
    Instruction { code, jt, jf, k }
}

/// One of `count` neighbours at random.
fn among(base: u32, count: u32) -> Vec<Instruction> {
    const RANDOM: u32 = 0xffff_f000 + 56;
    vec![
        instruction(0x20, RANDOM),
        instruction(0x94, count),
        instruction(0x04, base),
        instruction(0x16, 0),
    ]
}

fn always(index: u32) -> Vec<Instruction> {
    vec![instruction(0x06, index)]
}

/// A group of `count` listening sockets; the first one gets everything.
fn group(count: usize) -> (Vec<OwnedFd>, SocketAddr) {
    let first = socket::bind_tcp(ANY_PORT, false).unwrap();
    socket::share_port(&first, true).unwrap();
    attach_group_program(&first, &always(0)).unwrap();
    socket::listen(&first).unwrap();
    let address = socket::local_address(&first).unwrap();
    let mut sockets = vec![first];
    while sockets.len() < count {
        let next = socket::join_tcp(address, false).unwrap();
        socket::listen(&next).unwrap();
        sockets.push(next);
    }
    (sockets, address)
}

fn empty(socket: &OwnedFd) -> u32 {
    let mut accepted = 0;
    while let Ok(connection) = socket::accept(socket) {
        socket::reset(connection);
        accepted += 1;
    }
    accepted
}

/// Waits until the kernel has got there: what a client has begun may end a moment later.
fn eventually(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never was so");
        thread::yield_now();
    }
}

/// Connects `count` times and says how many arrived at each socket.
fn shares(sockets: &[OwnedFd], address: SocketAddr, count: u32) -> Vec<u32> {
    let mut shares = vec![0; sockets.len()];
    for _ in 0..count {
        let client = TcpStream::connect(address).unwrap();
        eventually(|| {
            sockets
                .iter()
                .any(|socket| socket::has_waiting(socket).unwrap())
        });
        for (share, socket) in shares.iter_mut().zip(sockets) {
            *share += empty(socket);
        }
        drop(client);
    }
    shares
}

#[test]
fn nobody_else_shares_the_port() {
    let (group, address) = group(2);
    let refused = TcpListener::bind(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    let refused = socket::bind_tcp(address, false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    drop(group);

    let stranger = socket::join_tcp(address, false).unwrap();
    socket::listen(&stranger).unwrap();
    let refused = socket::bind_tcp(address, false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_port_with_dying_connections_is_free() {
    let first = socket::bind_tcp(ANY_PORT, false).unwrap();
    socket::listen(&first).unwrap();
    let address = socket::local_address(&first).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    drop(socket::accept(&first).unwrap());
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(first);
    // In FIN_WAIT_2, and not in TIME_WAIT, of which the kernel keeps no more than it likes.

    let strict = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let strict = rustix::net::bind(strict.unwrap(), &address);
    assert_eq!(strict, Err(rustix::io::Errno::ADDRINUSE));

    let again = socket::bind_tcp(address, false).unwrap();
    socket::share_port(&again, true).unwrap();
    attach_group_program(&again, &always(0)).unwrap();
    socket::listen(&again).unwrap();
    let joined = socket::join_tcp(address, false).unwrap();
    socket::listen(&joined).unwrap();
    assert_eq!(shares(&[again, joined], address, 50), [50, 0]);
}

#[test]
fn connections_go_to_exactly_the_set() {
    let (sockets, address) = group(6);
    assert_eq!(shares(&sockets, address, 200), [200, 0, 0, 0, 0, 0]);
    // From any member.
    attach_group_program(&sockets[5], &among(2, 3)).unwrap();
    let shares = shares(&sockets, address, 3_000);
    assert_eq!([shares[0], shares[1], shares[5]], [0, 0, 0]);
    assert_eq!(shares.iter().sum::<u32>(), 3_000);
    assert!(
        shares[2..5]
            .iter()
            .all(|share| (800..1_200).contains(share)),
        "{shares:?}"
    );
}

#[test]
fn dual_stack_groups_are_steered_for_both_families() {
    let any: SocketAddr = "[::]:0".parse().unwrap();
    let first = socket::bind_tcp(any, false).unwrap();
    socket::share_port(&first, true).unwrap();
    attach_group_program(&first, &always(0)).unwrap();
    socket::listen(&first).unwrap();
    let address = socket::local_address(&first).unwrap();
    let second = socket::join_tcp(address, false).unwrap();
    socket::listen(&second).unwrap();
    attach_group_program(&second, &always(1)).unwrap();
    let sockets = [first, second];
    let v4 = (Ipv4Addr::LOCALHOST, address.port()).into();
    let v6 = (std::net::Ipv6Addr::LOCALHOST, address.port()).into();
    assert_eq!(shares(&sockets, v4, 100), [0, 100]);
    assert_eq!(shares(&sockets, v6, 100), [0, 100]);
}

#[test]
fn a_flip_is_atomic_and_loses_nothing() {
    const FLIPS: u32 = 200;
    let (sockets, address) = group(2);
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU32::new(0));
    let serve = |mark: u8| {
        let listener = TcpListener::from(sockets[usize::from(mark)].try_clone().unwrap());
        listener.set_nonblocking(false).unwrap();
        move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                let mut question = [0];
                connection.read_exact(&mut question).unwrap();
                connection.write_all(&[mark]).unwrap();
                if question == *b"q" {
                    return;
                }
            }
        }
    };
    fn ask(address: SocketAddr, question: &[u8]) -> u8 {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(question).unwrap();
        let mut mark = [0];
        client.read_exact(&mut mark).unwrap();
        mark[0]
    }
    let servers = [thread::spawn(serve(0)), thread::spawn(serve(1))];
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert!(ask(address, b"a") < 2);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for flip in 0..FLIPS {
        let side = flip % 2;
        attach_group_program(&sockets[0], &always(side)).unwrap();
        for _ in 0..5 {
            assert_eq!(u32::from(ask(address, b"a")), side, "right after the flip");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    assert!(served.load(Ordering::Relaxed) > FLIPS);
    for (side, server) in servers.into_iter().enumerate() {
        let side = u32::try_from(side).unwrap();
        attach_group_program(&sockets[0], &always(side)).unwrap();
        ask(address, b"q");
        server.join().unwrap();
    }
}

#[test]
fn a_full_queue_swallows_connections() {
    let (sockets, address) = group(1);
    socket::listen_for(&sockets[0], 1).unwrap();
    let clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    eventually(|| queue_length(&sockets[0]).unwrap() == 2);
    let late = TcpStream::connect_timeout(&address, Duration::from_millis(50));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    drop(clients);
}

#[test]
fn a_filter_drops_packets() {
    let (receiver, sender) = [(); 2].map(|()| UdpSocket::bind(ANY_PORT).unwrap()).into();
    let to = receiver.local_addr().unwrap();
    attach_filter(&receiver, &always(0)).unwrap();
    sender.send_to(b"dropped", to).unwrap();
    attach_filter(&receiver, &always(u32::MAX)).unwrap();
    sender.send_to(b"kept", to).unwrap();
    let mut buffer = [0; 16];
    let length = receiver.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"kept");
    attach_filter(&receiver, &always(0)).unwrap();
    detach_filter(&receiver).unwrap();
    sender.send_to(b"kept again", to).unwrap();
    let length = receiver.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"kept again");
    assert!(detach_filter(&receiver).is_err(), "there is none");
}

#[test]
fn a_queue_outlives_whoever_accepted_from_it() {
    let (sockets, address) = group(2);
    let mut client = TcpStream::connect(address).unwrap();
    let worker = sockets[0].try_clone().unwrap();
    drop(worker);
    attach_group_program(&sockets[0], &always(1)).unwrap();
    eventually(|| queue_length(&sockets[0]).unwrap() == 1);
    let successor = sockets[0].try_clone().unwrap();
    TcpStream::from(socket::accept(successor).unwrap())
        .write_all(b"ok")
        .unwrap();
    let mut answer = [0; 2];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"ok");
}

#[test]
fn the_kernel_rejects_a_bad_program() {
    let (sockets, _) = group(1);
    // It does not end.
    let refused = attach_group_program(&sockets[0], &[instruction(0x04, 1)]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    let alone = socket::bind_tcp(ANY_PORT, false).unwrap();
    assert!(
        attach_group_program(&alone, &always(0)).is_err(),
        "no group"
    );
}

#[test]
fn a_listener_from_elsewhere_becomes_the_first_of_a_group() {
    // As a service manager makes it: alone, listening, with connections in its queue.
    let first = socket::bind_tcp(ANY_PORT, false).unwrap();
    socket::listen(&first).unwrap();
    let address = socket::local_address(&first).unwrap();
    let early = TcpStream::connect(address).unwrap();
    eventually(|| queue_length(&first).unwrap() == 1);
    let refused = socket::join_tcp(address, false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);

    socket::share_port(&first, true).unwrap();
    let refused = attach_group_program(&first, &always(0)).unwrap_err();
    assert_eq!(
        refused.kind(),
        ErrorKind::InvalidInput,
        "there is no group yet"
    );
    // Nor can the other one bring it along: it would be in a group of its own.
    let second = socket::join_tcp(address, false).unwrap();
    attach_group_program(&second, &always(0)).unwrap();
    let refused = socket::listen(&second).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    drop(second);
    let second = socket::join_tcp(address, false).unwrap();
    socket::listen(&second).unwrap();
    attach_group_program(&first, &always(0)).unwrap();
    let sockets = [first, second];
    assert_eq!(empty(&sockets[0]), 1, "what was queued still is");
    assert_eq!(shares(&sockets, address, 20), [20, 0]);
    attach_group_program(&sockets[0], &always(1)).unwrap();
    assert_eq!(shares(&sockets, address, 20), [0, 20]);
    drop(early);
}

#[test]
fn a_group_outlives_the_processes_that_made_it() {
    let (sockets, address) = group(4);
    attach_group_program(&sockets[0], &always(2)).unwrap();
    let kept: Vec<OwnedFd> = sockets.iter().map(|one| one.try_clone().unwrap()).collect();
    drop(sockets);
    assert_eq!(shares(&kept, address, 10), [0, 0, 10, 0]);
    // Of a group whose last members are gone the others keep their places.
    let kept: Vec<OwnedFd> = kept.into_iter().take(3).collect();
    attach_group_program(&kept[0], &always(1)).unwrap();
    assert_eq!(shares(&kept, address, 10), [0, 10, 0]);
    let next = socket::join_tcp(address, false).unwrap();
    socket::listen(&next).unwrap();
    let kept: Vec<OwnedFd> = kept.into_iter().chain([next]).collect();
    attach_group_program(&kept[0], &always(3)).unwrap();
    assert_eq!(shares(&kept, address, 10), [0, 0, 0, 10]);
}
