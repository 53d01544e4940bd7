//! One `segue run` under test, from its command line to the proof that nothing of it is left.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_wire::control::{App, AppPhase, Status, WorkerPhase};

use super::command::{Outcome, Pending};
use super::http::{self, Answer};
use super::main_process::{AS_MAIN, Main, Started};
use super::nodes::{Node, frameworks};
use super::output::{Log, Stream};
use super::process::{self, MARK, Process};
use super::site::{Program, Site};
use super::terminal::Terminal;

/// How long anything may take that is not measured.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// What is to be run, and how. Clones run at the same place, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) site: Arc<Site>,
    binary: PathBuf,
    prefix: Vec<OsString>,
    flags: Vec<OsString>,
    script: Option<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    workers: String,
    holds_stdout: bool,
    /// The working directory is left to a file.
    names_no_cwd: bool,
    /// Leaves the place of the control socket to the supervisor; `--name` is then needed.
    pub(crate) default_control: bool,
}

impl Launch {
    /// A fixture as version `v1`, with two workers and short times.
    pub(crate) fn node(fixture: &str) -> Self {
        let extension = fixture.rsplit('.').next().unwrap_or("js");
        let script = format!("server.{extension}");
        Self::of(
            Site::new(Program::Fixture {
                script: script.clone(),
            }),
            fixture,
            script.into(),
        )
    }

    /// The stand-in as version `v1`; without `port=` it listens at the test's port.
    pub(crate) fn standin(words: &str) -> Self {
        Self::of(Site::new(Program::Standin), words, super::standin().into())
    }

    fn of(site: Site, what: &str, script: OsString) -> Self {
        site.deploy("v1", what);
        let mut launch = Self {
            site: Arc::new(site),
            binary: env!("CARGO_BIN_EXE_segue").into(),
            prefix: Vec::new(),
            flags: Vec::new(),
            script: Some(script),
            arguments: Vec::new(),
            environment: Vec::new(),
            workers: "2".to_owned(),
            holds_stdout: false,
            names_no_cwd: false,
            default_control: false,
        };
        for (flag, value) in [
            ("--min-uptime", "200ms"),
            ("--settle", "200ms"),
            ("--ready-timeout", "20s"),
            ("--kill-after", "2s"),
        ] {
            launch = launch.flag(flag, value);
        }
        launch
    }

    /// A flag with its value; the last one of a name counts.
    pub(crate) fn flag(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        if let Some(at) = self.flags.iter().position(|flag| flag == name) {
            self.flags.drain(at..at + 2);
        }
        self.flags.push(name.into());
        self.flags.push(value.as_ref().into());
        self
    }

    /// A flag that may be given several times.
    pub(crate) fn more(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.flags.extend([name.into(), value.as_ref().into()]);
        self
    }

    pub(crate) fn workers(mut self, workers: &str) -> Self {
        workers.clone_into(&mut self.workers);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Lets the fixture find the frameworks of the lock file.
    pub(crate) fn with_frameworks(self) -> Self {
        let link = self.site.path("releases/node_modules");
        std::os::unix::fs::symlink(frameworks(), link).expect("link the frameworks");
        self
    }

    /// Lets the workers record what they do, for [`super::record::Record`].
    pub(crate) fn recording(self) -> Self {
        let directory = self.site.path("record");
        std::fs::create_dir(&directory).expect("make the directory of records");
        self.env("RECORD", &directory.to_string_lossy())
    }

    /// What follows the script.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(OsString::from).collect();
        self
    }

    /// Something else than the release's script.
    pub(crate) fn script(mut self, script: &str) -> Self {
        self.script = Some(script.into());
        self
    }

    /// No script at all: package.json says what runs.
    pub(crate) fn without_script(mut self) -> Self {
        self.script = None;
        self
    }

    /// No working directory either: a file says it.
    pub(crate) fn without_cwd(mut self) -> Self {
        self.names_no_cwd = true;
        self
    }

    /// Another file than the one under test itself: a copy, say, that is to be replaced.
    pub(crate) fn binary(mut self, path: PathBuf) -> Self {
        self.binary = path;
        self
    }

    /// A program that starts the supervisor, with its arguments.
    pub(crate) fn under(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(OsString::from).collect();
        self
    }

