//! The main process: starts the supervisor, holds its descriptors, forwards signals, reaps, starts
//! another supervisor when one dies, mirrors the exit code.
//!
//! It is what a terminal, a service manager or PID 1's place sees, and has to outlive everything
//! else. So it does next to nothing: one thread, no runtime, a single wait, and it knows neither
//! configuration nor workers.

mod aftermath;
mod held;
mod link;
mod restart;
mod run;
mod terminal;

pub(crate) use link::{KEEPER_FD, LinkError, Opened, Sender};
pub(crate) use run::{Estate, HELD_FD, KEEPER_ARGUMENT, Keeper, SUPERVISOR_ARGUMENT};
