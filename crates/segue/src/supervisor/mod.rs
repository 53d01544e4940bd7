//! The supervisor process: turns what happens into events for the core and performs its actions.
//!
//! ```text
//!                            each app (app_shell)
//!   signals ─┐              ┌──────────────────────────────────────────────────────┐
//!   control ─┤   ┌──────┐   │  ┌──────┐   ┌─▶ crew       processes, channels, output │
//!   workers ─┼──▶│ run  │──▶│  │ core │──▶├─▶ listener   sockets, sets, queues        │
//!   timer   ─┤   └──────┘   │  └──────┘   ├─▶ callers    who asked, and is told       │
//!   keeper  ─┘   one loop   │  decides    └─▶ records, history                        │
//!                           └──────────────────────────────────────────────────────┘
//!                 roster: which apps there are; recollection, reread: from where
//! ```
//!
//! One thread, one loop. The loop only builds an event; nothing slow is awaited in it. Whatever
//! takes time runs as a task and comes back as an input that names what it is about.

mod app_shell;
mod approach;
mod attachment;
mod booting;
mod commands;
mod control_socket;
mod crew;
mod dispatch;
mod draining;
mod edits;
mod enclosure;
mod eye;
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
mod plan;
mod proving;
mod recollection;
mod records;
mod requests;
mod reread;
mod revival;
mod roster;
mod run;
#[cfg(test)]
mod samples;
mod service;
mod signals;
mod story;
mod succession;
mod triggers;
mod upgrade;
mod watching;

pub(crate) use plan::Host;
pub(crate) use run::{Beginning, Ended, run};
pub(crate) use service::tell_failure;
pub(crate) use succession::check;
pub(crate) use upgrade::{PROBE_ARGUMENT, PROBE_STATE, Probed};
