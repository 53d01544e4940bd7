//! A thousand reloads and a hundred upgrades leave nothing behind: no descriptor, process, thread,
//! nor memory; and no worker is ever given what is not its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::harness::nodes::nodes;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{heavy, lasting};

/// How many of each kind of descriptor a process holds: numbers and names that change are left out.
type Kinds = BTreeMap<String, u32>;

fn kinds(pid: u32) -> Kinds {
    let mut kinds = Kinds::new();
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
    for entry in entries.expect("its descriptors").flatten() {
        // It may have been closed since.
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let kind = match target.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None => target,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Memory that a process has made its own, in KiB (proc_pid_smaps(5)). Pages of the binary do not
/// count: which of them are private depends on what else runs it.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .expect("a number of KiB")
}

/// What a run consists of.
#[derive(Debug, PartialEq)]
struct Census {
    keeper: Kinds,
    supervisor: Kinds,
    workers: Vec<Kinds>,
    processes: usize,
    /// Of the keeper and the supervisor.
    threads: usize,
}

/// The processes of a run, known by a command: whoever counts descriptors asks for nothing meanwhile.
struct Cast {
    keeper: u32,
    supervisor: u32,
    workers: Vec<u32>,
}

impl Cast {
    fn of(run: &Run) -> Self {
        Self {
            keeper: run.main.pid,
            supervisor: run.status().supervisor.pid,
            workers: run.ready_pids(),
        }
    }

    fn memory(&self) -> [u64; 2] {
        [self.keeper, self.supervisor].map(memory)
    }

    fn census(&self, run: &Run) -> Census {
        Census {
            keeper: kinds(self.keeper),
            supervisor: kinds(self.supervisor),
            workers: self.workers.iter().copied().map(kinds).collect(),
            processes: run.processes().len(),
            threads: threads(self.keeper) + threads(self.supervisor),
        }
    }
}

/// One in which nothing is on its way any more: not the connection of the last command either.
fn settled(run: &Run) -> Census {
    let deadline = Instant::now() + LIMIT;
    let cast = Cast::of(run);
    let mut last = cast.census(run);
    let mut alike = 0;
    while alike < 5 {
        assert!(Instant::now() < deadline, "it does not settle: {last:#?}");
        run.log
            .wait_for_news(run.log.mark(), Duration::from_millis(50));
        let next = cast.census(run);
        alike = if next == last { alike + 1 } else { 0 };
        last = next;
    }
    last
}

fn round(run: &Run, what: &str, reloads: u32, upgrades: u32, version: &mut u32) {
    for number in 0..reloads.max(upgrades) {
        if number < reloads {
            *version += 1;
            // The same release again: what is on the disk is not what is looked at here. The old one is
            // gone before the next: three generations at once have more sockets, which are kept.
            run.segue(&["reload", "--wait", "drained"]).expect(0);
        }
        if number < upgrades {
            run.upgrade().expect(0);
        }
    }
    run.until(what, |app| {
        app.generation == *version && app.workers.len() == app.slots.len()
    });
}

fn nothing_is_left_behind(launch: Launch, reloads: u32, upgrades: u32) {
    let run = launch
        .flag("--min-uptime", "0s")
        .flag("--settle", "0s")
        .start();
    let _ = run.get("/");
    let mut version = 1;
    // Buffers and tables grow to their size first.
    round(&run, "warm", reloads / 10, upgrades / 10, &mut version);
    let before = settled(&run);
    // Writing to a String cannot fail.
    let mut report = String::new();
    let _ = writeln!(report, "{before:#?}");
    let mut memory = Vec::new();
    for part in 0..4 {
        round(&run, "a part", reloads / 4, upgrades / 4, &mut version);
        memory.push(Cast::of(&run).memory());
        let _ = writeln!(report, "part {part}: {:?} KiB", memory[part]);
    }
    let after = settled(&run);
    let _ = writeln!(report, "{after:#?}");
    eprintln!("{report}");
    assert_eq!(after, before, "{report}");
    // Each part has had as many reloads since its last upgrade.
    for (first, last) in memory[0].into_iter().zip(memory[3]) {
        assert!(
            last < first + 512,
            "{first} KiB became {last} KiB\n{report}"
        );
    }
    run.finish();
}

#[test]
fn a_thousand_reloads_and_a_hundred_upgrades_leave_nothing_behind() {
    let _turn = lasting();
    nothing_is_left_behind(Launch::standin(""), 1000, 100);
}

#[test]
#[ignore = "long"]
fn a_thousand_reloads_and_a_hundred_upgrades_of_node_leave_nothing_behind() {
    let _turn = heavy();
    for node in nodes() {
        let launch = Launch::node("plain.js").with_node(&node);
        nothing_is_left_behind(launch, 1000, 100);
    }
}
