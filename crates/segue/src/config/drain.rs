//! The settings of a drain that only the shell needs: what becomes of connections, and how a
//! worker is told to end. Deadlines are the core's.

use std::time::Duration;

/// How connections are treated when their worker leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrainSettings {
    /// Node workers get the preload script.
    pub(crate) preload: bool,
    pub(crate) idle: IdleRule,
    /// A transfer that moves no byte for so long is given up.
    pub(crate) stall: Duration,
    /// WebSockets are closed at random times within this.
    pub(crate) websocket_after: Duration,
    /// The code in their close frame.
    pub(crate) websocket_code: u16,
    pub(crate) request: StopRequest,
}

/// What becomes of idle keep-alive connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdleRule {
    /// Another worker takes them.
    Migrate,
    /// They are closed after a last response that says so.
    Close,
}

/// How a worker is told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopRequest {
    Term,
    Int,
    /// The app hears this text in its `process.on('message')`.
    Message(String),
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            preload: true,
            idle: IdleRule::Migrate,
            stall: Duration::from_secs(30),
            websocket_after: Duration::from_secs(30),
            websocket_code: 1012,
            request: StopRequest::Term,
        }
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

pub(super) fn idle(text: &str) -> Result<IdleRule, String> {
    match text {
        "migrate" => Ok(IdleRule::Migrate),
        "close" => Ok(IdleRule::Close),
        _ => Err("write migrate or close".to_owned()),
    }
}

/// One that an endpoint may send (RFC 6455, 7.4).
pub(super) fn close_code(text: &str) -> Result<u16, String> {
    let code = text.parse().ok();
    code.filter(|code| matches!(code, 1000..=1014 | 3000..=4999) && !matches!(code, 1004..=1006))
        .ok_or_else(|| "write a close code such as 1012, 1001 or one from 3000 to 4999".to_owned())
}

pub(super) fn stop_request(written: &str) -> Result<StopRequest, String> {
    match written {
        "SIGTERM" | "TERM" => Ok(StopRequest::Term),
        "SIGINT" | "INT" => Ok(StopRequest::Int),
        _ => match written.strip_prefix("message:") {
            Some(message) if !message.is_empty() => Ok(StopRequest::Message(message.to_owned())),
            _ => Err("write SIGTERM, SIGINT, or message:TEXT such as message:shutdown".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_written() {
        assert_eq!([switch("on"), switch("off")], [Ok(true), Ok(false)]);
        assert_eq!(idle("migrate"), Ok(IdleRule::Migrate));
        assert_eq!(idle("close"), Ok(IdleRule::Close));
        assert_eq!(stop_request("SIGTERM"), Ok(StopRequest::Term));
        assert_eq!(stop_request("INT"), Ok(StopRequest::Int));
        let shutdown = StopRequest::Message("shutdown".to_owned());
        assert_eq!(stop_request("message:shutdown"), Ok(shutdown));
        for code in [1000, 1001, 1012, 3000, 4999] {
            assert_eq!(close_code(&code.to_string()), Ok(code));
        }
    }

    #[test]
    fn values_that_cannot_be() {
        assert!(switch("yes").is_err());
        assert!(idle("keep").is_err());
        for text in ["SIGKILL", "message", "message:", ""] {
            assert!(stop_request(text).is_err(), "{text}");
        }
        for text in ["999", "1005", "1006", "1015", "2999", "5000", "x"] {
            assert!(close_code(text).is_err(), "{text}");
        }
    }
}
