//! Sockets from a service manager: those that it listens at in the app's place, and those that it has
//! kept since all processes of the service died.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;
use segue_load::{Download, Fresh, Load, Phase};

use crate::drain::{assert_unnoticed, mixed};
use crate::harness::load::{Clients, assert_flawless};
use crate::harness::process::{self, Process};
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::systemd::Manager;
use crate::harness::{heavy, is_root, skip};
use crate::service::managed;

/// A client that has asked and waits for its answer.
struct Waiting<S>(S);

impl<S: Read + Write> Waiting<S> {
    fn ask(mut stream: S) -> Self {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("ask");
        Self(stream)
    }

    /// The version that answers.
    #[track_caller]
    fn version(mut self, run: &Run) -> String {
        let mut bytes = Vec::new();
        let read = self.0.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(
            read.is_ok(),
            "{read:?} after {text:?}\n{}",
            run.log.render()
        );
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("x-segue-version: "));
        version
            .unwrap_or_else(|| panic!("no version in {text:?}\n{}", run.log.render()))
            .to_owned()
    }
}

fn ask(address: SocketAddr) -> Waiting<TcpStream> {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
    Waiting::ask(stream)
}

fn ask_path(path: &Path) -> Waiting<UnixStream> {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
    Waiting::ask(stream)
}

/// Listens as a service manager does, and passes that on.
fn listener(launch: &Launch) -> (TcpListener, SocketAddr) {
    let port = launch.site.port.number();
    let listener = TcpListener::bind(("::", port)).expect("the test's own port");
    (listener, (Ipv4Addr::LOCALHOST, port).into())
}

fn passed(listener: impl Into<OwnedFd>) -> (String, OwnedFd) {
    ("web".to_owned(), listener.into())
}

fn copy(listener: &TcpListener) -> TcpListener {
    listener.try_clone().expect("copy a socket")
}

#[test]
fn a_listener_of_the_service_manager_is_served_from_before_the_start_to_after_the_end() {
    let _turn = heavy();
    let launch = Launch::node("recorded.js").recording();
    let (theirs, address) = listener(&launch);
    let early: Vec<_> = (0..20).map(|_| ask(address)).collect();
    let run = launch.clone().start_with(vec![passed(copy(&theirs))]);
    for client in early {
        assert_eq!(client.version(&run), "v1");
    }
    let app = run.app();
    let [address_of_app] = &app.addresses[..] else {
        panic!("one address: {app:#?}");
    };
    assert!(address_of_app.steered, "{address_of_app:?}");
    let answered = Record::answered_by(&run);
    // Its own clients do not notice a reload, as with any socket.
    let clients = Clients::start(mixed(50), address);
    clients.wait_for_answers(500);
    clients.mark("reload to v2", Phase::Reload);
    run.roll("v2", "recorded.js");
    clients.committed("v2");
    clients.wait_for_answers(500);
    assert_unnoticed(&clients.stop(), &run);
    assert!(answered > 0);
    run.finish();

    // Nobody is there, and nobody is refused.
    let late: Vec<_> = (0..20).map(|_| ask(address)).collect();
    let run = launch.start_with(vec![passed(theirs)]);
    for client in late {
        assert_eq!(client.version(&run), "v2");
    }
    run.finish();
}

struct Record;

impl Record {
    /// How many workers have answered somebody.
    fn answered_by(run: &Run) -> usize {
        let entries = std::fs::read_dir(run.site.path("record")).expect("read the records");
        entries.count()
    }
}

#[test]
fn it_goes_on_when_the_supervisor_is_killed_or_upgraded() {
    let launch = Launch::standin("");
    let (theirs, address) = listener(&launch);
    let run = launch.start_with(vec![passed(theirs)]);
    let load = Load::builder().with(Fresh {
        clients: 10,
        ..Fresh::default()
    });
    let clients = Clients::start(load, address);
    clients.wait_for_answers(100);
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::KILL);
    assert!(supervisor.ends_within(LIMIT));
    clients.wait_for_answers(100);
    run.segue(&["upgrade"]).expect(0);
    clients.wait_for_answers(100);
    run.segue(&["scale", "4"]).expect(0);
    run.until("four workers", |app| {
        app.workers.len() == 4 && app.addresses[0].set.len() == 4
    });
    run.roll("v2", "");
    clients.wait_for_answers(100);
    assert_flawless(&clients.stop(), &run);
    run.finish();
}

