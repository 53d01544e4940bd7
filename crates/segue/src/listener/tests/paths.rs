//! Unix-domain paths: cut-over, whose path it is, and what is left behind.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::io::Errno;
use segue_core::{AddressKind, SocketRef};
use segue_sys::socket;
use segue_wire::node;

use super::{at, at_path, open, query, set, waiting};
use crate::handoff::Journal;
use crate::listener::Pool;

/// Says something to whoever listens at the path, and what they answer.
fn queue_at(path: &Path) -> UnixStream {
    UnixStream::connect(path).expect("somebody listens")
}

fn answer(pool: &Pool, socket: SocketRef, text: &str) -> usize {
    let listener = pool.lend(socket).expect("it is open");
    let mut answered = 0;
    while let Ok(connection) = socket::accept(&listener) {
        let mut connection = UnixStream::from(connection);
        connection
            .write_all(text.as_bytes())
            .expect("the client waits");
        answered += 1;
    }
    answered
}

fn hear(mut client: UnixStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("no reset");
    text
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_path_is_cut_over_and_back_in_one_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 1);
    assert_eq!(pool.describe(address), path.display().to_string());
    assert_eq!(
        names_in(directory.path()).len(),
        2,
        "the path and the socket's own name"
    );

    let old_client = queue_at(&path);
    pool.open(at(address, 1)).expect("a second one");
    let still_old = queue_at(&path);
    pool.steer(address, &set(&[1])).expect("it moves");
    let new_client = queue_at(&path);
    assert_eq!(waiting(&pool, address), [2, 1]);
    assert_eq!(answer(&pool, at(address, 0), "old"), 2);
    assert_eq!(answer(&pool, at(address, 1), "new"), 1);
    assert_eq!(
        [old_client, still_old, new_client].map(hear),
        ["old", "old", "new"]
    );

    pool.steer(address, &set(&[0])).expect("it moves back");
    pool.steer(address, &set(&[0]))
        .expect("it is there already");
    let client = queue_at(&path);
    assert_eq!(answer(&pool, at(address, 0), "old"), 1);
    assert_eq!(hear(client), "old");
    assert!(
        pool.steer(address, &set(&[0, 1])).is_err(),
        "one path, one socket"
    );

    pool.close(address);
    assert!(names_in(directory.path()).is_empty());
}

#[test]
fn cutting_a_path_over_under_load_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 2);
    let client = std::thread::spawn(move || {
        (0..2_000)
            .filter(|_| UnixStream::connect(&path).is_err())
            .count()
    });
    let mut flips = 0;
    while !client.is_finished() {
        pool.steer(address, &set(&[flips % 2])).expect("it moves");
        for index in 0..2 {
            let listener = pool.lend(at(address, index)).expect("it is open");
            while socket::accept(&listener).is_ok() {}
        }
        flips += 1;
    }
    assert_eq!(client.join().expect("it ends"), 0, "after {flips} flips");
}

#[test]
fn only_a_stale_path_is_taken_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let (address, kind) = pool.asked(&query(at_path(&path), 0)).expect("a place");
    assert_eq!(kind, AddressKind::Path);

    std::fs::write(&path, "precious").expect("writable");
    assert_eq!(pool.open(at(address, 0)), Err(Errno::ADDRINUSE));
    std::fs::remove_file(&path).expect("writable");

    let holder = UnixListener::bind(&path).expect("a free path");
    assert_eq!(pool.open(at(address, 0)), Err(Errno::ADDRINUSE));
    drop(holder);
    assert_eq!(names_in(directory.path()), ["app.sock"]);

    pool.open(at(address, 0)).expect("it was stale");
    let _client = queue_at(&path);
    pool.close(address);
    assert!(names_in(directory.path()).is_empty());
}

#[test]
fn a_path_that_somebody_else_took_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 2);
    std::fs::remove_file(&path).expect("writable");
    pool.steer(address, &set(&[1]))
        .expect("a path that is gone comes back");
    let _client = queue_at(&path);

    std::fs::remove_file(&path).expect("writable");
    let _holder = UnixListener::bind(&path).expect("a free path");
    let refused = pool
        .steer(address, &set(&[0]))
        .expect_err("it is theirs now");
    assert_eq!(
        refused.raw_os_error(),
        Some(Errno::ADDRINUSE.raw_os_error())
    );
    pool.close(address);
    let _client = queue_at(&path);
    assert_eq!(names_in(directory.path()), ["app.sock"]);
}

#[test]
fn a_path_that_a_worker_unlinked_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 2);
    for index in [0, 1] {
        pool.steer(address, &set(&[index])).expect("it moves");
        std::fs::remove_file(&path).expect("writable");
        pool.heal_path(address);
        let client = queue_at(&path);
        assert_eq!(answer(&pool, at(address, index), "served"), 1);
        assert_eq!(hear(client), "served");
    }
    std::fs::remove_file(&path).expect("writable");
    let _holder = UnixListener::bind(&path).expect("a free path");
    pool.heal_path(address);
    pool.close(address);
    let _client = queue_at(&path);
    assert_eq!(names_in(directory.path()), ["app.sock"]);
}

#[test]
fn permissions_of_the_path_outlive_a_cut_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mode = || {
        std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode()
            & 0o777
    };
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 3);
    let usual = mode();
    pool.steer(address, &set(&[1])).expect("it moves");
    assert_eq!(mode(), usual);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("ours");
    for index in [2, 0, 1] {
        pool.steer(address, &set(&[index])).expect("it moves");
        assert_eq!(mode(), 0o660, "socket {index}");
    }
}

#[test]
fn a_missing_directory_is_the_apps_error() {
    let mut pool = Pool::new(true, Journal::nowhere());
    let missing = at_path(Path::new("/no/such/directory/app.sock"));
    let (address, _) = pool.asked(&query(missing, 0)).expect("a place");
    assert_eq!(pool.open(at(address, 0)), Err(Errno::NOENT));
}

#[test]
fn permissions_come_with_the_question() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let place = node::Place {
        readable_all: true,
        writable_all: true,
        ..at_path(&path)
    };
    open(&mut pool, place, 1);
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o666, 0o666);
}

#[test]
fn a_path_behind_a_shut_gate_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let mut pool = Pool::new(true, Journal::nowhere());
    let address = open(&mut pool, at_path(&path), 2);
    let early = queue_at(&path);
    pool.shut_gate(address);
    let refused = UnixStream::connect(&path).expect_err("the path is gone");
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    pool.steer(address, &set(&[1])).expect("it is open");
    assert!(!path.exists(), "and stays so");
    assert_eq!(answer(&pool, at(address, 0), "served"), 1);
    pool.close(address);
    assert_eq!(hear(early), "served");
}
