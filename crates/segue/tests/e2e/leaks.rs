//! A thousand reloads and a hundred upgrades leave nothing behind: no descriptor, process, thread,
//! nor memory; and no worker is ever given what is not its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::harness::heavy;
use crate::harness::nodes::nodes;
use crate::harness::run::{LIMIT, Launch, Run};

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

/// Memory that the process alone has, in KiB (proc_pid_smaps(5)).
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    ["Private_Dirty:", "Private_Clean:"]
        .iter()
        .filter_map(|name| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

/// What a run consists of.
#[derive(Debug, PartialEq)]
struct Census {
    keeper: Kinds,
    supervisor: Kinds,
    workers: Vec<Kinds>,
    processes: usize,
    threads: usize,
    /// Of the keeper and the supervisor.
    memory: [u64; 2],
}

fn census(run: &Run) -> Census {
    let supervisor = run.status().supervisor.pid;
    Census {
        keeper: kinds(run.main.pid),
        supervisor: kinds(supervisor),
        workers: run.ready_pids().into_iter().map(kinds).collect(),
        processes: run.processes().len(),
        threads: threads(run.main.pid) + threads(supervisor),
        memory: [run.main.pid, supervisor].map(memory),
    }
}

/// One in which nothing is on its way any more: not the connection of the last command either.
fn settled(run: &Run) -> Census {
    let deadline = Instant::now() + LIMIT;
    let mut last = census(run);
    let mut alike = 0;
    while alike < 3 {
        assert!(Instant::now() < deadline, "it does not settle: {last:#?}");
        run.log
            .wait_for_news(run.log.mark(), Duration::from_millis(50));
        let memory = last.memory;
        let next = Census {
            memory,
            ..census(run)
        };
        alike = if next == last { alike + 1 } else { 0 };
        last = next;
    }
    Census {
        memory: census(run).memory,
        ..last
    }
}

fn round(run: &Run, what: &str, reloads: u32, upgrades: u32, version: &mut u32) {
    for number in 0..reloads.max(upgrades) {
        if number < reloads {
            *version += 1;
            // The same release again: what is on the disk is not what is looked at here.
            run.reload().expect(0);
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
    let mut report = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(report, "{before:#?}");
    for part in 0..4 {
        round(&run, "a part", reloads / 4, upgrades / 4, &mut version);
        let _ = writeln!(report, "part {part}: {:?} KiB", census(&run).memory);
    }
    let after = settled(&run);
    let _ = writeln!(report, "{after:#?}");
    eprintln!("{report}");
    assert_eq!(after.keeper, before.keeper, "{report}");
    assert_eq!(after.supervisor, before.supervisor, "{report}");
    assert_eq!(after.workers, before.workers, "{report}");
    assert_eq!(after.processes, before.processes, "{report}");
    assert_eq!(after.threads, before.threads, "{report}");
    for (before, after) in before.memory.into_iter().zip(after.memory) {
        assert!(
            after < before + 512,
            "{before} KiB became {after} KiB\n{report}"
        );
    }
    run.finish();
}

#[test]
fn a_thousand_reloads_and_a_hundred_upgrades_leave_nothing_behind() {
    let _turn = heavy();
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
