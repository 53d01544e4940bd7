//! What people are told: the supervisor's own lines, its banner, and debug logs.
//!
//! Everything here makes strings. Writing them without ever waiting for the reader is the
//! supervisor's business.

pub(crate) mod banner;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod rotated;
pub(crate) mod terminal;