#[test]
fn who_passes_sockets_on_need_not_be_told_anything() {
    let launch = Launch::standin("");
    let other = launch.site.other_port.number();
    let unused = TcpListener::bind(("127.0.0.1", other)).expect("the test's own port");
    let (theirs, address) = listener(&launch);
    let sockets = vec![passed(copy(&theirs)), ("odd".to_owned(), unused.into())];
    let mut run = launch.clone().start_with(sockets);
    // Without a NOTIFY_SOCKET the main process is replaced, and what it held goes on.
    run.kill_main();
    assert_eq!(ask(address).version(&run), "v1");
    run.until("all sockets are known", |_| {
        let odd = format!("127.0.0.1:{other} (odd)");
        run.status().supervisor.unclaimed == [odd]
    });
    run.roll("v2", "");
    run.finish();
    let late = ask(address);
    let run = launch.start_with(vec![passed(theirs)]);
    assert_eq!(late.version(&run), "v2");
    run.finish();
}

#[test]
fn what_nobody_asks_for_stays_open_and_is_named() {
    let launch = Launch::node("plain.js").workers("1");
    let other = launch.site.other_port.number();
    let theirs = TcpListener::bind(("127.0.0.1", other)).expect("the test's own port");
    let inode = rustix::fs::fstat(&theirs).expect("look at it").st_ino;
    let run = launch.start_with(vec![("metrics".to_owned(), theirs.into())]);
    let name = format!("127.0.0.1:{other} (metrics)");
    run.log
        .wait_for(0, &format!("does not listen at {name}"), LIMIT);
    let is_named = || run.status().supervisor.unclaimed.iter().eq([&name]);
    assert!(is_named());
    run.segue(&["status"]).expect(0).says(&[&name]);
    let _client = TcpStream::connect(("127.0.0.1", other)).expect("it is open");

    // Neither the socket nor a word of it reaches a worker.
    let info = run.get("/info").json();
    for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        assert!(info["env"][variable].is_null(), "{variable}");
    }
    for worker in run.ready_pids() {
        let sockets = process::sockets_and_pipes(worker);
        assert!(
            !sockets.contains(&format!("socket:[{inode}]")),
            "{sockets:?}"
        );
    }
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::KILL);
    assert!(supervisor.ends_within(LIMIT));
    run.until("a successor", |_| is_named());
    let _client = TcpStream::connect(("127.0.0.1", other)).expect("it is still open");
    let said = run
        .log
        .lines()
        .iter()
        .filter(|line| line.text.contains("(metrics)"))
        .count();
    assert_eq!(said, 1, "once\n{}", run.log.render());
    run.finish();
}

#[test]
fn another_users_listener_is_shared_by_all_workers() {
    if !is_root() {
        return skip("only root can start a service as another user");
    }
    let launch = Launch::standin("").under_user(65_534);
    let (theirs, address) = listener(&launch);
    let early: Vec<_> = (0..5).map(|_| ask(address)).collect();
    let run = launch.clone().start_with(vec![passed(copy(&theirs))]);
    for client in early {
        assert_eq!(client.version(&run), "v1");
    }
    run.log.wait_for(0, "cannot be steered", LIMIT);
    assert!(!run.app().addresses[0].steered);
    run.roll("v2", "");
    // One socket for all: the old generation has a share until it is gone.
    run.until("the first generation is gone", |app| app.workers.len() == 2);
    assert_eq!(ask(address).version(&run), "v2");
    run.finish();
    let late: Vec<_> = (0..5).map(|_| ask(address)).collect();
    let run = launch.start_with(vec![passed(theirs)]);
    for client in late {
        assert_eq!(client.version(&run), "v2");
    }
    run.finish();
}

