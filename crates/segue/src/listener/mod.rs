//! The listener pool: a socket for each worker, who gets connections, and queues without a worker.
//!
//! ```text
//!   place     what a worker asks for          → an AddressId
//!   pool      the sockets of every address    ← Action::{Open, Give, Steer, ShutGate, Close}
//!     bind      makes TCP, UDP and abstract sockets
//!     path      makes Unix-domain sockets and moves them onto their path
//!     steer     who of a TCP group gets new connections
//!     inherit   sockets that were there before us
//!     keep      sockets that are there after us
//!     probe     a connection of ours that reaches one worker
//!     gate      holds back new TCP connections at the end
//!     permit    where workers are to listen, and nowhere else
//!     settle    whether a quieted worker has connections coming
//!     succession  what a successor of this process must know of all that
//!   straggler queues that no worker accepts from, and what leaving workers hand over
//!                                                ← Action::{Publish, Tend}
//! ```
//!
//! It decides nothing: which socket is whose and which are in the set is the core's business.
//! Accepted connections never come here, except stragglers.

mod bind;
mod gate;
mod inherit;
mod keep;
mod path;
mod permit;
mod place;
mod pool;
mod probe;
mod settle;
mod steer;
mod straggler;
mod succession;
#[cfg(test)]
mod tests;

pub(crate) use inherit::Inheritance;
pub(crate) use place::Place;
pub(crate) use pool::Pool;
pub(crate) use probe::{NoWay, Way};
pub(crate) use steer::allowed_by_environment;
pub(crate) use straggler::{Counts, HandOver, Migrant, Registry, Resumed, Stragglers, Traveller};
