//! A simulated world around the decision core: virtual clock, kernel, workers and clients, seeded
//! chance, and the properties that must hold whatever happens. For tests only; touches nothing real.
//!
//! ```text
//!   Plan (data, from a seed or by hand) ──▶ World ──▶ App ──▶ actions ──▶ World …
//!                                             └──▶ Rules: every property, after every event
//! ```

#![forbid(unsafe_code)]

mod coverage;
mod kernel;
mod plan;
mod process;
mod random;
mod rules;
mod shrink;
mod successor;
mod trace;
mod world;

pub use coverage::Coverage;
pub use plan::{
    Faults, OnDisconnect, OnProbe, OnStop, Plan, Prepare, Release, Request, Script, Step,
};
pub use random::Random;
pub use shrink::{attempt, shrink};
pub use world::{Report, Violation, run};
