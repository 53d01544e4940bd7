//! The worker processes: who runs, by which pidfd and channel, and the watch for their exit.
//! A worker is named by its id; a PID is only shown, never used to act.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::{AddressId, ExitStatus, Generation, Time, WorkerId};
use segue_sys::readable;
use segue_sys::spawn::{self, Exit, Signal};
use segue_wire::node::{DrainState, Hello};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::run::Input;
use crate::config::drain::StopRequest;
use crate::listener::HandOver;
use crate::worker::channel::Channel;
use crate::worker::output::Output;
use crate::worker::preload::NoPreload;

/// What a channel still holds is read for so long after the process has ended; a process that
/// inherited the other end would keep it open for ever.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// One process, from its spawn until the core has been told that it is gone.
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) generation: Generation,
    pub(super) spawned: Time,
    pub(super) output: Output,
    /// It has spoken over its channel.
    pub(super) is_attached: bool,
    /// It has asked for a socket.
    pub(super) has_asked: bool,
    /// Looks in a row at which it did nothing while a process below it listened.
    pub(super) idle_looks: u8,
    /// Its processor time at the last look, in milliseconds.
    pub(super) cpu_ms: u64,
    pub(super) drain: DrainRecord,
    /// What it leads is one of ours, not a shell or a wrapper.
    pub(super) is_node: bool,
    process: Arc<Process>,
    ended: Option<oneshot::Sender<()>>,
}

/// What is known of how a worker lets its connections go.
#[derive(Debug, Default)]
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
    inputs: mpsc::UnboundedSender<Input>,
}

/// The way to each worker's channel, shared with the couriers of stragglers.
#[derive(Clone, Default)]
pub(super) struct Channels(Arc<Mutex<BTreeMap<WorkerId, Channel>>>);

/// A process that has just been started.
pub(super) struct Recruit {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) channel: Channel,
    pub(super) output: Output,
    pub(super) is_node: bool,
    /// Why it has no preload script; `None` if it has.
    pub(super) no_preload: Option<NoPreload>,
}

impl Crew {
    pub(super) fn new(inputs: mpsc::UnboundedSender<Input>) -> Self {
        Self {
            members: BTreeMap::new(),
            channels: Channels::default(),
            inputs,
        }
    }

    pub(super) fn channels(&self) -> Channels {
        self.channels.clone()
    }

    /// Takes a process in and watches for its exit.
    ///
    /// # Errors
    /// The pidfd cannot be watched (`EMFILE`, `ENOSPC`); the process is killed then.
    pub(super) fn join(
        &mut self,
        worker: WorkerId,
        generation: Generation,
        now: Time,
        recruit: Recruit,
    ) -> io::Result<()> {
        let Recruit {
            pid,
            pidfd,
            channel,
            output,
            is_node,
            no_preload,
        } = recruit;
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
        tokio::spawn(watch_exit(
            worker,
            pid,
            Arc::clone(&process),
            output.clone(),
            channel_ended,
            self.inputs.clone(),
        ));
        self.channels.insert(worker, channel);
        self.members.insert(
            worker,
            Member {
                pid,
                generation,
                spawned: now,
                output,
                is_attached: false,
                has_asked: false,
                idle_looks: 0,
                cpu_ms: 0,
                drain: DrainRecord {
                    no_preload,
                    ..DrainRecord::default()
                },
                is_node,
                process,
                ended: Some(ended),
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
        self.members.remove(&worker)
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
        match member.is_node {
            true => spawn::send_signal(member.process.pidfd.get_ref(), signal),
            false => member.send_group(signal),
        }
    }

    /// SIGKILL, for the process and everybody in its group.
    pub(super) fn kill(&self, worker: WorkerId) -> io::Result<()> {
        let Some(member) = self.members.get(&worker) else {
            return Ok(());
        };
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
        connection: OwnedFd,
    ) -> Result<(), OwnedFd> {
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

/// Reports an exit once the process has been reaped and its last words have been read.
async fn watch_exit(
    worker: WorkerId,
    pid: u32,
    process: Arc<Process>,
    output: Output,
    channel_ended: oneshot::Receiver<()>,
    inputs: mpsc::UnboundedSender<Input>,
) {
    let status = loop {
        let Ok(mut ready) = process.pidfd.readable().await else {
            break ExitStatus::Unknown;
        };
        // Helpers that it started go with it. Its number is still its group's: it is not reaped.
        let _ = spawn::send_group(pid, Signal::TERM);
        match spawn::reap(process.pidfd.get_ref()) {
            Ok(Some(Exit::Code(code))) => break ExitStatus::Code(code),
            Ok(Some(Exit::Signal(signal))) => break ExitStatus::Signal(signal),
            Ok(Some(Exit::Unknown)) | Err(_) => break ExitStatus::Unknown,
            Ok(None) => ready.clear_ready(),
        }
    };
    process.is_reaped.store(true, Ordering::Relaxed);
    let last_words = async {
        let _ = channel_ended.await;
    };
    let _ = tokio::join!(
        tokio::time::timeout(LAST_WORDS, last_words),
        output.drained()
    );
    let _ = inputs.send(Input::Exited(worker, status));
}
