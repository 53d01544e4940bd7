//! What workers print while there is no supervisor is not lost: it is read by the next one.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;

use crate::harness::run::{LIMIT, Launch, Run};
use crate::takeover::kill_supervisor;

/// Numbered lines of `prints.js`, by worker: those that came, in the order in which they came.
fn printed(run: &Run) -> BTreeMap<u32, Vec<u64>> {
    let mut lines: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for line in run.log.lines() {
        let Some((_, rest)) = line.text.split_once("line ") else {
            continue;
        };
        let mut words = rest.split(' ');
        let mut next = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(pid), Some(number)) = (next(), next()) else {
            panic!("torn: {}", line.text);
        };
        let length = usize::try_from(number % 200).expect("small");
        assert_eq!(
            words.next().unwrap_or_default(),
            "x".repeat(length) + ".",
            "torn: {}",
            line.text
        );
        let pid = u32::try_from(pid).expect("a pid");
        lines.entry(pid).or_default().push(number);
    }
    lines
}

/// Lines that are missing before the last one, and those that came again.
fn lost_and_repeated(run: &Run, workers: &[u32]) -> (usize, usize) {
    let lines = printed(run);
    assert_eq!(lines.keys().copied().collect::<Vec<_>>(), workers);
    let (mut lost, mut repeated) = (0, 0);
    for (pid, numbers) in lines {
        let all: BTreeSet<u64> = numbers.iter().copied().collect();
        let last = *all.last().expect("many");
        lost += (1..=last).filter(|number| !all.contains(number)).count();
        repeated += numbers.len() - all.len();
        eprintln!("{pid}: {last} lines");
    }
    eprintln!("{lost} lost, {repeated} repeated");
    (lost, repeated)
}

/// Interrupts the supervisor so often, with some lines before each time; says what has become of
/// all lines.
fn interrupt(times: usize, interrupt: impl Fn(&Run)) -> (usize, usize) {
    let run = Launch::node("prints.js").start();
    let workers = run.ready_pids();
    let wait_for = |more: usize| {
        let wanted = run.log.mark() + more;
        run.until("more lines", |_| run.log.mark() >= wanted);
    };
    for _ in 0..times {
        wait_for(100);
        interrupt(&run);
    }
    wait_for(1000);
    run.signal(Signal::TERM);
    run.log.wait_for_end(2, LIMIT);
    let counts = lost_and_repeated(&run, &workers);
    run.finish();
    counts
}

#[test]
fn an_upgrade_neither_loses_nor_repeats_a_line() {
    let counts = interrupt(5, |run| {
        run.upgrade().expect(0);
    });
    assert_eq!(counts, (0, 0));
}

fn killed(times: usize) {
    let (lost, repeated) = interrupt(times, |run| {
        kill_supervisor(run);
    });
    assert_eq!(lost, 0);
    // Those that had just been written when it was killed, of two workers' two streams.
    assert!(repeated <= 8 * times, "{repeated}");
}

#[test]
fn no_line_is_lost_with_a_supervisor() {
    killed(10);
}

#[test]
#[ignore = "long"]
fn no_line_is_lost_with_two_hundred_supervisors() {
    killed(200);
}
