//! How workers are while they serve: whether their event loops turn, what they answer while that is
//! counted, and what they say over their notify sockets.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use segue_core::{Event, Time, WorkerId};
use segue_sys::notify::{Notice, NotifyListener};
use segue_sys::readable;
use segue_wire::node::Counted;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::app_shell::{AppShell, Input};
use crate::worker::pulse::{Beat, Pulse};

/// Notices heard at once, so that one who sends without end is heard like the others.
const NOTICES: usize = 64;

/// Longest status that is kept.
const STATUS_LIMIT: usize = 200;

/// A process is looked for among those below a worker so far down.
const DEPTH: usize = 64;

/// The pings of all workers.
#[derive(Debug, Default)]
pub(super) struct Pulses(BTreeMap<WorkerId, Pulse>);

impl Pulses {
    /// When the next one has something to do.
    pub(super) fn due(&self) -> Option<Time> {
        self.0.values().filter_map(Pulse::due).min()
    }
}

/// A worker's notify socket, and whoever waits for what comes.
#[derive(Debug)]
pub(super) struct NoticeWatch {
    socket: Arc<AsyncFd<NotifyListener>>,
    task: AbortHandle,
}

impl Drop for NoticeWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NoticeWatch {
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(super) fn begin(
        worker: WorkerId,
        socket: NotifyListener,
        inputs: mpsc::UnboundedSender<Input>,
    ) -> io::Result<Self> {
        let socket = Arc::new(readable::watch(socket).map_err(|(_, error)| error)?);
        let watched = Arc::clone(&socket);
        let task = tokio::spawn(async move {
            while let Ok(mut ready) = watched.readable().await {
                let (heard, all) = oneshot::channel();
                if inputs.send(Input::Notices(worker, heard)).is_err() || all.await.is_err() {
                    return;
                }
                ready.clear_ready();
            }
        });
        Ok(Self {
            socket,
            task: task.abort_handle(),
        })
    }
}

impl AppShell {
    /// Pings a worker from now on, if somebody wants to know.
    pub(super) fn watch_pulse(&mut self, worker: WorkerId) {
        let has_preload = |worker| {
            let member = self.crew.member(worker);
            member.is_some_and(|member| member.record.drain.hello.is_some())
        };
        if self.plan.settings.health.unresponsive.is_some() && has_preload(worker) {
            self.pulses.0.insert(worker, Pulse::new(self.now()));
        }
    }

    /// A worker that leaves, or is gone, need not answer any more.
    pub(super) fn forget_pulse(&mut self, worker: WorkerId) {
        self.pulses.0.remove(&worker);
    }

    /// Sends the pings that are due, and tells who has not answered.
    pub(super) fn beat(&mut self) {
        let now = self.now();
        let beats: Vec<(WorkerId, Beat)> = self
            .pulses
            .0
            .iter_mut()
            .filter_map(|(worker, pulse)| Some((*worker, pulse.tick(now)?)))
            .collect();
        for (worker, beat) in beats {
            match beat {
                Beat::Ping(number) => match self.crew.channel(worker) {
                    Some(channel) => channel.ping(number),
                    None => self.forget_pulse(worker),
                },
                Beat::Blocked => self.feed(Event::Blocked { worker }),
            }
        }
    }

    pub(super) fn hear_pong(&mut self, worker: WorkerId, number: u64) {
        let now = self.now();
        let pulse = self.pulses.0.get_mut(&worker);
        if pulse.is_some_and(|pulse| pulse.answered(number, now)) {
            self.feed(Event::Unblocked { worker });
        }
    }

    pub(super) fn hear_count(&mut self, worker: WorkerId, counted: Counted) {
        self.feed(Event::Counted {
            worker,
            answers: counted.answers,
            errors: counted.errors,
        });
    }

    /// Something has come over a worker's notify socket. A notice is taken away only after what it led to
    /// has been written down.
    pub(super) fn hear_notices(&mut self, worker: WorkerId, heard: oneshot::Sender<()>) {
        for _ in 0..NOTICES {
            let Some(member) = self.crew.member(worker) else {
                return;
            };
            let Some(watch) = &member.notices else {
                return;
            };
            let socket = Arc::clone(&watch.socket);
            let notice = match socket.get_ref().peek() {
                Ok(Some(notice)) => notice,
                Ok(None) => {
                    let _ = heard.send(());
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, %worker, "cannot read a notify socket");
                    return;
                }
            };
            match notice.sender.is_some_and(|pid| is_below(pid, member.pid)) {
                true => self.hear_notice(worker, &notice),
                false => {
                    tracing::debug!(%worker, sender = notice.sender, "a notice of another process");
                }
            }
            self.journal.commit();
            if let Err(error) = socket.get_ref().discard() {
                tracing::warn!(%error, %worker, "cannot read a notify socket");
                return;
            }
        }
        // There may be more: dropped unread, the readiness would be lost.
        let _ = self.inputs.send(Input::Notices(worker, heard));
    }

    fn hear_notice(&mut self, worker: WorkerId, notice: &Notice) {
        let text = String::from_utf8_lossy(&notice.text);
        let mut is_ready = false;
        for line in text.lines() {
            if line == "READY=1" {
                is_ready = true;
            } else if let Some(status) = line.strip_prefix("STATUS=") {
                let printable = status.chars().filter(|character| !character.is_control());
                let status: String = printable.take(STATUS_LIMIT).collect();
                if let Some(member) = self.crew.member_mut(worker) {
                    member.record.status = Some(status).filter(|status| !status.is_empty());
                }
                self.crew.note(worker);
            }
        }
        if is_ready {
            self.feed(Event::Notified { worker });
        }
    }
}

/// Whether a process is a worker or below it: in its group, or among its descendants.
fn is_below(pid: u32, worker: u32) -> bool {
    let mut above = Some(pid);
    for depth in 0..DEPTH {
        let Some(pid) = above else { return false };
        if pid == worker {
            return true;
        }
        let Some((parent, group)) = family(pid) else {
            return false;
        };
        if depth == 0 && group == worker {
            return true;
        }
        above = (parent > 1).then_some(parent);
    }
    false
}

/// The parent and the group of a process (proc_pid_stat(5), fields 4 and 5).
fn family(pid: u32) -> Option<(u32, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some((parent, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_below_whom() {
        let own = std::process::id();
        assert!(is_below(own, own));
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(is_below(child.id(), own));
        assert!(!is_below(own, child.id()));
        assert!(!is_below(1, own));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_below(child.id(), own), "nobody any more");
    }
}
