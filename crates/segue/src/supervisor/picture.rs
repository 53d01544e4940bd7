//! The supervisor as people see it: names and measures behind the core's numbers.

use std::fs;

use segue_core::{AddressId, Failure, Generation, SlotId, WorkerId};
use segue_wire::control as wire;

use super::app_shell::AppShell;
use crate::control::names::{Measures, Names, OutOfMemory, Usage};
use crate::listener::Counts;

impl Names for AppShell {
    fn app(&self) -> &str {
        &self.plan.app.name
    }

    fn pid(&self, worker: WorkerId) -> Option<u32> {
        match self.crew.member(worker) {
            Some(member) => Some(member.pid),
            None => self.records.deceased(worker)?.pid,
        }
    }

    fn address(&self, address: AddressId) -> String {
        self.pool.describe(address)
    }

    fn workers(&self) -> u32 {
        u32::try_from(self.core.view().slots.len()).unwrap_or(u32::MAX)
    }

    fn tail(&self, worker: WorkerId) -> Vec<String> {
        match self.crew.member(worker) {
            Some(member) => member.output.tail(),
            None => self
                .records
                .deceased(worker)
                .map(|dead| dead.tail.clone())
                .unwrap_or_default(),
        }
    }

    fn detail(&self, failure: &Failure) -> Option<String> {
        self.records.detail(failure)
    }

    fn advice(&self, _failure: &Failure) -> Option<String> {
        None
    }

    fn out_of_memory(&self, worker: WorkerId) -> Option<OutOfMemory> {
        self.records.deceased(worker)?.out_of_memory
    }

    fn draining(&self, worker: WorkerId) -> Option<wire::Draining> {
        self.shown_drain(worker)
    }
}

impl Measures for AppShell {
    fn usage(&self, worker: WorkerId) -> Option<Usage> {
        let member = self.crew.member(worker)?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", member.pid)).ok()?;
        let (memory, cpu_ms) = parse_stat(&stat)?;
        let age = self.now().since(member.spawned);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Some(Usage {
            memory,
            cpu_ms,
            age_ms,
        })
    }

    fn connections(&self, worker: WorkerId) -> Option<u32> {
        let state = self.crew.member(worker)?.record.drain.state?;
        u32::try_from(state.connections()).ok()
    }

    fn queued(&self, address: AddressId) -> Option<u32> {
        self.pool.queue_lengths(address).into_iter().sum()
    }

    fn release(&self, generation: Generation) -> Option<String> {
        let release = self.releases.get(&generation)?;
        Some(release.directory().display().to_string())
    }

    fn revision(&self, generation: Generation) -> Option<wire::Revision> {
        self.releases.get(&generation)?.revision().cloned()
    }

    fn log(&self) -> Option<wire::Log> {
        let writer = &self.plan.writer;
        let path = writer.log_path()?.display().to_string();
        let layout = writer.layout();
        Some(wire::Log {
            path,
            format: layout.format.name().to_owned(),
            time: layout.time,
        })
    }

    fn source(&self) -> Option<String> {
        let origin = self.plan.app.origin.as_ref()?;
        Some(origin.file.display().to_string())
    }

    fn leaves(&self, worker: WorkerId) -> Option<String> {
        self.records.why_leaving(worker).cloned()
    }

    fn last_reload(&self) -> Option<wire::ReloadRecord> {
        self.history.last_reload().cloned()
    }

    fn restarts(&self) -> Vec<wire::RestartCount> {
        self.history.counts().to_vec()
    }

    fn stragglers(&self) -> wire::Stragglers {
        let Counts {
            handed_over,
            migrated,
            reset,
            expired,
        } = self.stragglers.counts();
        wire::Stragglers {
            handed_over,
            migrated,
            refused: reset,
            expired,
        }
    }

    fn drain(&self, worker: WorkerId) -> (wire::Drain, Option<String>) {
        self.drain_kind(worker)
    }

    fn bypasses(&self, worker: WorkerId) -> Vec<String> {
        let member = self.crew.member(worker);
        member.map_or_else(Vec::new, |member| member.record.drain.bypasses.clone())
    }

    fn last_failure(&self, slot: SlotId) -> Option<wire::Failure> {
        self.records.last_failure(slot).cloned()
    }
}

/// What this process itself has in memory.
pub(super) fn own_memory() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    parse_stat(&stat).map(|(memory, _)| memory)
}

/// Resident memory in bytes and processor time in milliseconds (proc_pid_stat(5): fields 14, 15
/// and 24, counted after the name, which may itself hold spaces and parentheses).
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    let per_second = rustix::param::clock_ticks_per_second();
    let cpu_ms = ticks.saturating_mul(1000) / per_second.max(1);
    let memory = field(24)?.saturating_mul(u64::try_from(rustix::param::page_size()).ok()?);
    Some((memory, cpu_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_stat_is_read() {
        let memory = own_memory().unwrap();
        assert!(memory > 100_000, "{memory}");
    }

    #[test]
    fn a_name_with_parentheses_is_no_trouble() {
        let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        let stat = format!("1 (a) b (c) {}", fields.join(" "));
        let ticks = (14 + 15) * 1000 / rustix::param::clock_ticks_per_second();
        let memory = 24 * rustix::param::page_size() as u64;
        assert_eq!(parse_stat(&stat), Some((memory, ticks)));
        assert_eq!(parse_stat("1 (a"), None);
    }
}
