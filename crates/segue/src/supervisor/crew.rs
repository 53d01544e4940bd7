//! The worker processes: who runs, by which pidfd and channel, and the watch for their exit.
//! A worker is named by its id; a PID is only shown, never used to act.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::{AddressId, ExitStatus, Generation, SlotId, Time, WorkerId};
use segue_sys::cgroup::Limits;
use segue_sys::notify::NotifyListener;
use segue_sys::readable;
use segue_sys::spawn::{self, Exit, Signal};
use segue_wire::handoff::ToKeeper;
use segue_wire::node::{DrainState, Hello};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::app_shell::Input;
use super::enclosure::{Enclosure, Enclosures};
use super::watching::NoticeWatch;
use crate::config::drain::StopRequest;
use crate::handoff::{Deposit, Journal};
use crate::keeper::Sender;
use crate::listener::HandOver;
use crate::worker::channel::{Channel, PENDING};
use crate::worker::output::Output;
use crate::worker::preload::NoPreload;

/// What a channel still holds is read for so long after the process has ended; a process that
/// inherited the other end would keep it open for ever.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long the keeper may take to say how a process has ended that only it can collect.
const KEEPERS_WORD: Duration = Duration::from_secs(2);

/// Names under which a worker's descriptors are held, and its record is written down.
pub(super) const DESCRIPTORS: [&str; 4] = ["process", "channel", "stdout", "stderr"];
const RECORD: &str = "record";

/// The name of its notify socket, if it has one.
pub(super) const NOTIFY: &str = "notify";

/// A worker's descriptors, for those names.
pub(super) struct Descriptors<'a> {
    pub(super) pidfd: &'a OwnedFd,
    pub(super) channel: &'a OwnedFd,
    pub(super) stdout: &'a OwnedFd,
    pub(super) stderr: &'a OwnedFd,
    pub(super) notify: Option<&'a NotifyListener>,
}

/// One process, from its spawn until the core has been told that it is gone.
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) generation: Generation,
    pub(super) spawned: Time,
    pub(super) output: Output,
    /// What else is known of it.
    pub(super) record: Record,
    pub(super) notices: Option<NoticeWatch>,
    /// Looks in a row at which it did nothing while a process below it listened.
    pub(super) idle_looks: u8,
    /// Its processor time at the last look, in milliseconds.
    pub(super) cpu_ms: u64,
    process: Arc<Process>,
    ended: Option<oneshot::Sender<()>>,
    /// How it has ended, from the keeper: for a process that is not our child.
    told: Option<oneshot::Sender<ExitStatus>>,
}

/// What is known of how a worker lets its connections go.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct DrainRecord {
    /// Why it was started without the preload script.
    pub(super) no_preload: Option<NoPreload>,
    /// What the preload script has said first.
    pub(super) hello: Option<Hello>,
    /// What it has said last, once a drain has begun.
    pub(super) state: Option<DrainState>,
    /// When it said so, in milliseconds of the monotonic clock.
    pub(super) heard: u64,
    pub(super) bypasses: Vec<String>,
}

/// A process by its pidfd.
struct Process {
    pidfd: AsyncFd<OwnedFd>,
    /// Set in the same step as the reaping: from then on its number may name another group.
    is_reaped: AtomicBool,
}

/// Everybody who runs.
pub(super) struct Crew {
    members: BTreeMap<WorkerId, Member>,
    channels: Channels,
    enclosures: Enclosures,
    inputs: mpsc::UnboundedSender<Input>,
    /// Names begin with the worker's number.
    journal: Journal,
    keeper: Sender,
}

/// The way to each worker's channel, shared with the couriers of stragglers.
#[derive(Clone, Default)]
pub(super) struct Channels(Arc<Mutex<BTreeMap<WorkerId, Channel>>>);

/// A process that has just been started, or was by a predecessor.
pub(super) struct Recruit {
    pub(super) notify: Option<NotifyListener>,
    pub(super) pidfd: OwnedFd,
    pub(super) channel: Channel,
    pub(super) output: Output,
    pub(super) record: Record,
}

