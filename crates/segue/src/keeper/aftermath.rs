//! What the keeper owes an app whose supervisor has ended: that nothing of it is left, in a bounded
//! time. Orphans have come to the keeper, so the app is whatever descends from it.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use segue_sys::cgroup::Tree;
use segue_sys::process::{Process, descendants, reap_any};
use segue_sys::signal::{Handled, Signal, Signals};

/// Between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the kernel to take down what was killed.
const AFTER_KILL: Duration = Duration::from_secs(1);

/// How many processes were ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) all: usize,
    pub(super) killed: usize,
}

/// Asks every descendant to stop and kills those that have not after 5 s, or as soon as another
/// signal asks for the end. Returns when none is left, after 6 s at the latest.
pub(super) fn end_descendants(signals: &Signals) -> io::Result<Ended> {
    let us = std::process::id();
    let mut asked = BTreeSet::new();
    let mut killed = BTreeSet::new();
    let began = Instant::now();
    let mut kill_at = began + PATIENCE;
    loop {
        while reap_any()?.is_some() {}
        let left = descendants(us)?;
        let now = Instant::now();
        if left.is_empty() || now >= kill_at + AFTER_KILL {
            if let Some(tree) = Tree::of_this_process() {
                tree.sweep();
            }
            return Ok(Ended {
                all: asked.len(),
                killed: killed.len(),
            });
        }
        // Looked for anew each time: a process may fork while it is being asked.
        let killing = now >= kill_at;
        for process in left {
            signal_once(process, Signal::TERM, &mut asked);
            if killing {
                signal_once(process, Signal::KILL, &mut killed);
            }
        }
        let until = if killing {
            kill_at + AFTER_KILL
        } else {
            kill_at
        };
        // Exits of our children wake us. Grandchildren become children when their parents end.
        let received = signals.wait(Some(until.saturating_duration_since(now)))?;
        let hurry = [Handled::Term, Handled::Int, Handled::Quit];
        if received.is_some_and(|received| hurry.contains(&received.signal)) {
            kill_at = kill_at.min(Instant::now());
        }
    }
}

fn signal_once(process: Process, signal: Signal, done: &mut BTreeSet<(u32, u64)>) {
    // Its parent is no part of its identity: that changes when the parent ends.
    if done.insert((process.pid, process.started)) {
        // Whoever may not be signalled runs as somebody else by now; it is not waited for longer
        // than for the others.
        let _ = process.send_signal(signal);
    }
}
