//! What an answer must have besides being well-formed.

use std::ops::RangeInclusive;

use crate::response::Head;

/// Which promises of the app are checked. See the crate's documentation for the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// `x-segue-echo` must be there.
    pub number: bool,
    /// `x-segue-version` must be there.
    pub version: bool,
    /// `x-segue-worker` must be there.
    pub worker: bool,
    /// `x-segue-port` must be there, over TCP. It is the client's own port as long as nobody but the kernel stands between.
    pub port: bool,
    /// `x-body-sha256` must be there if the request had a body.
    pub body_sha256: bool,
    /// The answer to a request with a body must repeat the body.
    pub body_echo: bool,
    /// Status codes that are right.
    pub status: RangeInclusive<u16>,
}

impl Contract {
    /// Everything except the port; status 200 only. For the apps of our own tests.
    #[must_use]
    pub fn full() -> Self {
        Self {
            number: true,
            version: true,
            worker: true,
            port: false,
            body_sha256: true,
            body_echo: true,
            status: 200..=200,
        }
    }

    /// Nothing is required of an app that was not written for it, except a status below 500.
    #[must_use]
    pub fn any_app() -> Self {
        Self {
            number: false,
            version: false,
            worker: false,
            port: false,
            body_sha256: false,
            body_echo: false,
            status: 200..=499,
        }
    }
}

impl Contract {
    /// The peer that the app sees must be the client's own connection. The error says how it differs.
    pub(crate) fn check_port(&self, head: &Head, ours: Option<u16>) -> Result<(), String> {
        let Some(ours) = ours else {
            return Ok(());
        };
        match head.field("x-segue-port") {
            Some(seen) if seen == ours.to_string() => Ok(()),
            Some(seen) => Err(format!("the app sees port {seen} instead of {ours}")),
            None if self.port => Err("no x-segue-port".to_owned()),
            None => Ok(()),
        }
    }
}

impl Default for Contract {
    fn default() -> Self {
        Self::full()
    }
}
