//! Every exit code, once. Scripts and service units depend on them: a number never changes its meaning.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done as asked.
    Done,
    /// It failed and nothing has changed: a reload that was rolled back, a first start that never got ready.
    Failed,
    /// Wrong usage or configuration; nothing was tried.
    Usage,
    /// No supervisor is running, or it has no app of that name.
    NotFound,
    /// Refused because another operation is in the way, or overtaken by a later one.
    Conflict,
    /// Done for some apps or workers, not for all.
    Partly,
    /// The time the caller was willing to wait is over; the operation itself may go on.
    TimedOut,
}

impl Exit {
    /// The number that the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Partly => 5,
            Self::TimedOut => 124,
        }
    }

    /// One result for several apps: the common one, or [`Exit::Partly`] when they differ.
    pub(crate) fn all(exits: impl IntoIterator<Item = Self>) -> Self {
        exits
            .into_iter()
            .reduce(|all, exit| if all == exit { all } else { Self::Partly })
            .unwrap_or(Self::Done)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_results_become_one() {
        assert_eq!(Exit::all([]), Exit::Done);
        assert_eq!(Exit::all([Exit::Failed, Exit::Failed]), Exit::Failed);
        assert_eq!(Exit::all([Exit::Done, Exit::Failed]), Exit::Partly);
        assert_eq!(
            Exit::all([Exit::Done, Exit::Failed, Exit::Done]),
            Exit::Partly
        );
    }
}
