//! The keeper's life: it starts a supervisor, holds what that hands it, starts another one when it
//! has died, and ends with the exit code of the one that ended as it was told to.
//!
//! Of the two only the keeper is in the terminal's foreground group. So ^C reaches the supervisor
//! once, by way of the keeper, and ^Z stops the keeper alone while the app goes on serving.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use segue_sys::process::{self, Rlimit};
use segue_sys::signal::{Handled, Received, Signals};
use segue_sys::spawn::{Child, Exit, Mask, Signal, Spawn, send_group, send_signal};
use segue_sys::{clock, memory, passing};
use segue_wire::handoff::keeper::{End, FALLBACK, PACKET_LIMIT, PROGRAM, STATE};
use segue_wire::handoff::{FromKeeper, ToKeeper};
use serde::{Deserialize, Serialize};

use super::aftermath::end_descendants;
use super::held::Held;
use super::link::{KEEPER_FD, LINK_NUMBER};
use super::restart::{Deaths, Sequel};
use super::terminal::{Forward, Terminal};

/// First argument of the process that is to be the supervisor.
pub(crate) const SUPERVISOR_ARGUMENT: &str = "__supervisor";

/// First argument of a process that is to take a dead keeper's place.
pub(crate) const KEEPER_ARGUMENT: &str = "__keeper";

/// Names the descriptor of its [`Estate`].
pub(crate) const HELD_FD: &str = "SEGUE_HELD_FD";

/// What a keeper finds that takes another one's place.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Estate {
    /// Descriptors by their names.
    pub(crate) held: Vec<(String, i32)>,
    /// Leaders of groups that end with them.
    pub(crate) leaders: Vec<u32>,
    /// The limit of open files that the supervisor is to have.
    pub(crate) limit: (Option<u64>, Option<u64>),
}

/// Rust's exit code of a panic in `main`: an end that nobody planned, like a signal.
const PANICKED: i32 = 101;

/// Variables that are for this process: what they speak of is held, and has other numbers elsewhere.
const OURS_ALONE: [&str; 6] = [
    KEEPER_FD,
    HELD_FD,
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
];

/// Packets that are read before anything else is looked at.
const TURN: usize = 64;

/// Ends of processes that are told again to a supervisor that takes over.
const TOLD_AGAIN: usize = 1024;

/// What the keeper starts.
#[derive(Debug)]
pub(crate) struct Keeper {
    argv: Vec<OsString>,
    held: Held,
    /// Leaders of groups that end with them.
    leaders: BTreeSet<u32>,
    /// The limit of open files that the supervisor is to have.
    limit: Option<Rlimit>,
}

impl Keeper {
    /// Keeps a supervisor made from this same program: it gets [`SUPERVISOR_ARGUMENT`], then
    /// `args`, the command line without its zeroth argument.
    pub(crate) fn new(name: OsString, args: impl IntoIterator<Item = OsString>) -> Self {
        let mut argv = vec![name, SUPERVISOR_ARGUMENT.into()];
        argv.extend(args);
        Self {
            argv,
            held: Held::default(),
            leaders: BTreeSet::new(),
            limit: process::raise_descriptor_limit().ok(),
        }
    }

    /// Holds this from the beginning, for the first supervisor.
    pub(crate) fn holding(mut self, name: String, descriptor: OwnedFd) -> Self {
        self.held.store(name, descriptor);
        self
    }

    /// The same, in place of a keeper that has died, with what it held: our predecessor in this
    /// process, which was the supervisor, has left it.
    ///
    /// # Errors
    /// That it has not.
    pub(crate) fn in_place(self) -> io::Result<Self> {
        let number = std::env::var(HELD_FD).ok().and_then(|n| n.parse().ok());
        let list = process::adopt_descriptor(number.unwrap_or(-1))?;
        let estate: Estate = serde_json::from_slice(&memory::read_all(&list.into())?)?;
        let mut held = self.held;
        for (name, number) in estate.held {
            held.store(name, process::adopt_descriptor(number)?);
        }
        let (current, maximum) = estate.limit;
        Ok(Self {
            held,
            leaders: estate.leaders.into_iter().collect(),
            limit: Some(Rlimit { current, maximum }),
            ..self
        })
    }

    /// Starts the supervisor and stays until one has ended as it was told to. Returns the exit code
    /// of the whole: the supervisor's own, or 1 with a message on stderr if it could not be started.
    ///
    /// Must be called before the first thread is started.
    pub(crate) fn run(self) -> u8 {
        match self.start() {
            Ok(mut kept) => kept.stay(),
            Err(error) => {
                say(&format!(
                    "cannot start the supervisor: {error}; nothing has been started"
                ));
                1
            }
        }
    }

