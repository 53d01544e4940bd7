//! Connections of ours to one socket of a group.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::super::{NoWay, Way};
use super::*;
use segue_sys::diag;

/// A connection along the way, and where it comes from.
fn follow(way: Way) -> (OwnedFd, SocketAddr) {
    match way {
        Way::Tcp {
            socket,
            source,
            target,
        } => {
            socket::connect(&socket, target).expect("it listens");
            (socket, source)
        }
        Way::Connected(_) => panic!("it is no path"),
    }
}

fn v6(host: &str) -> node::Place {
    node::Place {
        address: Some(host.into()),
        port: Some(0),
        address_type: AddressType::V6,
        ..node::Place::default()
    }
}

#[test]
fn it_reaches_the_socket_that_it_is_for_and_clients_do_not() {
    for place in [tcp(0), v6("::"), v6("::1")] {
        let mut pool = Pool::new(true, Journal::nowhere());
        let address = open(&mut pool, place, 3);
        let way = pool.begin_probe(at(address, 2)).expect("a way");
        let (probe, source) = follow(way);
        eventually(|| waiting(&pool, address) == [0, 0, 1]);
        let local = pool.local(address).expect("it is open");
        let to = match local.is_ipv6() && local.ip().is_unspecified() {
            true => SocketAddr::from(([127, 0, 0, 1], local.port())),
            false => local,
        };
        let clients: Vec<_> = (0..10)
            .map(|_| TcpStream::connect(to).expect("it listens"))
            .collect();
        eventually(|| waiting(&pool, address) == [10, 0, 1]);
        pool.end_probe(address, source);
        drop((probe, clients));
    }
}

#[test]
fn neither_probes_nor_changes_of_the_set_are_lost() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 4);
    let first = pool.begin_probe(at(address, 2)).expect("a way");
    pool.steer(address, &set(&[1])).expect("it is open");
    let second = pool.begin_probe(at(address, 3)).expect("a way");
    let (first, source) = follow(first);
    pool.end_probe(address, source);
    let (second, _) = follow(second);
    let client = connect(&pool, address);
    eventually(|| waiting(&pool, address) == [0, 1, 1, 1]);
    drop((first, second, client));
}

#[test]
fn there_is_room_for_so_many_rules() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 1);
    let mut ways = Vec::new();
    let error = loop {
        match pool.begin_probe(at(address, 0)) {
            Ok(way) => ways.push(follow(way)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, NoWay::Busy), "{error:?}");
    assert_eq!(ways.len(), 16);
    pool.end_probe(address, ways[3].1);
    pool.begin_probe(at(address, 0)).expect("room for one");
}

#[test]
fn where_nobody_steers_there_is_no_way() {
    let mut pool = Pool::new(false, Journal::nowhere());
    let (address, _) = pool.asked(&query(tcp(0), 0)).expect("a place");
    pool.open(at(address, 0)).expect("it can be bound");
    let refused = pool.begin_probe(at(address, 0));
    assert!(matches!(refused, Err(NoWay::Unsteerable)), "{refused:?}");

    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 2);
    for unknown in [at(address, 2), at(AddressId(9), 0)] {
        assert!(matches!(pool.begin_probe(unknown), Err(NoWay::Failed(_))));
    }
    pool.shut_gate(address);
    assert!(matches!(
        pool.begin_probe(at(address, 1)),
        Err(NoWay::Failed(_))
    ));
}

#[test]
fn a_path_is_reached_beside_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 2);
    let Ok(Way::Connected(probe)) = pool.begin_probe(at(address, 1)) else {
        panic!("there is a way");
    };
    assert_eq!(waiting(&pool, address), [0, 1]);
    // Who has accepted it can be seen.
    assert_eq!(diag::unix_accepted(&probe).expect("it is known"), None);
    let theirs = pool.lend(at(address, 1)).expect("it is open");
    let accepted = socket::accept(&theirs).expect("it waits");
    let inode = diag::unix_accepted(&probe).expect("it is known");
    let inode = inode.expect("it has been accepted");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert_eq!(diag::has_socket(own, inode), Some(true));
    drop(accepted);
}

#[test]
fn who_has_accepted_it_can_be_seen() {
    for place in [tcp(0), v6("::"), v6("::1")] {
        let mut pool = Pool::new(true, Journal::nowhere());
        let address = open(&mut pool, place, 2);
        let Ok(Way::Tcp {
            socket: client,
            source,
            target,
        }) = pool.begin_probe(at(address, 1))
        else {
            panic!("there is a way");
        };
        socket::connect(&client, target).expect("it listens");
        eventually(|| waiting(&pool, address) == [0, 1]);
        let accepted = || diag::accepted(target, source).expect("it is known");
        assert_eq!(accepted(), None);
        let theirs = pool.lend(at(address, 1)).expect("it is open");
        let served = socket::accept(&theirs).expect("it waits");
        let inode = accepted().expect("it has been accepted");
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(diag::has_socket(own, inode), Some(true));
        drop(served);
        // Nothing of it is open any more.
        assert_ne!(diag::accepted(target, source).ok().flatten(), Some(inode));
        assert_eq!(diag::has_socket(own, inode), Some(false));
    }
}
