//! The pool against the real kernel, on loopback and in a directory of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use segue_core::{AddressId, AddressKind, SocketIndex, SocketRef, WorkerId};
use segue_sys::socket;
use segue_wire::node::{self, AddressType, QueryServer};
use serde_json::{Value, json};

use super::Pool;
use super::pool::Opened;
use crate::handoff::Journal;

mod gates;
mod inherited;
mod paths;
mod probes;

const WORKER: WorkerId = WorkerId(1);

pub(super) fn query(place: node::Place, index: u64) -> QueryServer {
    QueryServer {
        seq: 1,
        index,
        data: Value::Null,
        place,
    }
}

pub(super) fn tcp(port: i64) -> node::Place {
    node::Place {
        address: Some("127.0.0.1".into()),
        port: Some(port),
        address_type: AddressType::V4,
        ..node::Place::default()
    }
}

fn at_path(path: &Path) -> node::Place {
    node::Place {
        address: path.to_str().map(str::to_owned),
        port: Some(-1),
        address_type: AddressType::Path,
        ..node::Place::default()
    }
}

pub(super) fn at(address: AddressId, index: u16) -> SocketRef {
    let index = SocketIndex(index);
    SocketRef { address, index }
}

fn set(indexes: &[u16]) -> Vec<(SocketIndex, u32)> {
    let indexes = indexes.iter().copied().map(SocketIndex);
    indexes.map(|index| (index, 1)).collect()
}

/// Opens `count` sockets of a place.
pub(super) fn open(pool: &mut Pool, place: node::Place, count: u16) -> AddressId {
    let (address, _) = pool.asked(&query(place, 0)).expect("a place");
    for index in 0..count {
        let opened = pool.open(at(address, index));
        assert_eq!(opened, Ok(Opened { steered: true }));
    }
    address
}

pub(super) fn connect(pool: &Pool, address: AddressId) -> TcpStream {
    TcpStream::connect(pool.local(address).expect("it is open")).expect("it listens")
}

/// Waits until the kernel has got there: what a client has begun may end a moment later.
pub(super) fn eventually(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never was so");
        std::thread::yield_now();
    }
}

fn waiting(pool: &Pool, address: AddressId) -> Vec<u32> {
    let lengths = pool.queue_lengths(address);
    lengths
        .into_iter()
        .map(|length| length.expect("it listens"))
        .collect()
}

#[test]
fn new_connections_go_to_the_set_only() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 4);
    let clients: Vec<_> = (0..20).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address) == [20, 0, 0, 0]);

    pool.steer(address, &set(&[3, 1])).expect("both are open");
    let more: Vec<_> = (0..400).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address).iter().sum::<u32>() == 420);
    let lengths = waiting(&pool, address);
    assert_eq!([lengths[0], lengths[2]], [20, 0]);
    assert!(lengths[1].abs_diff(lengths[3]) < 120, "{lengths:?}");
    drop((clients, more));
}

#[test]
fn weights_are_kept() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 3);
    pool.steer(address, &[(SocketIndex(2), 1), (SocketIndex(1), 9)])
        .expect("both are open");
    let clients: Vec<_> = (0..1_000).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address).iter().sum::<u32>() == 1_000);
    let lengths = waiting(&pool, address);
    assert_eq!(lengths[0], 0);
    // Six standard deviations around 100.
    assert!((43..157).contains(&lengths[2]), "{lengths:?}");
    drop(clients);
}

