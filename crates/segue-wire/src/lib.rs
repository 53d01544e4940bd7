//! Bytes and types of every format that segue speaks: Node's cluster channel, the control
//! API's bodies, the steering program, what outlives a supervisor. Pure and total: no I/O, no
//! panic on any input, no allocation from a length that a peer chose. It knows nothing of the core.

#![forbid(unsafe_code)]

pub mod control;
pub mod handoff;
pub mod node;
pub mod steering;
