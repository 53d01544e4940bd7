//! The Linux calls that segue needs, in safe types. This is the only crate with `unsafe`
//! code; where rustix has a call, rustix is used.
//!
//! It decides nothing: every function is one kernel fact, returns `io::Result`, and leaves
//! context and recovery to its caller.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod cgroup;
pub mod clock;
mod clone;
pub mod diag;
pub mod exec;
pub mod inherited;
pub mod memory;
pub mod notify;
pub mod passing;
pub mod priority;
pub mod privileges;
pub mod process;
pub mod readable;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod steering;
