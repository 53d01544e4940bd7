//! The control API: server, client, and the translation between core and wire.
//!
//! ```text
//!   cli ──▶ find ──▶ client ══ Unix socket ══ server ──▶ Command ──▶ supervisor loop ──▶ core
//!                      ▲                        │                         │
//!                      └── Status, Progress ────┘◀── convert ◀── Callers ─┘
//! ```
//!
//! The server decides nothing: it checks who calls, reads a request, and hands it on as a
//! [`Command`](command::Command). Callers come and go; what they asked for goes on without them.

mod answer;
pub(crate) mod callers;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod convert;
pub(crate) mod exposition;
pub(crate) mod find;
mod metrics;
pub(crate) mod names;
pub(crate) mod runtime;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod wording;

#[cfg(test)]
mod convert_tests;
#[cfg(test)]
mod story_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wording_tests;