#[test]
fn a_set_that_makes_no_sense_is_refused() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 2);
    for nonsense in [&[][..], &[2], &[0, 9], &[1, 1]] {
        let refused = pool
            .steer(address, &set(nonsense))
            .expect_err("no such socket");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
    assert!(pool.steer(AddressId(77), &set(&[0])).is_err());
    assert_eq!(
        pool.open(at(address, 3)),
        Err(Errno::INVAL),
        "not the next one"
    );
    assert!(pool.lend(at(address, 2)).is_err());
    // What was refused has changed nothing.
    let _client = connect(&pool, address);
    eventually(|| waiting(&pool, address) == [1, 0]);
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = holder.local_addr().expect("it is bound").port();
    let mut pool = Pool::new(true, Journal::nowhere());
    let (address, kind) = pool.asked(&query(tcp(port.into()), 0)).expect("a place");
    assert_eq!(kind, AddressKind::Steered);
    assert_eq!(pool.open(at(address, 0)), Err(Errno::ADDRINUSE));
    assert_eq!(pool.describe(address), format!("127.0.0.1:{port}"));
    drop(holder);
    assert_eq!(pool.open(at(address, 0)), Ok(Opened { steered: true }));
    // Another supervisor of the same user.
    let mut other = Pool::new(true, Journal::nowhere());
    let (theirs, _) = other.asked(&query(tcp(port.into()), 0)).expect("a place");
    assert_eq!(other.open(at(theirs, 0)), Err(Errno::ADDRINUSE));

    pool.close(address);
    assert_eq!(other.open(at(theirs, 0)), Ok(Opened { steered: true }));
}

#[test]
fn without_a_host_both_families_are_served() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let anywhere = node::Place {
        address: None,
        ..tcp(0)
    };
    let address = open(&mut pool, anywhere, 2);
    let port = pool.local(address).expect("it is open").port();
    assert_eq!(pool.describe(address), format!("[::]:{port}"));
    let clients = ["127.0.0.1", "::1"].map(|host| TcpStream::connect((host, port)));
    assert!(clients.iter().all(Result::is_ok));
}

#[test]
fn port_0_becomes_one_port_for_all() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let first = open(&mut pool, tcp(0), 2);
    let (second, _) = pool.asked(&query(tcp(0), 1)).expect("a place");
    pool.open(at(second, 0)).expect("another free port");
    let port = |address| pool.local(address).map(|local| i64::from(local.port()));
    let (first_port, second_port) = (port(first), port(second));
    assert_ne!(first_port, second_port);
    let listened = |port: Option<i64>, index| pool.listened(&tcp(port.expect("a port")), index);
    assert_eq!(listened(first_port, 0), Some(first));
    assert_eq!(listened(second_port, 1), Some(second));
    assert_eq!(listened(second_port, 0), None);
}

#[test]
fn where_steering_is_refused_there_is_one_socket() {
    let mut pool = Pool::new(false, Journal::nowhere());
    let (address, _) = pool.asked(&query(tcp(0), 0)).expect("a place");
    assert_eq!(pool.open(at(address, 0)), Ok(Opened { steered: false }));
    assert_eq!(pool.open(at(address, 1)), Err(Errno::INVAL));
    pool.steer(address, &set(&[0])).expect("nothing to do");
    let local = pool.local(address).expect("it is open");
    let stranger = socket::join_tcp(local, false).expect_err("the port is not shared");
    assert_eq!(stranger.kind(), ErrorKind::AddrInUse);
}

#[test]
fn udp_and_abstract_sockets_are_single() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let udp = node::Place {
        address_type: AddressType::Udp4,
        ..tcp(0)
    };
    let (address, kind) = pool.asked(&query(udp, 0)).expect("a place");
    assert_eq!(kind, AddressKind::Single);
    pool.open(at(address, 0)).expect("a free port");
    assert!(pool.describe(address).starts_with("udp 127.0.0.1:"));
    assert_eq!(pool.queue_lengths(address), [None]);
    pool.raise_backlog(address);
    pool.shut_gate(address);

    let name = format!("/srv/\0segue-pool-{}", std::process::id());
    let (address, kind) = pool
        .asked(&query(at_path(Path::new(&name)), 0))
        .expect("a place");
    assert_eq!(kind, AddressKind::Single);
    pool.open(at(address, 0)).expect("a free name");
    assert_eq!(waiting(&pool, address), [0]);
}