/// A worker as it is written down.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Record {
    pub(super) pid: u32,
    pub(super) slot: u32,
    pub(super) generation: u32,
    /// Milliseconds of the monotonic clock.
    pub(super) spawned: u64,
    /// It has spoken over its channel.
    pub(super) is_attached: bool,
    /// It has asked for a socket.
    pub(super) has_asked: bool,
    /// What it leads is one of ours, not a shell or a wrapper.
    pub(super) is_node: bool,
    pub(super) drain: DrainRecord,
    /// The addresses at which it listens, in the order in which it began to.
    #[serde(default)]
    pub(super) listens: Vec<u32>,
    /// Those of them that a TLS server has asked for.
    #[serde(default)]
    pub(super) tls: Vec<u32>,
    /// Its priority is still to be raised.
    #[serde(default)]
    pub(super) is_lowered: bool,
    /// The name of its cgroup, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) enclosure: Option<String>,
    /// What it has last said of itself over its notify socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<String>,
}

impl Record {
    pub(super) fn slot(&self) -> SlotId {
        SlotId(self.slot)
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation)
    }
}

impl Crew {
    pub(super) fn new(
        inputs: mpsc::UnboundedSender<Input>,
        journal: Journal,
        keeper: Sender,
        keeper_pid: u32,
    ) -> Self {
        Self {
            members: BTreeMap::new(),
            channels: Channels::default(),
            enclosures: Enclosures::of_this_process(keeper_pid),
            inputs,
            journal,
            keeper,
        }
    }

    /// Where a worker's own things are written down.
    pub(super) fn journal_of(&self, worker: WorkerId) -> Journal {
        self.journal.under(&format!("{}/", worker.0))
    }

    /// Has what a successor needs of a worker held, and written down. To be called before it runs.
    pub(super) fn note_birth(
        &self,
        worker: WorkerId,
        record: &Record,
        descriptors: Descriptors<'_>,
    ) {
        let journal = self.journal_of(worker);
        let [process, channel, stdout, stderr] = DESCRIPTORS;
        journal.hold(process, descriptors.pidfd);
        journal.hold(channel, descriptors.channel);
        journal.hold(stdout, descriptors.stdout);
        journal.hold(stderr, descriptors.stderr);
        if let Some(notify) = descriptors.notify {
            journal.hold(NOTIFY, notify);
        }
        journal.put(RECORD, record);
        journal.commit();
        self.keeper.say(ToKeeper::Leads(record.pid), None);
    }

    /// There is no such worker (any more).
    pub(super) fn note_end(&self, worker: WorkerId, pid: u32) {
        let journal = self.journal_of(worker);
        journal.drop_all("");
        for name in DESCRIPTORS.into_iter().chain([PENDING, NOTIFY]) {
            journal.release(name);
        }
        self.keeper.say(ToKeeper::LeadsNoMore(pid), None);
    }

    /// What is known of a worker has changed.
    pub(super) fn note(&self, worker: WorkerId) {
        if let Some(member) = self.members.get(&worker) {
            self.journal_of(worker).put(RECORD, &member.record);
        }
    }

    pub(super) const fn enclosures(&mut self) -> &mut Enclosures {
        &mut self.enclosures
    }

    /// Other limits of memory for those that are there. Says why they cannot have them, if so.
    pub(super) fn limit_memory(&mut self, limits: Limits) -> Option<String> {
        self.enclosures.try_limits_again();
        let limits = match self.enclosures.limits(limits) {
            Ok(limits) => limits,
            Err(why) => return Some(why),
        };
        let mut refused = None;
        for (worker, member) in &self.members {
            let limited = match self.enclosure(&member.record) {
                Some(enclosure) => enclosure.limit(limits).map_err(|error| error.to_string()),
                None => {
                    Err("it has no cgroup of its own; workers of the next reload will".to_owned())
                }
            };
            if let Err(why) = limited {
                refused = Some(format!("worker {worker}: {why}"));
            }
        }
        refused
    }

    pub(super) fn channels(&self) -> Channels {
        self.channels.clone()
    }

