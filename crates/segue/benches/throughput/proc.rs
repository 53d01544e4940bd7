//! Processes as /proc shows them: a family, its processor time, its memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// What proc_pid_stat(5) counts processor time in: USER_HZ, 100 on x86-64 and arm64.
const TICKS_PER_SECOND: u32 = 100;

/// A process and all its descendants.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut all: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // One that has ended meanwhile is no member any more.
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            all.push((pid, parent));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(
            all.iter()
                .filter(|(_, parent)| *parent == member)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    family
}

/// Processor time, user and system, that all of them have used so far.
pub(crate) fn cpu(processes: &[u32]) -> Duration {
    let ticks: u64 = processes
        .iter()
        .filter_map(|&pid| {
            let fields = stat(pid)?;
            // utime and stime, 14 and 15 in proc_pid_stat(5), where the state is 3.
            let user: u64 = fields.get(11)?.parse().ok()?;
            let system: u64 = fields.get(12)?.parse().ok()?;
            Some(user + system)
        })
        .sum();
    Duration::from_secs(ticks) / TICKS_PER_SECOND
}

/// Proportional set size in KiB of those that run this binary: all but the workers.
pub(crate) fn pss_of_binary(processes: &[u32], binary: &Path) -> anyhow::Result<u64> {
    let binary = fs::canonicalize(binary).context("find the binary")?;
    let mut sum = 0;
    for pid in processes {
        if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary) {
            sum += pss(*pid)?;
        }
    }
    Ok(sum)
}

/// Proportional set size in KiB (proc_pid_smaps(5), "Pss").
pub(crate) fn pss(pid: u32) -> anyhow::Result<u64> {
    mapped(pid, "Pss:")
}

/// Resident set size in KiB (proc_pid_smaps(5), "Rss").
pub(crate) fn rss(pid: u32) -> anyhow::Result<u64> {
    mapped(pid, "Rss:")
}

fn mapped(pid: u32, what: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {what} in {path}"))
}

/// Memory in KiB that can be used without swapping.
pub(crate) fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The fields of /proc/PID/stat behind the name, which may hold blanks and brackets itself: state, ppid, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
