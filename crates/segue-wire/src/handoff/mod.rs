//! What outlives a supervisor: the state that it writes down, and how it talks to the keeper that
//! holds its descriptors.
//!
//! ```text
//!   log      what is written into the state's memory file: entries, and commits of them
//!   keeper   the packets between supervisor and keeper; frozen
//! ```
//!
//! Descriptors, files and the meaning of what is written down stay with the caller.

pub mod keeper;
pub mod log;

pub use keeper::{FromKeeper, ToKeeper};
pub use log::{Contents, Entry, LogError, Transaction};