    /// Takes a process in and watches for its exit.
    ///
    /// # Errors
    /// The pidfd cannot be watched (`EMFILE`, `ENOSPC`); the process is killed then.
    pub(super) fn join(&mut self, worker: WorkerId, recruit: Recruit) -> io::Result<()> {
        let Recruit {
            pidfd,
            channel,
            output,
            record,
            notify,
        } = recruit;
        let notices = match notify {
            // Without it the worker is not heard, and does not get ready.
            Some(notify) => NoticeWatch::begin(worker, notify, self.inputs.clone())
                .inspect_err(|error| tracing::warn!(%error, %worker, "no notify socket"))
                .ok(),
            None => None,
        };
        let pid = record.pid;
        let pidfd = match readable::watch(pidfd) {
            Ok(pidfd) => pidfd,
            Err((pidfd, error)) => {
                let _ = spawn::send_group(pid, Signal::KILL);
                // Nobody else will collect it.
                tokio::task::spawn_blocking(move || spawn::reap_killed(pidfd));
                return Err(error);
            }
        };
        let process = Arc::new(Process {
            pidfd,
            is_reaped: AtomicBool::new(false),
        });
        let (ended, channel_ended) = oneshot::channel();
        let (told, end) = oneshot::channel();
        let watch = Watch {
            worker,
            pid,
            process: Arc::clone(&process),
            output: output.clone(),
            channel_ended,
            end,
            enclosure: self.enclosure(&record),
        };
        tokio::spawn(watch.until_exit(self.inputs.clone()));
        self.channels.insert(worker, channel);
        self.members.insert(
            worker,
            Member {
                pid,
                generation: record.generation(),
                spawned: Time(record.spawned),
                output,
                idle_looks: 0,
                cpu_ms: 0,
                record,
                notices,
                process,
                ended: Some(ended),
                told: Some(told),
            },
        );
        Ok(())
    }

    pub(super) fn member(&self, worker: WorkerId) -> Option<&Member> {
        self.members.get(&worker)
    }

    pub(super) fn member_mut(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.members.get_mut(&worker)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        self.members
            .iter()
            .map(|(worker, member)| (*worker, member))
    }

    pub(super) fn channel(&self, worker: WorkerId) -> Option<Channel> {
        self.channels.of(worker)
    }

    /// Everything that came over the channel has been heard. Our end stays open until the process is
    /// gone: a worker whose channel is merely broken would exit at its end, in the middle of requests.
    pub(super) fn channel_ended(&mut self, worker: WorkerId) {
        if let Some(ended) = self
            .members
            .get_mut(&worker)
            .and_then(|member| member.ended.take())
        {
            let _ = ended.send(());
        }
    }

    pub(super) fn discharge(&mut self, worker: WorkerId) -> Option<Member> {
        self.channels.remove(worker);
        let member = self.members.remove(&worker)?;
        self.note_end(worker, member.pid);
        Some(member)
    }

    /// The keeper has collected a process. Whether it was a worker, its number alone does not say.
    pub(super) fn hear_end(&mut self, pid: u32, status: ExitStatus) {
        let member = self.members.values_mut().find(|member| member.pid == pid);
        if let Some(member) = member
            && member.process.has_ended()
            && let Some(told) = member.told.take()
        {
            let _ = told.send(status);
        }
    }

    /// A copy of a descriptor of the worker's own (pidfd_getfd(2)).
    ///
    /// # Errors
    /// `EBADF` if it has no such descriptor, `EPERM` if we may not look into it.
    pub(super) fn copy_descriptor(&self, worker: WorkerId, number: i32) -> io::Result<OwnedFd> {
        let member = self.members.get(&worker).ok_or(rustix::io::Errno::SRCH)?;
        Ok(rustix::process::pidfd_getfd(
            member.process.pidfd.get_ref(),
            number,
            rustix::process::PidfdGetfdFlags::empty(),
        )?)
    }

    /// The stop request goes to the process that serves; where a shell or the like was started,
    /// to its whole group, because it would not pass it on. One that cannot be told by a message,
    /// because its channel is gone, gets SIGTERM.
    pub(super) fn stop(&self, worker: WorkerId, request: &StopRequest) -> io::Result<()> {
        let Some(member) = self.members.get(&worker) else {
            return Ok(());
        };
        let signal = match request {
            StopRequest::Term => Signal::TERM,
            StopRequest::Int => Signal::INT,
            StopRequest::Message(text) => match self.channel(worker) {
                Some(channel) if member.ended.is_some() => {
                    channel.tell_app(text);
                    return Ok(());
                }
                _ => Signal::TERM,
            },
        };
        match member.record.is_node {
            true => spawn::send_signal(member.process.pidfd.get_ref(), signal),
            false => member.send_group(signal),
        }
    }

    fn enclosure(&self, record: &Record) -> Option<Enclosure> {
        self.enclosures.find(record.enclosure.as_deref()?)
    }

