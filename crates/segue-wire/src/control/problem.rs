//! How a request is refused: `{"error": {"code", "message", "next"}}` and the HTTP status for it.

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    pub error: Problem,
}

/// What failed and why, for a program (`code`) and for people (`message`, `next`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub code: ProblemCode,
    /// What failed: why. One line.
    pub message: String,
    /// What to do next. One line; empty when there is nothing to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// The reason in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request cannot be understood.
    BadRequest,
    /// The caller is neither root nor the supervisor's own user.
    Forbidden,
    /// There is no such path.
    NoSuchPath,
    /// The supervisor has no app of that name.
    NoSuchApp,
    /// The path exists, but not for this method.
    MethodNotAllowed,
    /// Another operation is in the way.
    Conflict,
    /// The body is longer than [`MAX_BODY`](super::MAX_BODY).
    TooLarge,
    /// The caller took too long to send its request.
    TooSlow,
    /// The supervisor did not answer in time, or has no room for another stream.
    Busy,
    /// The supervisor is at its end.
    Ending,
    /// A code of a newer release.
    #[serde(other)]
    Unknown,
}

impl ProblemCode {
    /// The HTTP status that goes with the code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NoSuchPath | Self::NoSuchApp => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Unknown => 500,
            Self::Busy | Self::Ending => 503,
        }
    }
}

impl Problem {
    #[must_use]
    pub fn new(code: ProblemCode, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            next: next.into(),
        }
    }

    /// The supervisor has no app of this name; `known` are those it has.
    #[must_use]
    pub fn no_such_app(name: &str, known: &[&str]) -> Self {
        let next = if known.is_empty() {
            String::new()
        } else {
            format!("it runs: {}", known.join(", "))
        };
        Self::new(
            ProblemCode::NoSuchApp,
            format!("this supervisor has no app named {name:?}"),
            next,
        )
    }
}
