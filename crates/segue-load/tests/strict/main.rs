//! The client against servers in the same process: good ones, and ones that misbehave on purpose.

#![expect(
    clippy::unwrap_used,
    reason = "a server of the tests that cannot go on fails its test"
)]

mod app;
mod behaving;
mod http2;
mod kept;
mod misbehaving;
mod tls;
mod websocket;