#[test]
fn a_path_of_the_service_manager_is_served_and_left_where_it_is() {
    let site = Launch::standin("never-ask").site;
    let path = site.path("app.sock");
    let launch = Launch::standin(&format!("path={}", path.display()));
    let theirs = UnixListener::bind(&path).expect("a free path");
    let early: Vec<_> = (0..5).map(|_| ask_path(&path)).collect();
    let copy = theirs.try_clone().expect("copy a socket");
    let run = launch.clone().start_with(vec![passed(copy)]);
    for client in early {
        assert_eq!(client.version(&run), "v1");
    }
    run.roll("v2", &format!("path={}", path.display()));
    // One socket for all: the old generation has a share until it is gone.
    run.until("the first generation is gone", |app| app.workers.len() == 2);
    assert_eq!(ask_path(&path).version(&run), "v2");
    run.finish();
    let late: Vec<_> = (0..5).map(|_| ask_path(&path)).collect();
    let run = launch.start_with(vec![passed(theirs)]);
    for client in late {
        assert_eq!(client.version(&run), "v2");
    }
    run.finish();
}

#[test]
fn sockets_of_another_process_are_not_taken() {
    let launch = Launch::standin("")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1");
    let run = launch.start();
    run.log.wait_for(0, "are for process 1, and this is", LIMIT);
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

/// Kills the main process and the supervisor, so that neither does anything about the other's death,
/// and waits until nothing is left.
fn kill_both(run: &Run) {
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    // The supervisor is not stopped, too: the kernel would wake it up when its parent dies, with a HUP.
    run.main.signal(Signal::STOP);
    for process in [&supervisor, &run.main] {
        process.signal(Signal::KILL);
        assert!(process.ends_within(LIMIT));
    }
    run.expect_nothing_left();
}

/// Names in the store of an address that is asked for without a host.
fn names(run: &Run, count: usize) -> Vec<String> {
    let port = run.site.port.number();
    let name = |index| format!("segue-listen/{index}/[%3A%3A]%3A{port}");
    (0..count).map(name).collect()
}

fn wait_until_kept(run: &Run, manager: &Manager, count: usize) {
    let expected = names(run, count);
    run.until("its sockets are kept", |_| manager.kept_names() == expected);
}

#[test]
fn when_all_processes_are_killed_connections_wait_for_the_next_start() {
    let _turn = heavy();
    let (launch, manager) = managed(Launch::node("plain.js"));
    let run = launch.clone().start();
    let address = run.address();
    wait_until_kept(&run, &manager, 2);
    run.roll("v2", "plain.js");
    run.until("the first generation is gone", |app| app.workers.len() == 2);
    wait_until_kept(&run, &manager, 4);
    assert_eq!(run.app().addresses[0].set, [2, 3]);
    // Nobody accepts any more: what comes now is in the queues of the workers' own sockets.
    for worker in run.ready_pids() {
        Process::open(worker).expect("it runs").signal(Signal::STOP);
    }
    let queued: Vec<_> = (0..20).map(|_| ask(address)).collect();
    kill_both(&run);
    drop(run);
    let between: Vec<_> = (0..20).map(|_| ask(address)).collect();

    let run = launch.clone().start_with(manager.kept());
    for client in queued.into_iter().chain(between) {
        assert_eq!(client.version(&run), "v2");
    }
    let app = run.app();
    assert!(app.addresses[0].steered);
    assert_eq!(
        app.stragglers.refused + app.stragglers.expired,
        0,
        "{app:#?}"
    );
    let clients = Clients::start(mixed(50), address);
    clients.wait_for_answers(300);
    clients.mark("reload to v3", Phase::Reload);
    run.roll("v3", "plain.js");
    clients.committed("v3");
    clients.wait_for_answers(300);
    assert_unnoticed(&clients.stop(), &run);

    // A second time, and with a supervisor that has taken over in between.
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::KILL);
    assert!(supervisor.ends_within(LIMIT));
    run.until("a successor", |_| true);
    wait_until_kept(&run, &manager, 4);
    kill_both(&run);
    drop(run);
    let between: Vec<_> = (0..20).map(|_| ask(address)).collect();
    let run = launch.start_with(manager.kept());
    for client in between {
        assert_eq!(client.version(&run), "v3");
    }
    let expected = names(&run, 4);
    run.finish();
    assert_eq!(manager.kept_names(), expected, "{}", manager.render());
}