    fn start(self) -> io::Result<Kept> {
        // In this order: a child that ends, or an operator's signal, must find us prepared.
        let signals = Signals::block()?;
        process::become_subreaper()?;
        let mut kept = Kept {
            argv: self.argv,
            limit: self.limit,
            signals,
            supervisor: Supervisor::Gone { start_at: None },
            held: self.held,
            leaders: self.leaders,
            ended: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            // Above every number that a keeper before this one has used.
            last_signal: clock::monotonic_millis(),
            deaths: Deaths::default(),
            began: Instant::now(),
            terminal: Terminal::at_start(),
        };
        kept.start_supervisor()?;
        Ok(kept)
    }
}

/// A keeper with its supervisor.
struct Kept {
    argv: Vec<OsString>,
    limit: Option<Rlimit>,
    signals: Signals,
    supervisor: Supervisor,
    held: Held,
    leaders: BTreeSet<u32>,
    /// Who has ended, besides supervisors, the last of them last.
    ended: VecDeque<(u32, End)>,
    /// Signals that no supervisor has dealt with, with their numbers.
    unacknowledged: VecDeque<(u64, Received)>,
    last_signal: u64,
    deaths: Deaths,
    began: Instant,
    terminal: Terminal,
}

enum Supervisor {
    Runs {
        child: Child,
        link: OwnedFd,
        /// It has taken over from another one, or from another release, and does not serve yet.
        is_taking_over: bool,
    },
    /// It has died.
    Gone {
        /// When the next one is started; `None`: at once.
        start_at: Option<Instant>,
    },
}