    /// SIGKILL, for the process and everybody in its group.
    pub(super) fn kill(&self, worker: WorkerId) -> io::Result<()> {
        let Some(member) = self.members.get(&worker) else {
            return Ok(());
        };
        if let Some(enclosure) = self.enclosure(&member.record) {
            enclosure.kill();
        }
        member.send_group(Signal::KILL)
    }
}

impl Member {
    fn send_group(&self, signal: Signal) -> io::Result<()> {
        if self.process.is_reaped.load(Ordering::Relaxed) {
            return Ok(());
        }
        spawn::send_group(self.pid, signal)
    }
}

impl Channels {
    fn insert(&self, worker: WorkerId, channel: Channel) {
        self.lock().insert(worker, channel);
    }

    fn remove(&self, worker: WorkerId) {
        self.lock().remove(&worker);
    }

    fn of(&self, worker: WorkerId) -> Option<Channel> {
        self.lock().get(&worker).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkerId, Channel>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandOver for Channels {
    async fn hand_over(
        &self,
        worker: WorkerId,
        address: AddressId,
        keep_alive: Option<Duration>,
        connection: Deposit,
    ) -> Result<(), Deposit> {
        match self.of(worker) {
            Some(channel) => {
                channel
                    .hand_over(&key_of(address), keep_alive, connection)
                    .await
            }
            None => Err(connection),
        }
    }
}

/// The name of an address on the channel.
pub(super) fn key_of(address: AddressId) -> String {
    address.0.to_string()
}

pub(super) fn address_of(key: &str) -> Option<AddressId> {
    key.parse().ok().map(AddressId)
}

/// Waits for the end of a worker.
struct Watch {
    worker: WorkerId,
    pid: u32,
    process: Arc<Process>,
    output: Output,
    channel_ended: oneshot::Receiver<()>,
    /// What the keeper says of it, if it is not our child.
    end: oneshot::Receiver<ExitStatus>,
    enclosure: Option<Enclosure>,
}

impl Watch {
    /// Reports an exit once the process has been reaped and its last words have been read.
    async fn until_exit(self, inputs: mpsc::UnboundedSender<Input>) {
        let Self {
            worker,
            pid,
            process,
            output,
            channel_ended,
            end,
            enclosure,
        } = self;
        let status = process.end(pid, end).await;
        process.is_reaped.store(true, Ordering::Relaxed);
        let last_words = async {
            let _ = channel_ended.await;
        };
        let _ = tokio::join!(
            tokio::time::timeout(LAST_WORDS, last_words),
            output.drained()
        );
        let for_memory = enclosure.as_ref().and_then(Enclosure::killed_for_memory);
        let rest = enclosure.filter(|enclosure| !enclosure.is_over());
        let _ = inputs.send(Input::Exited(worker, status, for_memory));
        // Its successor need not wait for that.
        if let Some(rest) = rest {
            rest.end().await;
        }
    }
}

impl Process {
    async fn end(&self, pid: u32, told: oneshot::Receiver<ExitStatus>) -> ExitStatus {
        loop {
            let Ok(mut ready) = self.pidfd.readable().await else {
                return ExitStatus::Unknown;
            };
            if !spawn::is_child(self.pidfd.get_ref()) {
                // The keeper collects it, or has, and ends its helpers.
                let told = tokio::time::timeout(KEEPERS_WORD, told).await;
                return match told {
                    Ok(Ok(status)) => status,
                    Ok(Err(_)) | Err(_) => spawn::exit_of(self.pidfd.get_ref())
                        .map_or(ExitStatus::Unknown, exit_status),
                };
            }
            // Helpers that it started go with it. Its number is still its group's: it is not reaped.
            let _ = spawn::send_group(pid, Signal::TERM);
            match spawn::reap(self.pidfd.get_ref()) {
                Ok(Some(exit)) => return exit_status(exit),
                Err(_) => return ExitStatus::Unknown,
                Ok(None) => ready.clear_ready(),
            }
        }
    }

    fn has_ended(&self) -> bool {
        let at_once = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let pidfd = self.pidfd.get_ref();
        let mut polled = [rustix::event::PollFd::new(
            pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut polled, Some(&at_once)).is_ok_and(|count| count > 0)
    }
}

pub(super) fn exit_status(exit: Exit) -> ExitStatus {
    match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
        Exit::Unknown => ExitStatus::Unknown,
    }
}
