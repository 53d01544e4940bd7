//! Random schedules: every property of the rules, in many small worlds.
//!
//! `SEGUE_SEED=n cargo test -p segue-sim -- --nocapture replay` shows one run.
//! `SEGUE_SCHEDULES=n cargo test -p segue-sim -- --ignored --nocapture` runs more of them.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "the rig reports how fast it ran and what it saw"
)]

use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use segue_sim::{Coverage, Plan, attempt, run, shrink};

fn explain(seed: u64) -> String {
    let plan = shrink(Plan::random(seed));
    let violation = attempt(&plan, true).expect_err("a shrunk plan fails");
    format!(
        "{plan:#?}\n{}\nseed {seed}: {}\nSEGUE_SEED={seed} replays the whole run",
        violation.trace.join("\n"),
        violation.what
    )
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    coverage: Coverage,
    steps: u64,
    accepted: u64,
    handed_over: u64,
    reset: u64,
}

impl Sum {
    fn of(seeds: impl Iterator<Item = u64>) -> Self {
        let mut sum = Self::default();
        for seed in seeds {
            let plan = Plan::random(seed);
            let report = attempt(&plan, false).unwrap_or_else(|_| panic!("{}", explain(seed)));
            sum.add(&Self {
                coverage: report.coverage,
                steps: report.steps.into(),
                accepted: report.accepted,
                handed_over: report.handed_over,
                reset: report.reset,
            });
        }
        sum
    }

    fn add(&mut self, other: &Self) {
        self.coverage.add(&other.coverage);
        self.steps += other.steps;
        self.accepted += other.accepted;
        self.handed_over += other.handed_over;
        self.reset += other.reset;
    }
}

/// On every processor: a schedule needs nothing of another.
fn run_seeds(seeds: Range<u64>) {
    let begun = Instant::now();
    let count = seeds.end - seeds.start;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let sums = thread::scope(|scope| {
        let parts = (0..threads).map(|part| {
            let seeds = seeds.clone().skip(part).step_by(threads);
            scope.spawn(|| Sum::of(seeds))
        });
        let parts: Vec<_> = parts.collect();
        let sums = parts.into_iter().map(thread::ScopedJoinHandle::join);
        sums.collect::<Vec<_>>()
    });
    let mut sum = Sum::default();
    for part in sums {
        match part {
            Ok(part) => sum.add(&part),
            Err(panic) => resume_unwind(panic),
        }
    }
    let took = begun.elapsed();
    println!(
        "{count} schedules in {took:.1?}: {:.0}/s, {} steps; connections: {} accepted, {} handed over, {} reset",
        count as f64 / took.as_secs_f64(),
        sum.steps,
        sum.accepted,
        sum.handed_over,
        sum.reset
    );
    for (table, kind, times) in sum.coverage.kinds() {
        println!("{table:>8} {kind:<18} {times}");
    }
    // Said by the shell when a signal's function is not possible, never by the core.
    assert_eq!(sum.coverage.missing(), ["notice Refused"], "never occurred");
}

#[test]
fn a_hundred_thousand_schedules() {
    run_seeds(0..100_000);
}

#[test]
#[ignore = "hours, if SEGUE_SCHEDULES says so"]
fn as_many_schedules_as_asked_for() {
    let schedules = std::env::var("SEGUE_SCHEDULES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    run_seeds(1_000_000..1_000_000 + schedules);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..300 {
        let plan = Plan::random(seed);
        assert_eq!(run(&plan, true), run(&plan, true), "seed {seed}");
    }
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("SEGUE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    else {
        return;
    };
    let plan = Plan::random(seed);
    println!("{plan:#?}");
    match run(&plan, true) {
        Ok(report) => println!("{}", report.trace.join("\n")),
        Err(violation) => panic!("{}", violation.trace.join("\n")),
    }
}
