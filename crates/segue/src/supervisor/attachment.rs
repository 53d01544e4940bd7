//! Wrappers: a worker that speaks over its channel and never asks for a socket, because it only
//! starts the process that listens. It would never be ready; it is found out and told apart from
//! an app that has started a helper and is still booting.

use std::fs;
use std::time::Duration;

use segue_core::{Event, WorkerId, WorkerPhase};
use segue_sys::diag;

use super::app_shell::AppShell;
use crate::control::names::Measures;

/// Between two looks, while such a worker boots.
const LOOK: Duration = Duration::from_millis(250);

/// A worker that boots uses its processor; one that did nothing at so many looks in a row waits
/// for the process below it.
const IDLE_LOOKS: u8 = 3;

impl AppShell {
    /// A worker has begun to speak: looks at it until it asks for a socket.
    pub(super) fn look_soon(&mut self) {
        let soon = self.now() + LOOK;
        self.next_look.get_or_insert(soon);
    }

    pub(super) fn look_for_wrappers(&mut self) {
        let booting: Vec<WorkerId> = self
            .core
            .view()
            .workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Booting)
            .map(|worker| worker.worker)
            .collect();
        let suspects: Vec<(WorkerId, u32)> = self
            .crew
            .members()
            .filter(|(worker, member)| {
                member.record.is_attached && !member.record.has_asked && booting.contains(worker)
            })
            .map(|(worker, member)| (worker, member.pid))
            .collect();
        self.next_look = (!suspects.is_empty()).then(|| self.now() + LOOK);
        for (worker, pid) in suspects {
            self.look_at(worker, pid);
        }
    }

    fn look_at(&mut self, worker: WorkerId, pid: u32) {
        let cpu_ms = self.usage(worker).map_or(0, |usage| usage.cpu_ms);
        let listener = i32::try_from(pid)
            .ok()
            .and_then(|pid| diag::listening_descendant(pid).ok().flatten())
            .filter(|listener| !has_channel_of_its_own(listener.pid));
        let Some(member) = self.crew.member_mut(worker) else {
            return;
        };
        let was_idle = cpu_ms == std::mem::replace(&mut member.cpu_ms, cpu_ms);
        member.idle_looks = match listener {
            Some(_) if was_idle => member.idle_looks.saturating_add(1),
            Some(_) | None => 0,
        };
        if let Some(listener) = listener
            && member.idle_looks >= IDLE_LOOKS
        {
            self.records
                .found_wrapper(worker, listener.pid, listener.address);
            self.feed(Event::FoundWrapper { worker });
        }
    }
}

/// Whether the app has forked the process with `child_process.fork`: a helper of its own, which
/// says nothing about the app. A wrapper does not pass a channel on.
fn has_channel_of_its_own(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(b"NODE_CHANNEL_FD="))
    })
}
