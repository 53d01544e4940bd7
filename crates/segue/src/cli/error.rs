//! What went wrong with a command, in the shape that every error has: *what failed: why; what to do next*.

use std::fmt;
use std::time::Duration;

use segue_wire::control::ProblemCode;

use crate::config::quantity::human;
use crate::control::client::ClientError;
use crate::control::find::FindError;
use crate::exit::Exit;

/// One error, ready to be told, and the exit code for it.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) next: String,
    pub(crate) exit: Exit,
}

impl Trouble {
    pub(crate) fn new(
        what: impl Into<String>,
        why: impl fmt::Display,
        next: impl Into<String>,
        exit: Exit,
    ) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
            next: next.into(),
            exit,
        }
    }

    /// No supervisor could be chosen.
    pub(crate) fn finding(what: impl Into<String>, error: FindError) -> Self {
        let (next, exit) = match error {
            FindError::Client(error) => return Self::talking(what, error),
            FindError::None { .. } => (
                "start one with segue run server.js, or name its socket with --control",
                Exit::NotFound,
            ),
            FindError::NoSuchApp { .. } => ("name one of these", Exit::NotFound),
            FindError::Several(_) => ("name the app, or the socket with --control", Exit::Usage),
        };
        Self::new(what, error, next, exit)
    }

    /// The supervisor said no, or nothing.
    pub(crate) fn talking(what: impl Into<String>, error: ClientError) -> Self {
        let (next, exit) = match error {
            ClientError::Refused(problem) => {
                let exit = match problem.code {
                    ProblemCode::NoSuchApp | ProblemCode::Ending => Exit::NotFound,
                    ProblemCode::Conflict => Exit::Conflict,
                    ProblemCode::BadRequest
                    | ProblemCode::NoSuchPath
                    | ProblemCode::MethodNotAllowed => Exit::Usage,
                    ProblemCode::Busy | ProblemCode::TooSlow => Exit::TimedOut,
                    ProblemCode::Forbidden | ProblemCode::TooLarge | ProblemCode::Unknown => {
                        Exit::Failed
                    }
                };
                return Self::new(what, problem.message, problem.next, exit);
            }
            ClientError::NotRunning { .. } => ("start it with segue run server.js", Exit::NotFound),
            ClientError::Connect { .. } => (
                "run the command as the supervisor's user, or as root",
                Exit::Failed,
            ),
            ClientError::TimedOut { .. } => (
                "try again; if it stays so, its own log says more",
                Exit::TimedOut,
            ),
            ClientError::Garbled(_) => (
                "compare segue --version with the supervisor's",
                Exit::Failed,
            ),
            ClientError::Broken(_) => ("see whether it still runs: segue status", Exit::NotFound),
        };
        Self::new(what, error, next, exit)
    }

    /// The caller's patience is over.
    pub(crate) fn overdue(what: impl Into<String>, limit: Duration) -> Self {
        let why = format!("not finished within {}", human(limit));
        Self::new(
            what,
            why,
            "it goes on; segue status shows how far it is",
            Exit::TimedOut,
        )
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if self.next.is_empty() {
            return Ok(());
        }
        write!(f, "; {}", self.next)
    }
}
