//! What workers may do, and as whom, as a user writes it. Each generation has its own.

use serde::{Deserialize, Serialize};

use super::values::text;

/// The smallest limit of open files: node itself needs some twenty.
const LEAST_FILES: u64 = 64;

/// What a worker may do, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Confinement {
    /// A name or a number.
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
    /// Its limit of open files.
    pub(crate) nofile: Option<u64>,
    pub(crate) no_new_privs: bool,
}

impl Default for Confinement {
    fn default() -> Self {
        Self {
            no_new_privs: true,
            ..Self::none()
        }
    }
}

impl Confinement {
    /// That of an app that an earlier release has started: nothing was held back from it.
    pub(crate) fn none() -> Self {
        Self {
            user: None,
            group: None,
            nofile: None,
            no_new_privs: false,
        }
    }
}

pub(super) fn account(value: &str) -> Result<String, String> {
    let account = text(value)?;
    match account.contains([':', '/', '\n']) || account.starts_with('-') {
        true => Err("write a name, or a number".to_owned()),
        false => Ok(account),
    }
}

pub(super) fn nofile(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|count| (LEAST_FILES..=1 << 30).contains(count))
        .ok_or_else(|| format!("write a number of at least {LEAST_FILES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_and_limits() {
        assert_eq!(account("web"), Ok("web".to_owned()));
        assert_eq!(account("1000"), Ok("1000".to_owned()));
        for text in ["", "a:b", "-1", "../x"] {
            assert!(account(text).is_err(), "{text}");
        }
        assert_eq!(nofile("65536"), Ok(65536));
        for text in ["", "0", "63", "-1", "many", "1.5", "2147483648"] {
            assert!(nofile(text).is_err(), "{text}");
        }
    }
}