/// `systemctl restart`: TERM, and a new start when all is over.
#[test]
fn a_whole_restart_refuses_nobody() {
    let _turn = heavy();
    let (launch, manager) = managed(Launch::node("plain.js").flag("--settle", "100ms"));
    let mut run = launch.clone().start();
    let address = run.address();
    wait_until_kept(&run, &manager, 2);
    // What is under way is let finish, what comes meanwhile waits, new processes answer it.
    let load = Load::builder()
        .with(Fresh {
            clients: 20,
            ..Fresh::default()
        })
        .with(Download::default())
        .connect_timeout(LIMIT);
    let clients = Clients::start(load, address);
    for round in 2..5 {
        clients.wait_for_answers(200);
        let mark = manager.mark();
        run.signal(Signal::TERM);
        manager.wait_for(mark, "STOPPING=1");
        let status = run.wait_for_end(LIMIT);
        assert_eq!(status.code(), Some(0), "{}", run.log.render());
        run.expect_nothing_left();
        drop(run);
        let between = ask(address);
        launch.site.deploy(&format!("v{round}"), "plain.js");
        run = launch.clone().start_with(manager.kept());
        assert_eq!(between.version(&run), format!("v{round}"));
        assert!(run.app().addresses[0].steered);
    }
    clients.wait_for_answers(200);
    assert_flawless(&clients.stop(), &run);
    run.finish();
}

#[test]
fn a_store_that_is_too_small_costs_no_connection_that_is_in_it() {
    let (launch, manager) = managed(Launch::standin("").workers("4"));
    let run = launch.clone().start();
    let address = run.address();
    wait_until_kept(&run, &manager, 4);
    kill_both(&run);
    drop(run);
    // One is missing from the middle: the others have other numbers by now.
    let mut kept = manager.kept();
    kept.retain(|(name, _)| !name.starts_with("segue-listen/1/"));
    assert_eq!(kept.len(), 3, "{}", manager.render());
    manager.forget("segue-listen/1/");
    let between: Vec<_> = (0..40).map(|_| ask(address)).collect();
    let run = launch.start_with(kept);
    for client in between {
        assert_eq!(client.version(&run), "v1");
    }
    assert!(!run.app().addresses[0].steered, "it says so");
    // Connections go to all of them, and all are served.
    let clients: Vec<_> = (0..40).map(|_| ask(address)).collect();
    for client in clients {
        assert_eq!(client.version(&run), "v1");
    }
    run.until("one is kept", |_| manager.kept_names() == names(&run, 1));
    run.roll("v2", "");
    run.until("the first generation is gone", |app| app.workers.len() == 4);
    assert_eq!(ask(address).version(&run), "v2");
    let expected = names(&run, 1);
    run.finish();
    assert_eq!(manager.kept_names(), expected, "{}", manager.render());
}

