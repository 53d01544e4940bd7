//! Sockets that were there before the pool: from a service manager that listens itself, and from one
//! that has kept them since an earlier life.

use std::io::Write;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;
use crate::listener::Inheritance;
use crate::listener::inherit::stored_name;

/// What a service manager passes on, under these names.
fn passed(sockets: Vec<(String, OwnedFd)>) -> Inheritance {
    let held = sockets
        .into_iter()
        .enumerate()
        .map(|(number, (name, socket))| (format!("activation/{number}/{name}"), socket));
    Inheritance::of(held.collect(), Journal::nowhere())
}

fn pool_with(sockets: Vec<(String, OwnedFd)>) -> Pool {
    let mut pool = Pool::new(true, Journal::nowhere());
    pool.inherit(passed(sockets));
    pool
}

fn activated(socket: impl Into<OwnedFd>) -> Vec<(String, OwnedFd)> {
    vec![("web".to_owned(), socket.into())]
}

/// As a service manager makes it.
fn listener() -> (OwnedFd, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener.into(), port)
}

/// All sockets of an address, as a service manager has kept them when everybody has died.
fn kept(pool: &Pool, address: AddressId, count: u16) -> Vec<(String, OwnedFd)> {
    let place = pool.place(address).expect("it was asked for");
    (0..count)
        .map(|index| {
            let name = stored_name(place, index).expect("a short name");
            (name, pool.lend(at(address, index)).expect("it is open"))
        })
        .collect()
}

fn indexes(sockets: &[SocketRef]) -> Vec<u16> {
    sockets.iter().map(|socket| socket.index.0).collect()
}

#[test]
fn a_listener_of_the_service_manager_becomes_a_group_with_its_queue() {
    let (theirs, port) = listener();
    let early = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let mut pool = pool_with(activated(theirs.try_clone().expect("a copy")));
    assert_eq!(pool.unclaimed(), [format!("127.0.0.1:{port} (web)")]);
    let address = open(&mut pool, tcp(port.into()), 1);
    assert_eq!(pool.unclaimed(), Vec::<String>::new());
    // The second one is there already: it takes two to make a group.
    assert_eq!(indexes(&pool.spares(address)), [1]);
    assert!(
        pool.steer(address, &set(&[1])).is_err(),
        "nobody has opened it"
    );
    let clients: Vec<_> = (0..10).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address) == [11, 0]);

    for index in [1, 2] {
        assert_eq!(pool.open(at(address, index)), Ok(Opened { steered: true }));
    }
    assert_eq!(pool.spares(address), []);
    pool.steer(address, &set(&[1, 2])).expect("both are open");
    let more: Vec<_> = (0..100).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address).iter().sum::<u32>() == 111);
    assert_eq!(waiting(&pool, address)[0], 11);

    // At our end it is as it was: clients wait there for whoever is started next.
    pool.shut_gate(address);
    pool.close(address);
    drop(pool);
    let late = TcpStream::connect(("127.0.0.1", port)).expect("it still listens");
    let mut pool = pool_with(activated(theirs));
    let address = open(&mut pool, tcp(port.into()), 3);
    let again = connect(&pool, address);
    eventually(|| waiting(&pool, address) == [13, 0, 0]);
    drop((early, clients, more, late, again));
}

#[test]
fn a_group_that_was_kept_is_as_it_was() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 4);
    pool.steer(address, &set(&[2])).expect("it is open");
    let port = pool.local(address).expect("it is bound").port();
    let clients: Vec<_> = (0..10).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address) == [0, 0, 10, 0]);
    let mut kept = kept(&pool, address, 4);
    drop(pool);
    // Nobody is there; connections go on to arrive.
    let late = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    kept.reverse();

    let mut pool = pool_with(kept);
    assert!(pool.has_unwanted() && pool.unclaimed().is_empty());
    let address = open(&mut pool, tcp(0), 1);
    assert!(!pool.has_unwanted());
    let local = pool.local(address).expect("it is bound");
    assert_eq!(local.port(), port, "port 0 keeps its number");
    eventually(|| waiting(&pool, address) == [0, 0, 11, 0]);
    assert_eq!(indexes(&pool.spares(address)), [1, 2, 3]);
    for index in 1..6 {
        assert_eq!(pool.open(at(address, index)), Ok(Opened { steered: true }));
    }
    for index in 0..6_u16 {
        pool.steer(address, &set(&[index])).expect("it is open");
        let before = waiting(&pool, address);
        let _client = connect(&pool, address);
        eventually(|| waiting(&pool, address)[usize::from(index)] > before[usize::from(index)]);
    }
    drop((clients, late));
}

#[test]
fn of_a_group_that_is_not_whole_no_connection_is_lost() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 4);
    pool.steer(address, &set(&[0, 1, 2, 3]))
        .expect("all are open");
    let clients: Vec<_> = (0..40).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address).iter().sum::<u32>() == 40);
    let mut kept = kept(&pool, address, 4);
    let lost = waiting(&pool, address)[1];
    drop(kept.remove(1));
    drop(pool);

    let mut pool = pool_with(kept);
    let (address, _) = pool.asked(&query(tcp(0), 0)).expect("a place");
    let opened = pool.open(at(address, 0));
    assert_eq!(
        opened,
        Ok(Opened { steered: false }),
        "their order is not known"
    );
    let more: Vec<_> = (0..40).map(|_| connect(&pool, address)).collect();
    eventually(|| waiting(&pool, address).iter().sum::<u32>() == 80 - lost);
    assert_eq!(
        indexes(&pool.spares(address)),
        [1, 2],
        "all are looked after"
    );
    assert!(pool.open(at(address, 1)).is_err());
    pool.shut_gate(address);
    pool.close(address);
    drop((clients, more));
}