    /// Leaves its stdout unread until [`Run::read_stdout`].
    pub(crate) fn holding_stdout(mut self) -> Self {
        self.holds_stdout = true;
        self
    }

    /// Runs as another user, which takes root. The binaries are copied to where it may read them.
    pub(crate) fn under_user(mut self, user: u32) -> Self {
        self.site.open_to_all();
        let copy = |from: &Path| {
            let to = self
                .site
                .path(&from.file_name().expect("a file").to_string_lossy());
            std::fs::copy(from, &to).expect("copy a binary");
            to
        };
        self.binary = copy(&self.binary);
        if self.site.program == Program::Standin {
            self.script = Some(copy(&super::standin()).into());
        }
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        self.under(&["setpriv", &user, &group, "--clear-groups"])
    }

    pub(crate) fn with_node(self, node: &Node) -> Self {
        self.flag("--node", &node.path)
    }

    fn control_path(&self) -> PathBuf {
        let name = self
            .flags
            .iter()
            .position(|flag| flag == "--name")
            .and_then(|at| self.flags.get(at + 1));
        match name {
            Some(name) if self.default_control => self
                .site
                .path("runtime/segue")
                .join(name)
                .with_extension("sock"),
            _ => self.site.path("segue.sock"),
        }
    }

    /// Starts it, without waiting for anything.
    pub(crate) fn spawn(self) -> Run {
        let mark = process::new_mark();
        let mut child = self
            .command(&mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {self:?}: {error}"));
        let log = Log::new();
        if !self.holds_stdout {
            log.follow(Stream::Out, child.stdout.take().expect("stdout is a pipe"));
        }
        log.follow(Stream::Err, child.stderr.take().expect("stderr is a pipe"));
        let main = Process::open(child.id()).expect("it was started and has not been reaped");
        self.over_to(log, mark, main, Main::Command(child))
    }

    /// Starts it on a terminal, which shows what it prints.
    #[track_caller]
    pub(crate) fn start_on(self, terminal: &Terminal) -> Run {
        let mark = process::new_mark();
        let child = terminal.start(&mut self.command(&mark));
        let main = Process::open(child.id()).expect("it was started and has not been reaped");
        self.over_to(Log::new(), mark, main, Main::Command(child))
            .when_ready()
    }

    /// Starts it as a service manager does: it finds these sockets open, under these names.
    pub(crate) fn spawn_with(mut self, sockets: Vec<(String, OwnedFd)>) -> Run {
        let (names, sockets): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        self.prefix.extend(AS_MAIN.map(OsString::from));
        let launch = self
            .env("LISTEN_FDS", &sockets.len().to_string())
            .env("LISTEN_FDNAMES", &names.join(":"));
        let mark = process::new_mark();
        let Started {
            main,
            pid,
            out,
            err,
        } = Main::start(&launch.command(&mark), sockets);
        let log = Log::new();
        log.follow(Stream::Out, out);
        log.follow(Stream::Err, err);
        let process = Process::open(pid).expect("it was started and has not been reaped");
        launch.over_to(log, mark, process, main)
    }

    fn over_to(self, log: Log, mark: String, main: Process, child: Main) -> Run {
        Run {
            control: self.control_path(),
            site: self.site,
            log,
            mark,
            main,
            child,
            over: false,
        }
    }

    fn command(&self, mark: &str) -> Command {
        let control = self.control_path();
        let mut line = self.prefix.clone();
        line.push(self.binary.clone().into());
        line.push("run".into());
        if !self.default_control {
            line.push("--control".into());
            line.push(control.clone().into());
        }
        line.push("--workers".into());
        line.push(self.workers.clone().into());
        if !self.names_no_cwd {
            line.push("--cwd".into());
            line.push(self.site.path("current").into());
        }
        line.extend(self.flags.iter().cloned());
        line.extend(self.script.clone());
        line.extend(self.arguments.iter().cloned());

        let (program, arguments) = line.split_first().expect("a program");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.site.path("current"))
            .env(MARK, mark)
            .env("PORT", self.site.port.number().to_string())
            .env("OTHER_PORT", self.site.other_port.number().to_string())
            .env("XDG_RUNTIME_DIR", self.site.path("runtime"))
            .env("NO_COLOR", "1")
            .env_remove("SEGUE_CONTROL")
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Starts it and waits until every worker is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Run {
        self.spawn().when_ready()
    }

    /// The same, with sockets of a service manager.
    #[track_caller]
    pub(crate) fn start_with(self, sockets: Vec<(String, OwnedFd)>) -> Run {
        self.spawn_with(sockets).when_ready()
    }

    /// Starts it, expects it to end by itself within `limit`, and returns its exit code.
    #[track_caller]
    pub(crate) fn start_and_fail(self, limit: Duration) -> (i32, Run) {
        let streams = if self.holds_stdout { 1 } else { 2 };
        let mut run = self.spawn();
        let status = run.wait_for_end(limit);
        let code = status.code().expect("it ended with a code");
        run.expect_nothing_left();
        // Its last words may still be in the pipes.
        run.log.wait_for_end(streams, LIMIT);
        (code, run)
    }
}

/// A supervisor under test. Dropped, all of it is killed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) site: Arc<Site>,
    pub(crate) log: Log,
    pub(crate) control: PathBuf,
    mark: String,
    /// The main process: what a terminal or systemd would see.
    pub(crate) main: Process,
    child: Main,
    over: bool,
}

