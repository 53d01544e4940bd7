//! Node's cluster channel (`NODE_CHANNEL_FD`, JSON serialisation) as its primary sees it.
//!
//! ```text
//!   bytes ──▶ frame::Decoder ──▶ cluster::Message      what a worker says
//!   order::Order ──▶ one line                          what a worker is told
//!   handle::HandleQueue                                when a line with a descriptor may be sent
//!   ticket::TicketKeys                                 what TLS servers are told about each other
//!   drain                                              what the preload script says and is told
//! ```
//!
//! Descriptors stay with the caller; nothing here does I/O or reads a clock. The facts are those
//! of Node 16 to 26 (`lib/internal/child_process.js`, `lib/internal/cluster/child.js`); recorded
//! conversations with each of them are the fixtures of `tests/transcripts.rs`.

pub mod cluster;
pub mod drain;
pub mod frame;
pub mod handle;
mod loose;
pub mod order;
pub mod ticket;

pub use cluster::{AddressType, HandleType, Message, Place, QueryServer};
pub use drain::{Bypass, Counted, Drain, DrainState, Hello, Idle, Passed, Said, Totals};
pub use frame::{Decoder, Line};
pub use handle::{Acknowledged, HandleQueue, Refused};
pub use order::Order;
pub use ticket::TicketKeys;