impl Kept {
    fn start_supervisor(&mut self) -> io::Result<()> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut env: Vec<_> = std::env::vars_os()
            .filter(|(name, _)| !OURS_ALONE.iter().any(|ours| name == ours))
            .collect();
        env.push((KEEPER_FD.into(), LINK_NUMBER.to_string().into()));
        let program = self.program();
        let child = Spawn {
            program: &program,
            argv: &self.argv,
            env: &env,
            cwd: Path::new("."),
            descriptors: vec![(theirs, LINK_NUMBER)],
            descriptor_limit: self.limit,
            nice: None,
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: None,
            // A signal that comes before the supervisor reads its own waits for it.
            mask: Mask::Inherit,
        }
        .start()?;
        self.held.forget_outgoing();
        self.deaths.started();
        self.supervisor = Supervisor::Runs {
            child,
            link: ours,
            is_taking_over: self.held.get(STATE).is_some(),
        };
        Ok(())
    }

    /// What an upgrade has put in our own place, or our own.
    fn program(&self) -> PathBuf {
        match self.held.get(PROGRAM) {
            Some(program) => format!("/proc/self/fd/{}", program.as_raw_fd()).into(),
            // Not the path of the file: that may hold another version by now.
            None => "/proc/self/exe".into(),
        }
    }

    fn stay(&mut self) -> u8 {
        loop {
            if let Err(error) = self.wait() {
                // Without that there is nothing left to do but to hurry the end along.
                say(&format!("cannot wait for anything: {error}; stopping"));
                if let Supervisor::Runs { child, .. } = &self.supervisor {
                    let _ = send_signal(&child.pidfd, Signal::TERM);
                }
                return 1;
            }
            loop {
                match self.signals.receive() {
                    Ok(Some(received)) if received.signal == Handled::Chld => {
                        if let Some(code) = self.reap() {
                            return code;
                        }
                    }
                    Ok(Some(received)) => {
                        if let Some(code) = self.hear_signal(received) {
                            return code;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        say(&format!("cannot read signals: {error}"));
                        break;
                    }
                }
            }
            self.talk();
            if let Supervisor::Gone { start_at } = self.supervisor
                && start_at.is_none_or(|at| Instant::now() >= at)
                && let Err(error) = self.start_supervisor()
            {
                let wait = self.deaths.died(self.began.elapsed()).wait;
                let wait = wait.max(Duration::from_secs(1));
                say(&format!(
                    "cannot start a supervisor: {error}; the app goes on serving, and the next try is in {} s",
                    wait.as_secs()
                ));
                self.supervisor = Supervisor::Gone {
                    start_at: Some(Instant::now() + wait),
                };
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> io::Result<()> {
        let (link, limit) = match &self.supervisor {
            Supervisor::Runs { link, .. } => (Some(link), None),
            Supervisor::Gone { start_at: None } => (None, Some(Duration::ZERO)),
            Supervisor::Gone { start_at: Some(at) } => {
                (None, Some(at.saturating_duration_since(Instant::now())))
            }
        };
        let mut wanted = PollFlags::IN;
        if self.held.has_outgoing() {
            wanted |= PollFlags::OUT;
        }
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        polled.extend(link.map(|link| PollFd::new(link, wanted)));
        let limit = limit
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        match poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what the supervisor says, and says what is to be said.
    fn talk(&mut self) {
        for turn in 0..TURN {
            let Supervisor::Runs { link, .. } = &self.supervisor else {
                return;
            };
            // One byte more: what is too long is seen to be.
            let mut buffer = [0; PACKET_LIMIT + 1];
            match passing::receive_packet(link, &mut buffer) {
                Ok(Some((packet, descriptor))) => {
                    if let Some(message) = ToKeeper::read(packet) {
                        self.hear(message, descriptor);
                    }
                }
                // It is about to be reaped, and then all of it has been read.
                Ok(None) | Err(_) => break,
            }
            if turn + 1 == TURN {
                // What a burst took is given back.
                memory::forget_code();
            }
        }
        if let Supervisor::Runs { link, .. } = &self.supervisor {
            self.held.send(link);
        }
    }

    fn hear(&mut self, message: ToKeeper, descriptor: Option<OwnedFd>) {
        match (message, descriptor) {
            (ToKeeper::Store(name), Some(descriptor)) => {
                if name == FALLBACK {
                    // From now on it is another release, which has yet to show that it works.
                    self.deaths.started();
                    self.set_taking_over(true);
                }
                self.held.store(name, descriptor);
            }
            (ToKeeper::Store(name), None) => self.held.say(FromKeeper::NotHeld(name)),
            (ToKeeper::Drop(name), _) => self.held.drop(&name),
            (ToKeeper::Give, _) => {
                self.held.give_all(env!("CARGO_PKG_VERSION"));
                for &(pid, end) in &self.ended {
                    self.held.say(FromKeeper::Ended { pid, end });
                }
                for &(number, received) in &self.unacknowledged {
                    for message in signal_messages(number, received) {
                        self.held.say(message);
                    }
                }
            }
            (ToKeeper::Ready, _) => {
                self.deaths.ready(self.began.elapsed());
                self.set_taking_over(false);
                self.held.drop(FALLBACK);
                // From here on there is little to do for long.
                memory::forget_code();
            }
            (ToKeeper::Leads(pid), _) => {
                self.leaders.insert(pid);
            }
            (ToKeeper::LeadsNoMore(pid), _) => {
                self.leaders.remove(&pid);
            }
            (ToKeeper::Acknowledge(number), _) => {
                self.unacknowledged.retain(|(signal, _)| *signal > number);
            }
        }
    }

    fn set_taking_over(&mut self, value: bool) {
        if let Supervisor::Runs { is_taking_over, .. } = &mut self.supervisor {
            *is_taking_over = value;
        }
    }

    fn hear_signal(&mut self, received: Received) -> Option<u8> {
        match self.terminal.judge(received) {
            Forward::Nothing => {}
            Forward::Signal(signal) => {
                let was_asked = self.is_asked_to_end();
                self.last_signal += 1;
                let number = self.last_signal;
                let forwarded = Received { signal, ..received };
                self.unacknowledged.push_back((number, forwarded));
                for message in signal_messages(number, forwarded) {
                    self.held.say(message);
                }
                if let Supervisor::Gone { start_at } = &mut self.supervisor
                    && is_end(signal)
                {
                    if was_asked {
                        return Some(self.end_without_supervisor());
                    }
                    // It is a supervisor that can drain the app.
                    *start_at = None;
                }
            }
            Forward::TerminalGone => self.held.say(FromKeeper::TerminalGone),
        }
        None
    }

    fn is_asked_to_end(&self) -> bool {
        self.unacknowledged
            .iter()
            .any(|(_, received)| is_end(received.signal))
    }

    /// Collects whoever has ended, orphans of the app included. The exit code, if it was the
    /// supervisor and all is over.
    fn reap(&mut self) -> Option<u8> {
        while let Ok(Some(pid)) = process::ended_child() {
            if self.leaders.remove(&pid) {
                // Its number is still its group's: it is not reaped.
                let _ = send_group(pid, Signal::TERM);
            }
            let exit = match process::collect(pid) {
                Ok(exit) => exit,
                Err(error) => {
                    say(&format!("cannot collect process {pid}: {error}"));
                    return None;
                }
            };
            let is_supervisor = matches!(
                &self.supervisor,
                Supervisor::Runs { child, .. } if child.pid == pid
            );
            if is_supervisor {
                // What it has said last is still in the link.
                self.talk();
                if let Some(code) = self.conclude(pid, exit) {
                    return Some(code);
                }
            } else {
                self.tell_end(pid, exit);
            }
        }
        None
    }

    fn tell_end(&mut self, pid: u32, exit: Exit) {
        let end = match exit {
            Exit::Code(code) => End::Code(code),
            Exit::Signal(signal) => End::Signal(signal),
            Exit::Unknown => return,
        };
        self.ended.push_back((pid, end));
        while self.ended.len() > TOLD_AGAIN {
            self.ended.pop_front();
        }
        self.held.say(FromKeeper::Ended { pid, end });
    }

    /// The supervisor has ended: the exit code of the whole, or another one is to be started.
    fn conclude(&mut self, pid: u32, exit: Exit) -> Option<u8> {
        let gone = Supervisor::Gone { start_at: None };
        let was_taking_over = matches!(
            std::mem::replace(&mut self.supervisor, gone),
            Supervisor::Runs {
                is_taking_over: true,
                ..
            }
        );
        let how = match exit {
            Exit::Code(code) if code != PANICKED && !was_taking_over => {
                self.held.clear();
                // What the app started for itself must not outlive it: it could hold the port.
                if let Ok(ended) = end_descendants(&self.signals)
                    && ended.killed > 0
                {
                    say(&format!(
                        "{} processes that the app had left behind were ended, {} of them by SIGKILL",
                        ended.all, ended.killed
                    ));
                }
                return Some(u8::try_from(code).unwrap_or(1));
            }
            Exit::Code(PANICKED) => "panicked, which is a bug in segue".to_owned(),
            Exit::Code(code) => format!("could not take over (exit code {code})"),
            Exit::Signal(number) => format!("was killed by signal {number}"),
            Exit::Unknown => "ended in an unknown way".to_owned(),
        };
        let how = format!("the supervisor (pid {pid}) {how}");
        if self.held.get(STATE).is_none() {
            say(&format!(
                "{how} before it had begun: what there is of the app is ended now; start it again with the same command"
            ));
            return Some(self.end_rest());
        }
        let Sequel {
            wait,
            failed,
            was_unready,
        } = self.deaths.died(self.began.elapsed());
        if was_unready && self.is_asked_to_end() {
            say(&format!("{how}, and the app is to end: it is ended now"));
            return Some(self.end_rest());
        }
        if was_unready && let Some(before) = self.held.take(FALLBACK) {
            say(&format!(
                "{how} before it had taken over: the release before it is started again"
            ));
            self.held.store(PROGRAM.to_owned(), before);
            return None;
        }
        if wait.is_zero() {
            say(&format!(
                "{how}: another one takes over, the app goes on serving"
            ));
            return None;
        }
        say(&format!(
            "{how}, {failed} in a row soon after their start: the next one is started in {} s, and the app goes on serving; the lines above may say why",
            wait.as_secs()
        ));
        self.supervisor = Supervisor::Gone {
            start_at: Some(Instant::now() + wait),
        };
        None
    }

    fn end_without_supervisor(&mut self) -> u8 {
        say("asked to stop again while there is no supervisor: the app is ended now");
        self.end_rest()
    }

    /// Ends what is left of the app without a supervisor that could drain it.
    fn end_rest(&mut self) -> u8 {
        // Workers of Node end by themselves when their channels do.
        self.held.clear();
        match end_descendants(&self.signals) {
            Ok(ended) => say(&format!(
                "{} processes ended, {} of them by SIGKILL",
                ended.all, ended.killed
            )),
            Err(error) => say(&format!(
                "cannot find all processes of the app: {error}; look for them with `ps -ef`"
            )),
        }
        1
    }
}

/// A signal, and before it who sent it, where that is known.
fn signal_messages(number: u64, received: Received) -> impl Iterator<Item = FromKeeper> {
    let Received {
        signal, pid, uid, ..
    } = received;
    let origin = (pid != 0).then_some(FromKeeper::Origin { number, pid, uid });
    let signal = FromKeeper::Signal {
        number,
        signal: signal.signal().as_raw(),
    };
    origin.into_iter().chain([signal])
}

fn is_end(signal: Handled) -> bool {
    matches!(signal, Handled::Term | Handled::Quit | Handled::Int)
}

fn say(text: &str) {
    // A stderr that cannot be written to must not keep us from the rest.
    let _ = writeln!(io::stderr(), "segue: {text}");
}