impl Run {
    /// Waits until every worker is ready.
    #[track_caller]
    pub(crate) fn when_ready(self) -> Self {
        self.until("every worker is ready", |app| {
            app.phase == AppPhase::Running
                && app.slots.iter().all(|slot| {
                    let ready =
                        |worker: &&segue_wire::control::Worker| worker.phase == WorkerPhase::Ready;
                    app.workers
                        .iter()
                        .filter(ready)
                        .any(|worker| worker.slot == slot.slot)
                })
        });
        self.follow_events();
        self
    }

    /// Where the app listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.site.port.number()).into()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        http::get(self.address(), path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log.render()))
    }

    /// `segue COMMAND --control …`, to its end.
    #[track_caller]
    pub(crate) fn segue(&self, arguments: &[&str]) -> Outcome {
        self.segue_beside(arguments).wait(LIMIT)
    }

    /// The same, while the test goes on.
    pub(crate) fn segue_beside(&self, arguments: &[&str]) -> Pending {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
        command.args(arguments).arg("--control").arg(&self.control);
        command.env("NO_COLOR", "1").env_remove("SEGUE_CONTROL");
        Pending::start(command)
    }

    /// `segue reload`.
    #[track_caller]
    pub(crate) fn reload(&self) -> Outcome {
        self.segue(&["reload"])
    }

    /// Writes a release, turns `current` to it and reloads; the reload must succeed.
    #[track_caller]
    pub(crate) fn roll(&self, version: &str, what: &str) -> Outcome {
        self.site.deploy(version, what);
        let outcome = self.reload();
        assert_eq!(
            outcome.code,
            Some(0),
            "reload to {version}: {outcome:#?}\nthe supervisor said\n{}",
            self.log.render()
        );
        outcome
    }

    /// The same, for a release that must not come to serve.
    #[track_caller]
    pub(crate) fn roll_and_fail(&self, version: &str, what: &str) -> Outcome {
        self.site.deploy(version, what);
        let outcome = self.reload();
        assert_eq!(
            outcome.code,
            Some(1),
            "reload to the broken {version}: {outcome:#?}\nthe supervisor said\n{}",
            self.log.render()
        );
        outcome
    }

    /// `segue upgrade` to the binary under test.
    #[track_caller]
    pub(crate) fn upgrade(&self) -> Outcome {
        self.upgrade_to(Path::new(env!("CARGO_BIN_EXE_segue")))
    }

    #[track_caller]
    pub(crate) fn upgrade_to(&self, binary: &Path) -> Outcome {
        self.segue(&["upgrade", "--binary", &binary.to_string_lossy()])
    }

    /// The status, or why there is none.
    pub(crate) fn try_status(&self) -> Result<Status, String> {
        let answer =
            http::get_unix(&self.control, "/v1/status").map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", answer.text()))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.try_status()
            .unwrap_or_else(|error| panic!("status: {error}\n{}", self.log.render()))
    }

    /// The only app.
    #[track_caller]
    pub(crate) fn app(&self) -> App {
        let mut status = self.status();
        assert_eq!(status.apps.len(), 1, "one app: {status:#?}");
        status.apps.remove(0)
    }

    /// Pids of the workers that serve, by slot.
    #[track_caller]
    pub(crate) fn ready_pids(&self) -> Vec<u32> {
        let mut workers = self.app().workers;
        workers.retain(|worker| worker.phase == WorkerPhase::Ready);
        workers.sort_by_key(|worker| worker.slot);
        workers
            .into_iter()
            .filter_map(|worker| worker.pid)
            .collect()
    }

    /// Waits until the app's status is as wanted. It is looked at after every line of output or
    /// event, and now and then in between.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&App) -> bool) -> App {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mark = self.log.mark();
            let status = self.try_status();
            if let Ok(status) = &status
                && let Some(app) = status.apps.first()
                && wanted(app)
            {
                return app.clone();
            }
            let ended = self.main.ends_within(Duration::ZERO);
            if ended || Instant::now() > deadline {
                let how = if ended {
                    "the supervisor ended before"
                } else {
                    "did not come"
                };
                panic!(
                    "{what}: {how}; last status {status:#?}\n{}",
                    self.log.render()
                );
            }
            self.log.wait_for_news(mark, Duration::from_millis(50));
        }
    }

    /// Adds what `/v1/events` streams to the log.
    pub(crate) fn follow_events(&self) {
        use std::io::Write;
        let mut stream =
            std::os::unix::net::UnixStream::connect(&self.control).expect("connect for events");
        stream
            .write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("ask for events");
        self.log.follow(Stream::Event, stream);
    }

    /// Begins to read a stdout that was left unread.
    pub(crate) fn read_stdout(&mut self) {
        let Main::Command(child) = &mut self.child else {
            panic!("it is read already");
        };
        let stdout = child.stdout.take().expect("it has not been read before");
        self.log.follow(Stream::Out, stdout);
    }

    /// Sends a signal to the main process.
    pub(crate) fn signal(&self, signal: Signal) {
        self.main.signal(signal);
    }

    /// Processes of this run that are alive.
    pub(crate) fn processes(&self) -> std::collections::BTreeSet<u32> {
        process::marked(&self.mark)
    }

    /// The main process is killed, and the supervisor's takes its place.
    #[track_caller]
    pub(crate) fn kill_main(&mut self) {
        let heir = Process::open(self.status().supervisor.pid).expect("the supervisor");
        self.signal(Signal::KILL);
        self.child.wait();
        self.main = heir;
        let deadline = Instant::now() + LIMIT;
        loop {
            let keeper = self.try_status().map(|status| status.supervisor.keeper_pid);
            if keeper == Ok(Some(self.main.pid)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "no new keeper: {keeper:?}\n{}",
                self.log.render()
            );
            self.log
                .wait_for_news(self.log.mark(), Duration::from_millis(50));
        }
    }

    /// Waits for the end of the main process.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> ExitStatus {
        assert!(
            self.main.ends_within(limit),
            "the supervisor did not end within {limit:?}\n{}",
            self.log.render()
        );
        self.over = true;
        self.child.wait()
    }

    /// Fails the test if a process of the run outlives its main process.
    #[track_caller]
    pub(crate) fn expect_nothing_left(&self) {
        let left = process::wait_until_none(&self.mark, Duration::from_secs(5));
        assert!(
            left.is_empty(),
            "left over: {left:#?}\n{}",
            self.log.render()
        );
    }

    /// TERM, exit code 0, nothing left.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.signal(Signal::TERM);
        let is_child = self.main.pid == self.child.id();
        let status = self.wait_for_end(LIMIT);
        // How one ends that is not our child we are not told.
        if is_child {
            assert_eq!(status.code(), Some(0), "{status}\n{}", self.log.render());
        }
        self.expect_nothing_left();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the supervisor's output:\n{}", self.log.render());
        }
        process::kill_marked(&self.mark);
        if !self.over {
            // It has just been killed; what it ended with is of no interest.
            let _ = self.child.wait();
        }
    }
}
