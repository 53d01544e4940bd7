//! The supervisor process: turns what happens into events for the core and performs its actions.
//!
//! ```text
//!   signals ─┐                          ┌─▶ crew       processes, channels, output
//!   control ─┤    ┌──────┐   ┌──────┐   ├─▶ listener   sockets, sets, queues
//!   workers ─┼───▶│ run  │──▶│ core │──▶│ perform
//!   timer   ─┤    └──────┘   └──────┘   ├─▶ callers    who asked, and is told
//!   keeper  ─┘   one loop    decides    └─▶ records    what is remembered for people:
//!                                           history    reloads and restarts
//! ```
//!
//! One thread, one loop. The loop only builds an event; nothing slow is awaited in it. Whatever
//! takes time runs as a task and comes back as an input that names what it is about.

mod attachment;
mod booting;
mod commands;
mod control_socket;
mod crew;
mod draining;
mod enclosure;
mod farewell;
mod hear;
mod history;
mod holding;
mod inheritance;
mod intent;
mod logging;
mod memory;
mod origin;
mod perform;
mod picture;
mod proving;
mod records;
mod requests;
mod run;
#[cfg(test)]
mod samples;
mod service;
mod story;
mod succession;
mod upgrade;
mod watching;

pub(crate) use run::{Beginning, Ended, PLAN, Plan, run};
pub(crate) use service::tell_failure;
pub(crate) use succession::check;
pub(crate) use upgrade::{PROBE_ARGUMENT, PROBE_STATE, Probed};
