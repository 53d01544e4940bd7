//! What becomes of workers' output: the form of a line, and when a file is rotated.

use std::time::Duration;

use super::quantity;
use super::settings::Odd;
use super::values::{positive, size};

/// Everything but where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) format: LogFormat,
    /// Text begins with the time. JSON always tells it.
    pub(crate) time: bool,
    pub(crate) rotation: Rotation,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Our own stdout and stderr, or a file of the background supervisor's choice.
    Usual,
    /// Our own stdout and stderr.
    Stdout,
    /// systemd's journal.
    Journal,
    File,
}

impl Destination {
    /// That of a path as it is written: two words are none.
    pub(crate) fn of(written: Option<&str>) -> Self {
        match written {
            None => Self::Usual,
            Some("stdout") => Self::Stdout,
            Some("journald") => Self::Journal,
            Some(_) => Self::File,
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    /// An object on each line.
    Json,
}

impl LogFormat {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// When the log file is rotated, and what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Bytes of one file.
    pub(crate) size: Option<u64>,
    /// Since its first line.
    pub(crate) age: Option<Duration>,
    /// So many rotated ones.
    pub(crate) keep: u32,
    /// Bytes of all of them together, with the one that is written.
    pub(crate) total: Option<u64>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            size: Some(50 << 20),
            age: None,
            keep: 10,
            total: Some(1 << 30),
        }
    }
}

impl Rotation {
    /// Whether segue rotates at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.size.is_some() || self.age.is_some()
    }

    /// # Errors
    /// What cannot be meant together.
    pub(super) fn check(&self) -> Result<(), Odd> {
        match (self.size, self.total) {
            (Some(size), Some(total)) if size > total => Err(Odd::Rotation),
            _ => Ok(()),
        }
    }
}

pub(super) fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("write text or json".to_owned()),
    }
}

pub(super) fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

/// `50MiB` or `off`.
pub(super) fn limit(text: &str) -> Result<Option<u64>, String> {
    match text {
        "off" => Ok(None),
        _ => match size(text) {
            Ok(size) => Ok(Some(size)),
            Err(why) => Err(format!("{why}, or off")),
        },
    }
}

/// `24h` or `off`.
pub(super) fn age(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        _ => match positive(text)? {
            age if age < Duration::from_secs(1) => Err(format!(
                "{} is too short; write 1s or more",
                quantity::human(age)
            )),
            age => Ok(Some(age)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_ages() {
        for (text, expected) in [
            ("off", Some(None)),
            ("50MiB", Some(Some(50 << 20))),
            ("4KiB", Some(Some(4096))),
            ("0MiB", None),
            ("50", None),
            ("50MB", None),
        ] {
            assert_eq!(limit(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("off", Some(None)),
            ("24h", Some(Some(Duration::from_secs(86_400)))),
            ("10ms", None),
            ("0", None),
        ] {
            assert_eq!(age(text).ok(), expected, "{text}");
        }
        assert!(Rotation::default().check().is_ok());
        let total = Some(1 << 20);
        let odd = Rotation {
            total,
            ..Rotation::default()
        };
        assert_eq!(odd.check(), Err(Odd::Rotation));
    }
}
