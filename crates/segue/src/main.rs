//! segue: a zero-downtime application server. Parses, dispatches, and turns the result into
//! an exit code; nothing else happens here.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod control;
mod exit;
mod keeper;
mod listener;
mod supervisor;
mod telemetry;
mod worker;

fn main() {}
