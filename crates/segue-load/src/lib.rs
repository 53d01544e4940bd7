//! A strict load client for HTTP/1.1, WebSocket and, by the feature `http2`, HTTP/2, in the clear
//! and, by the feature `tls`, over TLS: it never retries, checks every answer, and counts every
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
//! | `x-segue-port` | the port of the client as the app sees it: that the connection is still the same |
//! | `x-body-sha256` | SHA-256, in lowercase hex, of the body: of the request's if it had one, else of the answer's |
//!
//! A header that is there is checked even if the contract does not require it. The paths,
//! each of which can be changed in its kind of load:
//!
//! - `GET /`: any body.
//! - `POST /echo`: answers with the body of the request.
//! - `GET /download?bytes=B&ms=T`: answers with B bytes, spread over T milliseconds; the byte at
//!   offset i is `(n + i) % 251`, so that the client knows them without asking ([`pattern_sha256`]).
//!   With `chunked=1` without a length.
//! - `GET /delay?ms=T`: any body, after T milliseconds.
//! - `GET /events?count=C&ms=T`: C server-sent events over T milliseconds; the one with the id i,
//!   from 0, has the data n + i.
//! - `GET /ws`: a WebSocket that sends each message back. `x-segue-version` and `x-segue-worker`
//!   are read from its handshake.
//!
//! # What is counted apart
//!
//! A WebSocket message that was under way when the server's close frame came
//! ([`ClassReport::lost_echoes`]), and an HTTP/2 stream that the server says it has not begun
//! ([`ClassReport::safe_to_retry`]): neither is a failure, and neither is sent again. A WebSocket
//! connection that ends without the closing handshake is a failure.
//!
//! # What it does not do
//!
//! It starts no server, writes no file, and prints nothing.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod contract;
mod failure;
#[cfg(feature = "http2")]
mod http2;
mod kind;
mod load;
mod mixed;
mod random;
mod report;
mod request;
mod response;
mod table;
mod tally;
mod target;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "http2")]
mod watched;
mod websocket;

pub use contract::Contract;
pub use failure::{Failure, FailureKind};
#[cfg(feature = "http2")]
pub use kind::Http2;
pub use kind::{
    Cut, Download, Events, Framing, Fresh, KeepAlive, Kind, Mixed, Post, Think, Upload, WebSocket,
};
pub use load::{Builder, Load, Running};
pub use report::{Answers, ClassReport, Connections, Latency, Report, WindowReport};
pub use request::pattern_sha256;
pub use tally::Phase;
pub use target::Target;
#[cfg(feature = "tls")]
pub use tls::Tls;
