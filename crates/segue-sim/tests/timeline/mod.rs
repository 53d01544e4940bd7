//! What the timelines have in common: a plan, its trace, and a comparison line by line.

use std::ops::Range;

use segue_sim::{Plan, Release, Script, run};

/// Runs a plan, with every property checked, and compares its trace between two times (seconds).
pub(crate) fn check(plan: &Plan, between: Range<f64>, expected: &str) {
    let seen: Vec<String> = trace(plan)
        .into_iter()
        .filter(|line| {
            let (seconds, _) = line.trim_start().split_once("s ").expect("a time");
            between.contains(&seconds.parse().expect("seconds"))
        })
        .map(|line| line.trim().to_owned())
        .collect();
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    assert!(seen == expected, "it was:\n{}", seen.join("\n"));
}

pub(crate) fn trace(plan: &Plan) -> Vec<String> {
    match run(plan, true) {
        Ok(report) => report.trace,
        Err(violation) => panic!("{}", violation.trace.join("\n")),
    }
}

pub(crate) fn good() -> Release {
    Release::of(vec![Script::listening(300, &[0])])
}