#[test]
fn a_workers_own_descriptor_is_adopted() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let theirs = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let local = theirs.local_addr().expect("it is bound");
    let place = node::Place {
        fd: Some(7),
        address_type: AddressType::Fd,
        ..node::Place::default()
    };
    let (address, kind) = pool.asked(&query(place, 0)).expect("a place");
    assert_eq!(kind, AddressKind::Single);
    assert_eq!(pool.open(at(address, 0)), Err(Errno::BADF));
    pool.adopt(address, OwnedFd::from(theirs));
    pool.open(at(address, 0)).expect("it is there");
    let lent = pool.lend(at(address, 0)).expect("it is open");
    assert_eq!(socket::local_address(&lent).expect("it is bound"), local);
}

#[test]
fn an_address_keeps_its_number_and_tickets() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 1);
    let keys = |byte: &str| json!({"ticketKeys": byte.repeat(48)});
    assert_eq!(pool.ticket_data(address, &Value::Null), Value::Null);
    assert_eq!(pool.ticket_data(address, &keys("0a")), keys("0a"));
    pool.close(address);
    assert_eq!(pool.local(address), None);
    assert_eq!(
        pool.asked(&query(tcp(0), 0)),
        Ok((address, AddressKind::Steered))
    );
    assert_eq!(pool.open(at(address, 0)), Ok(Opened { steered: true }));
    assert_eq!(pool.ticket_data(address, &keys("0b")), keys("0a"));
}

#[test]
fn a_workers_short_queue_is_raised() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 1);
    let worker = pool.lend(at(address, 0)).expect("it is open");
    rustix::net::listen(&worker, 1).expect("it is bound");
    pool.raise_backlog(address);
    let clients: Vec<_> = (0..30).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address) == [30]);
    drop(clients);
}

#[test]
fn a_worker_settles_when_its_queue_is_empty() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 2);
    let _client = connect(&pool, address);
    eventually(|| waiting(&pool, address) == [1, 0]);
    pool.steer(address, &set(&[1])).expect("it is open");
    pool.begin_settle(WORKER, &[at(address, 0)]);
    assert!(!pool.check_settled(WORKER));
    let worker = pool.lend(at(address, 0)).expect("it is open");
    socket::accept(&worker).expect("one waits");
    assert!(pool.check_settled(WORKER));
    assert!(pool.check_settled(WorkerId(9)), "nothing is known of it");
}

#[test]
fn a_socket_in_the_set_is_not_waited_for() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 1);
    let _client = connect(&pool, address);
    eventually(|| waiting(&pool, address) == [1]);
    pool.begin_settle(WORKER, &[at(address, 0), at(AddressId(77), 0)]);
    assert!(pool.check_settled(WORKER));
    // Behind a shut gate its queue comes to an end.
    pool.shut_gate(address);
    pool.begin_settle(WORKER, &[at(address, 0)]);
    assert!(!pool.check_settled(WORKER));
}

#[test]
fn a_queue_survives_its_worker_and_feeds_the_next() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 2);
    let worker = pool.lend(at(address, 0)).expect("it is open");
    let mut client = connect(&pool, address);
    eventually(|| waiting(&pool, address) == [1, 0]);
    drop(worker);
    pool.steer(address, &set(&[1])).expect("it is open");
    let successor = pool.lend(at(address, 0)).expect("it is open");
    let connection = socket::accept(&successor).expect("one waits");
    TcpStream::from(connection)
        .write_all(b"ok")
        .expect("the client waits");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("no reset");
    assert_eq!(text, "ok");
}

#[test]
fn loopback_addresses_are_told_apart() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 1);
    let port = pool.local(address).expect("it is open").port();
    let elsewhere = node::Place {
        address: Some("127.0.0.2".into()),
        ..tcp(port.into())
    };
    let other = open(&mut pool, elsewhere, 1);
    assert_ne!(other, address);
    let local = SocketAddr::from(([127, 0, 0, 2], port));
    assert_eq!(pool.local(other), Some(local));
}
