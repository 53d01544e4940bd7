//! The main process: starts the supervisor, forwards signals, reaps, mirrors the exit code.
//!
//! It is what a terminal, a service manager or PID 1's place sees, and has to outlive everything
//! else. So it does next to nothing: one thread, no runtime, a single wait for signals, and it
//! knows neither configuration nor workers.

mod aftermath;
mod link;
mod run;

pub(crate) use link::{FromKeeper, Link, LinkError};
pub(crate) use run::{Keeper, SUPERVISOR_ARGUMENT};
