//! The product's promises, kept by the real binary: each test runs a supervisor of its own with
//! workers that are Node, or the stand-in where Node's boot would prove nothing.
//!
//! `SEGUE_TEST_NODES=16,18,20,22,24,26` widens the tests that run with several Node versions;
//! `--ignored` runs the long ones.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "a failed test shows what it counted and what the supervisor said"
)]

mod harness;

mod activation;
mod background;
mod bypass;
mod chaos;
mod config;
mod control;
mod control_records;
mod crash;
mod drain;
mod familiar;
mod farewell;
mod faults;
mod ground;
mod health;
mod hook;
mod hygiene;
mod idle;
mod import;
mod leaks;
mod limits;
mod lines;
mod listen;
mod logs;
mod logs_hostile;
mod logs_read;
mod long;
mod losses;
mod output;
mod peers;
mod pm2_day;
mod preload;
mod proof;
mod release;
mod reload;
mod remembered;
mod run;
mod service;
mod signals;
mod state;
mod stop;
mod streams;
mod surge;
mod surroundings;
mod takeover;
mod tasks;
mod top;
mod triggers;
mod upgrade;
mod why;
