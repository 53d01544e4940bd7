//! Which files of an app are watched, as it is written.

use std::path::{Component, Path, PathBuf};

use super::values::text;

/// What a change of brings a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) what: What,
    /// But for these.
    pub(crate) except: Vec<Pattern>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum What {
    #[default]
    Off,
    /// Everything below the app's directory.
    All,
    /// Files and directories below it.
    Only(Vec<PathBuf>),
}

/// Files and directories, and what is in these: a name anywhere, or a path below the app's directory. `*`
/// stands for any part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    names: Vec<String>,
    is_path: bool,
}

impl Watch {
    /// One more value. What is said of everything counts, wherever it stands; without a path to watch,
    /// exceptions are from everything.
    ///
    /// # Errors
    /// It leaves the app's directory.
    pub(super) fn add(&mut self, value: &str) -> Result<(), String> {
        match (value, value.strip_prefix('!')) {
            (_, Some(pattern)) => {
                if self.what == What::Off {
                    self.what = What::Only(Vec::new());
                }
                self.except.push(Pattern::of(pattern)?);
            }
            ("on", None) => self.what = What::All,
            ("off", None) => *self = Self::default(),
            (path, None) => {
                let path = below(path)?;
                match &mut self.what {
                    What::All => {}
                    What::Off => self.what = What::Only(vec![path]),
                    What::Only(paths) => paths.push(path),
                }
            }
        }
        Ok(())
    }
}

impl Pattern {
    fn of(text: &str) -> Result<Self, String> {
        let path = below(text).map_err(|_| {
            "write a name or a path below the app's directory behind the !, such as !uploads or !src/generated".to_owned()
        })?;
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return Err(
                "write what is to be left out behind the !; watch = false watches nothing"
                    .to_owned(),
            );
        }
        Ok(Self {
            names,
            is_path: text.trim_end_matches('/').contains('/'),
        })
    }

    /// Whether a path below the app's directory, or a directory that it is in, is meant.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        let mut parts = path.iter().map(|part| part.to_string_lossy());
        match (self.is_path, self.names.as_slice()) {
            (false, [name]) => parts.any(|part| is_like(&part, name)),
            (_, names) => names
                .iter()
                .all(|name| parts.next().is_some_and(|part| is_like(&part, name))),
        }
    }
}

/// Whether a name is as a pattern says.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let Some(name) = name.strip_prefix(head) else {
        return false;
    };
    let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    let mut ends = ends.filter_map(|at| name.get(at..));
    ends.any(|end| is_like(end, rest))
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
        let watch = |what, except: &[&str]| {
            let except = except
                .iter()
                .map(|it| Pattern::of(it))
                .collect::<Result<_, _>>()?;
            Ok(Watch { what, except })
        };
        let paths = |paths: &[&str]| What::Only(paths.iter().map(PathBuf::from).collect());
        let only = |all: &[&str]| watch(paths(all), &[]);
        for (values, expected) in [
            (&[][..], watch(What::Off, &[])),
            (&["on"], watch(What::All, &[])),
            (&["src", "on", "lib"], watch(What::All, &[])),
            (&["on", "off"], watch(What::Off, &[])),
            (&["src", "server.js"], only(&["src", "server.js"])),
            (&["src/./lib/"], only(&["src/lib"])),
            (&["!uploads"], watch(paths(&[]), &["uploads"])),
            (
                &["on", "!a/b", "!*.log"],
                watch(What::All, &["a/b", "*.log"]),
            ),
            (&["!gen", "src"], watch(paths(&["src"]), &["gen"])),
            (&["src", "!gen", "off"], watch(What::Off, &[])),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
        for refused in ["", "/etc", "..", "src/../..", "a\0b", "!", "!/etc", "!../x"] {
            assert!(of(&[refused]).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, path, expected) in [
            ("uploads", "uploads", true),
            ("uploads", "a/uploads/b.png", true),
            ("uploads/", "uploads/b.png", true),
            ("uploads", "uploads2", false),
            ("*.log", "a/b/web.log", true),
            ("*.log", "a/web.log.1", false),
            ("*", "anything", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("é*", "école", true),
            ("src/gen", "src/gen/x.js", true),
            ("src/gen", "src/genes", false),
            ("src/gen", "lib/src/gen", false),
            ("src/*/x.js", "src/a/x.js", true),
            ("src/*/x.js", "src/a/b/x.js", false),
            ("./uploads", "a/uploads", false),
            ("./uploads", "uploads/x", true),
        ] {
            let found = Pattern::of(pattern).unwrap().matches(Path::new(path));
            assert_eq!(found, expected, "{pattern} {path}");
        }
    }
}
