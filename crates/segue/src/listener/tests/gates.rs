//! Shut gates: what has begun is served, nobody new gets in, and nobody is reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use segue_sys::socket;
use segue_wire::node::{self, AddressType};

use super::{at, eventually, open, query, set, tcp, waiting};
use crate::handoff::Journal;
use crate::listener::Pool;
use crate::listener::pool::Opened;

fn check_gate(place: node::Place, host: &str, steered: bool) {
    let mut pool = Pool::new(steered, Journal::nowhere());
    let (address, _) = pool.asked(&query(place.clone(), 0)).expect("a place");
    assert_eq!(pool.open(at(address, 0)), Ok(Opened { steered }));
    if steered {
        pool.open(at(address, 1)).expect("the next one");
        pool.open(at(address, 2)).expect("the next one");
        pool.steer(address, &set(&[1, 2])).expect("they are open");
    }
    let local = pool.local(address).expect("it is open");
    let target = SocketAddr::new(host.parse().expect("an address"), local.port());
    let early: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(target).expect("it listens"))
        .collect();
    eventually(|| waiting(&pool, address).iter().sum::<u32>() == 60);

    pool.shut_gate(address);
    pool.shut_gate(address);
    assert_eq!(
        waiting(&pool, address).iter().sum::<u32>(),
        60,
        "ours are not among them"
    );
    let late = TcpStream::connect_timeout(&target, Duration::from_millis(50));
    assert_eq!(late.expect_err("no answer").kind(), ErrorKind::TimedOut);
    if steered {
        pool.steer(address, &set(&[0])).expect("it is open");
        assert_eq!(pool.open(at(address, 3)), Err(Errno::INVAL));
    }
    pool.raise_backlog(address);
    let later = socket::bind_tcp(SocketAddr::new(target.ip(), 0), false).expect("a free port");
    socket::connect(&later, target).expect("it begins");

    for index in 0..pool.queue_lengths(address).len() {
        let index = u16::try_from(index).expect("a small number");
        let listener = pool.lend(at(address, index)).expect("it is open");
        while let Ok(connection) = socket::accept(&listener) {
            let mut connection = TcpStream::from(connection);
            connection.write_all(b"served").expect("the client waits");
        }
    }
    let fixed = node::Place {
        port: Some(local.port().into()),
        ..place
    };
    pool.close(address);
    let mut successor = Pool::new(true, Journal::nowhere());
    let successors = open(&mut successor, fixed, 1);
    for mut client in early {
        let mut text = String::new();
        client.read_to_string(&mut text).expect("no reset");
        assert_eq!(text, "served");
    }
    // Who came too late repeats its SYN after a second and meets the next one to listen there.
    let listener = successor.lend(at(successors, 0)).expect("it is open");
    let mut listener = [PollFd::new(&listener, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut listener, Some(&patience)), Ok(1));
}

#[test]
fn a_shut_gate_loses_nobody() {
    check_gate(tcp(0), "127.0.0.1", true);
}

#[test]
fn a_shut_gate_of_one_socket_loses_nobody() {
    check_gate(tcp(0), "127.0.0.1", false);
}

#[test]
fn a_shut_dual_stack_gate_loses_nobody() {
    let any = node::Place {
        address: None,
        ..tcp(0)
    };
    check_gate(any, "::1", true);
}

#[test]
fn a_shut_v6_gate_loses_nobody() {
    let v6 = node::Place {
        address: Some("::".into()),
        flags: 1,
        address_type: AddressType::V6,
        ..tcp(0)
    };
    check_gate(v6, "::1", true);
}

#[test]
fn a_gate_shut_under_load_resets_nobody() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 4);
    pool.steer(address, &set(&[0, 1, 2, 3]))
        .expect("all are open");
    let target = pool.local(address).expect("it is open");
    let client = move || {
        let mut served = 0;
        loop {
            let mut client = match TcpStream::connect_timeout(&target, Duration::from_millis(300)) {
                Ok(client) => client,
                Err(error) if error.kind() == ErrorKind::TimedOut => return served,
                Err(error) => panic!("{error}"),
            };
            let mut text = String::new();
            client.read_to_string(&mut text).expect("no reset");
            assert_eq!(text, "served");
            served += 1;
        }
    };
    let clients = [(); 3].map(|()| std::thread::spawn(client));
    let listeners = [0, 1, 2, 3].map(|index| pool.lend(at(address, index)).expect("it is open"));
    let mut answered = 0;
    let mut serve = |until: &dyn Fn(u32) -> bool| {
        while !until(answered) {
            for connection in listeners
                .iter()
                .filter_map(|listener| socket::accept(listener).ok())
            {
                let mut connection = TcpStream::from(connection);
                connection.write_all(b"served").expect("the client waits");
                answered += 1;
            }
        }
    };
    serve(&|answered| answered > 500);
    pool.shut_gate(address);
    serve(&|_| clients.iter().all(std::thread::JoinHandle::is_finished));
    drop(listeners);
    pool.close(address);
    let served: u32 = clients
        .map(|client| client.join().expect("no failure"))
        .iter()
        .sum();
    assert_eq!(served, answered);
}
