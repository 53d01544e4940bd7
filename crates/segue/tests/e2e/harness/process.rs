//! Processes of a test: found by a mark in their environment, ended by descriptor, never by a number
//! that may mean somebody else by now.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that every process of a test inherits.
pub(crate) const MARK: &str = "SEGUE_TEST_MARK";

/// A value for [`MARK`] that no other test has.
pub(crate) fn new_mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    descriptor: OwnedFd,
}

impl Process {
    /// None if there is no such process.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let descriptor = pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Self { pid, descriptor })
    }

    /// Sends a signal; a process that has gone already is no failure.
    pub(crate) fn signal(&self, signal: Signal) {
        // ESRCH is the only failure possible between a process and its own descendants.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    /// Whether it ended within `limit`.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).expect("a limit of seconds");
        let mut waited = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut waited, Some(&limit)).is_ok_and(|count| count > 0)
    }
}

/// Every living process with this mark.
pub(crate) fn marked(mark: &str) -> BTreeSet<u32> {
    let wanted = format!("{MARK}={mark}");
    let entries = std::fs::read_dir("/proc").expect("read /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| has_entry(*pid, &wanted) && !is_zombie(*pid))
        .collect()
}

fn has_entry(pid: u32, wanted: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|bytes| {
        bytes
            .split(|byte| *byte == 0)
            .any(|entry| entry == wanted.as_bytes())
    })
}

fn is_zombie(pid: u32) -> bool {
    state(pid).is_none_or(|state| state == 'Z')
}

/// The letter of proc(5) for the process's state.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The processes whose parent this is.
pub(crate) fn children(pid: u32) -> BTreeSet<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A short description of a process, for reports.
pub(crate) fn describe(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    format!("{pid} [{}] {line}", state(pid).unwrap_or('-'))
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The sockets and pipes that a process holds, as `socket:[…]` and `pipe:[…]`.
pub(crate) fn sockets_and_pipes(pid: u32) -> BTreeSet<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            std::fs::read_link(entry.path())
                .ok()?
                .into_os_string()
                .into_string()
                .ok()
        })
        .filter(|name| name.starts_with("socket:") || name.starts_with("pipe:"))
        .collect()
}

/// Processor time in ticks, a hundredth of a second each, of a process and all its threads (proc(5)).
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<u64>().ok())
        .sum()
}

/// Kills whatever has this mark until nothing has it.
pub(crate) fn kill_marked(mark: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let found: Vec<Process> = marked(mark).into_iter().filter_map(Process::open).collect();
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        // The descriptor was opened after the mark was seen: look again, the number may have changed hands.
        let wanted = format!("{MARK}={mark}");
        for process in found
            .iter()
            .filter(|process| has_entry(process.pid, &wanted))
        {
            process.signal(Signal::KILL);
        }
        for process in &found {
            process.ends_within(Duration::from_secs(2));
        }
    }
}

/// Waits until nothing has this mark; what is left at the limit is returned.
pub(crate) fn wait_until_none(mark: &str, limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    loop {
        let left = marked(mark);
        let Some(first) = left.first() else {
            return Vec::new();
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let ended = Process::open(*first).is_none_or(|process| process.ends_within(remaining));
        if !ended {
            return marked(mark).into_iter().map(describe).collect();
        }
    }
}
