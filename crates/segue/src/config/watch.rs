//! Which files of an app are watched, as it is written.

use std::path::{Component, Path, PathBuf};

use super::values::text;

/// What a change of brings a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watch {
    #[default]
    Off,
    /// Everything below the app's directory.
    All,
    /// Files and directories below it.
    Only(Vec<PathBuf>),
}

impl Watch {
    /// One more value. What is said of everything counts, wherever it stands.
    ///
    /// # Errors
    /// It leaves the app's directory.
    pub(super) fn add(&mut self, value: &str) -> Result<(), String> {
        match value {
            "on" => *self = Self::All,
            "off" => *self = Self::Off,
            path => {
                let path = below(path)?;
                match self {
                    Self::All => {}
                    Self::Off => *self = Self::Only(vec![path]),
                    Self::Only(paths) => paths.push(path),
                }
            }
        }
        Ok(())
    }
}

fn below(value: &str) -> Result<PathBuf, String> {
    let path = text(value).map_err(|_| "write on, off, or a path below the app's directory")?;
    let path = Path::new(&path);
    let is_below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    match path.components().all(is_below) {
        true => Ok(path.components().collect()),
        false => {
            Err("write a path below the app's directory; a link may lead elsewhere".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let of = |values: &[&str]| {
            let mut watch = Watch::default();
            values.iter().try_for_each(|value| watch.add(value))?;
            Ok::<_, String>(watch)
        };
        let only = |paths: &[&str]| Ok(Watch::Only(paths.iter().map(PathBuf::from).collect()));
        for (values, expected) in [
            (&[][..], Ok(Watch::Off)),
            (&["on"], Ok(Watch::All)),
            (&["src", "on", "lib"], Ok(Watch::All)),
            (&["on", "off"], Ok(Watch::Off)),
            (&["src", "server.js"], only(&["src", "server.js"])),
            (&["src/./lib/"], only(&["src/lib"])),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
        for refused in ["", "/etc", "..", "src/../..", "a\0b"] {
            assert!(of(&[refused]).is_err(), "{refused:?}");
        }
    }
}
