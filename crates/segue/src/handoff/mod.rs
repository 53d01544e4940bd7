//! What a successor of this supervisor finds: a journal of its state, in memory that outlives it,
//! and its descriptors by name. A successor is the same process after an upgrade, or another one
//! after a crash; both begin alike.
//!
//! ```text
//!   journal    written all the time, by whoever changes something       ─▶ keeper
//!   deposit    a descriptor, and what it is                              ─▶ keeper
//!   inherited  read once, at the start, by the same                     ◀─ keeper
//!   text       names and words of the system, which need not be UTF-8
//!   tree       the core's state, as JSON
//! ```
//!
//! It knows neither what is written down nor who holds descriptors ([`Hold`]).

#[cfg(test)]
pub(crate) mod cupboard;
mod deposit;
mod inherited;
mod journal;
pub(crate) mod text;
pub(crate) mod tree;

pub(crate) use deposit::Deposit;
pub(crate) use inherited::{InheritError, Inherited};
pub(crate) use journal::{Hold, Journal};