#[test]
fn a_path_is_kept_too() {
    let site = Launch::standin("never-ask").site;
    let path = site.path("app.sock");
    let words = format!("path={}", path.display());
    let (launch, manager) = managed(Launch::standin(&words));
    let run = launch.clone().start();
    run.roll("v2", &words);
    run.until("the first generation is gone", |app| app.workers.len() == 2);
    run.until("both are kept", |_| {
        let names = manager.kept_names();
        names
            .iter()
            .filter(|name| name.ends_with("/app.sock"))
            .count()
            == 2
    });
    kill_both(&run);
    drop(run);
    let between: Vec<_> = (0..10).map(|_| ask_path(&path)).collect();
    let run = launch.start_with(manager.kept());
    for client in between {
        assert_eq!(client.version(&run), "v2");
    }
    run.roll("v3", &words);
    assert_eq!(ask_path(&path).version(&run), "v3");
    run.finish();
    assert!(!path.exists());
    let left = std::fs::read_dir(site.path("")).expect("read the directory");
    let left = left.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<_> = left.filter(|name| name.starts_with(".segue-")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn what_was_kept_and_is_not_wanted_any_more_is_closed() {
    let (launch, manager) = managed(Launch::standin(""));
    let run = launch.clone().start();
    let address = run.address();
    wait_until_kept(&run, &manager, 2);
    kill_both(&run);
    let other = run.site.other_port.number();
    run.site.deploy("v2", &format!("port={other}"));
    drop(run);
    let mut between = TcpStream::connect(address).expect("it is kept");
    let run = launch.start_with(manager.kept());
    run.log
        .wait_for(0, "the app does not listen there any more", LIMIT);
    between.set_read_timeout(Some(LIMIT)).expect("set a limit");
    assert!(between.read(&mut [0]).is_err(), "it is told at once");
    run.until("it is kept no more", |_| {
        manager
            .kept_names()
            .iter()
            .all(|name| name.ends_with(&format!("%3A{other}")))
    });
    assert!(TcpStream::connect(address).is_err());
    run.finish();
}

/// systemd ends what is left of a service whose main process has died, and starts it again.
#[test]
fn when_the_main_process_is_killed_the_service_drains_and_its_sockets_stay() {
    let (launch, manager) = managed(Launch::node("plain.js"));
    let mut run = launch.clone().start();
    let address = run.address();
    wait_until_kept(&run, &manager, 2);
    let slow = TcpStream::connect(address).expect("connect");
    slow.set_read_timeout(Some(LIMIT)).expect("set a limit");
    let mut slow = slow;
    slow.write_all(b"GET /delay?ms=1500 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("ask");
    run.until("it is under way", |_| {
        run.app().addresses[0].queued == Some(0)
    });
    run.main.signal(Signal::KILL);
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), None, "{status}");
    run.log
        .wait_for(0, "the main process is gone: draining", LIMIT);
    let mut text = String::new();
    slow.read_to_string(&mut text).expect("it was let finish");
    assert!(text.contains("late"), "{text}");
    run.expect_nothing_left();
    assert_eq!(manager.kept_names(), names(&run, 2), "{}", manager.render());
    drop(run);
    let between: Vec<_> = (0..10).map(|_| ask(address)).collect();
    let run = launch.start_with(manager.kept());
    for client in between {
        assert_eq!(client.version(&run), "v1");
    }
    run.finish();
}

#[test]
fn sockets_of_workers_that_come_later_are_kept_too() {
    let (launch, manager) = managed(Launch::standin("").workers("1"));
    let run = launch.start();
    wait_until_kept(&run, &manager, 1);
    run.segue(&["scale", "3"]).expect(0);
    wait_until_kept(&run, &manager, 3);
    let expected = names(&run, 3);
    run.finish();
    assert_eq!(manager.kept_names(), expected, "{}", manager.render());
}

#[test]
fn a_start_that_fails_leaves_what_is_kept_for_the_next_one() {
    let (launch, manager) = managed(Launch::standin(""));
    let run = launch.clone().start();
    let address = run.address();
    wait_until_kept(&run, &manager, 2);
    kill_both(&run);
    let expected = names(&run, 2);
    drop(run);
    let between: Vec<_> = (0..10).map(|_| ask(address)).collect();
    launch.site.deploy("v2", "exit-at-boot=3");
    let mut run = launch.clone().spawn_with(manager.kept());
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(1), "{}", run.log.render());
    run.expect_nothing_left();
    assert_eq!(manager.kept_names(), expected, "{}", manager.render());
    drop(run);
    launch.site.deploy("v3", "");
    let run = launch.start_with(manager.kept());
    for client in between {
        assert_eq!(client.version(&run), "v3");
    }
    run.finish();
}