#[test]
fn what_is_not_asked_for_is_closed_or_named() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, tcp(0), 2);
    let local = pool.local(address).expect("it is bound");
    let mut waits = connect(&pool, address);
    let mut passed = kept(&pool, address, 2);
    drop(pool);
    let file = std::fs::File::open("/dev/null").expect("it is there");
    passed.push(("odd".to_owned(), file.into()));
    let mut pool = pool_with(passed);
    let _other = open(&mut pool, tcp(0), 0);
    assert_eq!(pool.unclaimed(), ["no listening socket (odd)"]);
    waits.set_nonblocking(true).expect("it is open");
    let is_waiting = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
    let mut ends = || !waits.read(&mut [0]).is_err_and(|error| is_waiting(&error));
    assert!(!ends());
    let closed: Vec<String> = pool.close_unwanted().into_iter().collect();
    assert_eq!(closed, [local.to_string()]);
    eventually(ends);
    assert!(!pool.has_unwanted());
}

#[test]
fn a_path_that_was_kept_goes_on_and_is_taken_away_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 2);
    let first = UnixStream::connect(&path).expect("it listens");
    pool.steer(address, &set(&[1])).expect("it is open");
    let second = UnixStream::connect(&path).expect("it listens");
    let kept = kept(&pool, address, 2);
    drop(pool);
    let third = UnixStream::connect(&path).expect("it listens");

    let mut pool = pool_with(kept);
    let address = open(&mut pool, at_path(&path), 1);
    assert_eq!(
        waiting(&pool, address),
        [2, 1],
        "the one on the path is first"
    );
    assert_eq!(indexes(&pool.spares(address)), [1]);
    assert_eq!(pool.open(at(address, 1)), Ok(Opened { steered: true }));
    assert_eq!(pool.open(at(address, 2)), Ok(Opened { steered: true }));
    for index in [1, 2, 0] {
        pool.steer(address, &set(&[index])).expect("it is open");
        let before = waiting(&pool, address)[usize::from(index)];
        let _client = UnixStream::connect(&path).expect("it listens");
        assert_eq!(waiting(&pool, address)[usize::from(index)], before + 1);
    }
    pool.shut_gate(address);
    pool.close(address);
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("it is there")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    drop((first, second, third));
}

#[test]
fn a_path_that_was_kept_and_is_gone_is_made_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 1);
    let kept = kept(&pool, address, 1);
    drop(pool);
    for entry in std::fs::read_dir(directory.path()).expect("it is there") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("remove it");
    }
    let mut pool = pool_with(kept);
    let address = open(&mut pool, at_path(&path), 1);
    let _client = UnixStream::connect(&path).expect("it listens");
    assert_eq!(waiting(&pool, address), [1]);
}

#[test]
fn a_path_of_the_service_manager_stays_its() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let theirs = UnixListener::bind(&path).expect("a free path");
    let first = UnixStream::connect(&path).expect("it listens");
    let mut pool = pool_with(activated(theirs.try_clone().expect("a copy")));
    let (address, kind) = pool.asked(&query(at_path(&path), 0)).expect("a place");
    assert_eq!(kind, AddressKind::Single, "no generation replaces it");
    assert_eq!(pool.open(at(address, 0)), Ok(Opened { steered: true }));
    assert_eq!(waiting(&pool, address), [1]);
    assert!(pool.open(at(address, 1)).is_err());
    let (_, kind) = pool.asked(&query(at_path(&path), 0)).expect("a place");
    assert_eq!(kind, AddressKind::Single);
    pool.shut_gate(address);
    pool.close(address);
    drop(pool);
    let second = UnixStream::connect(&path).expect("it still listens");
    theirs.set_nonblocking(true).expect("it is open");
    let accepted = std::iter::from_fn(|| theirs.accept().ok());
    assert_eq!(accepted.count(), 2);
    drop((first, second));
}

#[test]
fn datagrams_and_abstract_names_come_too() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let local = udp.local_addr().expect("it is bound");
    let name = format!("segue-inherited-{}", std::process::id());
    let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(&name);
    let listener = UnixListener::bind_addr(&abstract_name.expect("a name"));
    let listener = listener.expect("a free name");
    let mut pool = pool_with(vec![
        ("udp".to_owned(), udp.into()),
        ("abstract".to_owned(), listener.into()),
    ]);
    let place = node::Place {
        address: Some("127.0.0.1".into()),
        port: Some(local.port().into()),
        address_type: AddressType::Udp4,
        ..node::Place::default()
    };
    let address = open(&mut pool, place, 1);
    assert_eq!(pool.local(address), Some(local));
    let place = node::Place {
        address: Some(format!("/anywhere/\0{name}")),
        ..at_path(Path::new("/"))
    };
    let _address = open(&mut pool, place, 1);
    assert_eq!(pool.unclaimed(), Vec::<String>::new());
}

#[test]
fn a_socket_that_cannot_be_shared_is_left_as_it_is() {
    let (theirs, port) = listener();
    let mut pool = Pool::new(false, Journal::nowhere());
    pool.inherit(passed(activated(theirs.try_clone().expect("a copy"))));
    let (address, _) = pool.asked(&query(tcp(port.into()), 0)).expect("a place");
    assert_eq!(pool.open(at(address, 0)), Ok(Opened { steered: false }));
    let first = connect(&pool, address);
    pool.shut_gate(address);
    // No filter and no short queue: whoever is started next has these.
    let clients: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it listens"))
        .collect();
    eventually(|| waiting(&pool, address) == [21]);
    pool.close(address);
    drop(pool);
    let theirs = TcpListener::from(theirs);
    let (mut served, _) = theirs.accept().expect("it is whole");
    served.write_all(b"ok").expect("it is connected");
    drop((first, clients));
}
