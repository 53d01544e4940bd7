//! A strict HTTP/1.1 load client: it never retries, checks every answer, and counts every
//! failure by kind.
//!
//! ```text
//!   Load::builder() ──▶ Load ──start(target)──▶ Running ──stop()──▶ Report
//!                                                 │  mark(..), committed(..), snapshot(), until(..)
//!                                                 ▼
//!                          clients, one task each: connect, ask, check, tally
//! ```
//!
//! # What counts as a failure
//!
//! Anything that a client with one request and no second try would call an error: see
//! [`FailureKind`]. A keep-alive connection that the server closes while no request is on it is
//! counted, announced (`Connection: close` in the last answer) or not, but is no failure.
//!
//! # The contract with the app
//!
//! Every request carries its number, unique in the run, as the header `x-segue-n: <n>` and,
//! unless [`Builder::number_in_query`] is off, as the query parameter `n`. A [`Contract`] says which of
//! these the answer must have:
//!
//! | header of the answer | meaning |
//! |---|---|
//! | `x-segue-echo` | the number of the request that is answered |
//! | `x-segue-version` | the version of the app |
//! | `x-segue-worker` | the process that answers (a pid or an id) |
//! | `x-body-sha256` | SHA-256, in lowercase hex, of the body: of the request's if it had one, else of the answer's |
//!
//! A header that is there is checked even if the contract does not require it. The paths,
//! each of which can be changed in its kind of load:
//!
//! - `GET /`: any body.
//! - `POST /echo`: answers with the body of the request.
//! - `GET /download?bytes=B&ms=T`: answers with B bytes, spread over T milliseconds; the byte at
//!   offset i is `(n + i) % 251`, so that the client knows them without asking ([`pattern_sha256`]).
//!
//! # What it does not do
//!
//! It starts no server, writes no file, and prints nothing. Pipelining, WebSocket, TLS and
//! HTTP/2 are not spoken; each would be one more [`Kind`], and TLS one more `Stream` below the connection.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod contract;
mod failure;
mod kind;
mod load;
mod random;
mod report;
mod request;
mod response;
mod table;
mod tally;
mod target;

pub use contract::Contract;
pub use failure::{Failure, FailureKind};
pub use kind::{Cut, Download, Framing, Fresh, KeepAlive, Kind, Post, Think};
pub use load::{Builder, Load, Running};
pub use report::{Answers, ClassReport, Connections, Latency, Report, WindowReport};
pub use request::pattern_sha256;
pub use tally::Phase;
pub use target::Target;
