//! segue: a zero-downtime application server. Parses, dispatches, and turns the result into
//! an exit code; nothing else happens here.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod control;
mod exit;
mod foreground;
mod keeper;
mod listener;
mod supervisor;
mod telemetry;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    let is_supervisor = words
        .get(1)
        .is_some_and(|word| word == keeper::SUPERVISOR_ARGUMENT);
    if is_supervisor {
        words.remove(1);
    }
    cli::main(words, |run| match is_supervisor {
        true => foreground::supervise(&run),
        false => foreground::keep(&run),
    })
}
