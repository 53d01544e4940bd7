//! What an answer must have besides being well-formed.

use std::ops::RangeInclusive;

/// Which promises of the app are checked. See the crate's documentation for the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// `x-segue-echo` must be there.
    pub number: bool,
    /// `x-segue-version` must be there.
    pub version: bool,
    /// `x-segue-worker` must be there.
    pub worker: bool,
    /// `x-body-sha256` must be there if the request had a body.
    pub body_sha256: bool,
    /// The answer to a request with a body must repeat the body.
    pub body_echo: bool,
    /// Status codes that are right.
    pub status: RangeInclusive<u16>,
}

impl Contract {
    /// Everything; status 200 only. For the apps of our own tests.
    #[must_use]
    pub fn full() -> Self {
        Self {
            number: true,
            version: true,
            worker: true,
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
            body_sha256: false,
            body_echo: false,
            status: 200..=499,
        }
    }
}

impl Default for Contract {
    fn default() -> Self {
        Self::full()
    }
}
