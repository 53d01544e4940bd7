//! segue: a zero-downtime application server. Parses, dispatches, and turns the result into
//! an exit code; nothing else happens here.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod control;
mod exit;
mod foreground;
mod handoff;
mod keeper;
mod listener;
mod service;
mod supervisor;
mod telemetry;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    let role = foreground::Role::of(&words);
    match role {
        foreground::Role::Probe => return foreground::probe(),
        foreground::Role::Supervisor | foreground::Role::Successor => drop(words.remove(1)),
        foreground::Role::Command => {}
    }
    cli::main(words, |run| foreground::run(role, &run))
}
