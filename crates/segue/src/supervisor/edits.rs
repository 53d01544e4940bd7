//! Changes of files, gathered until they cease: pure, with time as an argument.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use segue_core::Time;

/// So long nothing more must change.
const QUIET: Duration = Duration::from_millis(300);

/// After the first change nothing is waited for any longer than this.
const LONGEST: Duration = Duration::from_secs(2);

/// What has happened to a file; its path is below the directory that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// It is there, and about to be written.
    Made(PathBuf),
    Changed(PathBuf),
    Gone(PathBuf),
}

/// What has changed, for one reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    files: BTreeSet<PathBuf>,
    first: PathBuf,
}

/// Changes on their way.
#[derive(Debug, Default)]
pub(super) struct Edits {
    changes: Changes,
    /// They were not there before.
    made: BTreeSet<PathBuf>,
    /// When the first change was, and the last.
    since: Option<(Time, Time)>,
}

impl Edits {
    pub(super) fn note(&mut self, now: Time, edit: Edit) {
        let files = &mut self.changes.files;
        match edit {
            Edit::Made(path) => {
                if !files.contains(&path) {
                    self.made.insert(path);
                }
                return;
            }
            // A file for the time of writing, as editors and `sed -i` make one.
            Edit::Gone(path) if self.made.remove(&path) => {
                files.remove(&path);
                if files.is_empty() {
                    self.since = None;
                }
                return;
            }
            Edit::Changed(path) | Edit::Gone(path) => {
                if files.is_empty() || !files.contains(&self.changes.first) {
                    self.changes.first.clone_from(&path);
                }
                files.insert(path);
            }
        }
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When they are to be told.
    pub(super) fn due(&self) -> Option<Time> {
        let (first, last) = self.since?;
        Some((last + QUIET).min(first + LONGEST))
    }

    /// What there is to tell by now.
    pub(super) fn take(&mut self, now: Time) -> Option<Changes> {
        if self.due()? > now {
            return None;
        }
        self.since = None;
        self.made.clear();
        Some(std::mem::take(&mut self.changes))
    }
}

impl Changes {
    pub(super) fn join(&mut self, more: Self) {
        if self.files.is_empty() {
            self.first = more.first;
        }
        self.files.extend(more.files);
    }

    /// Who asks for the reload, in words.
    pub(super) fn words(&self) -> String {
        let first = match self.files.contains(&self.first) {
            true => Some(&self.first),
            false => self.files.first(),
        };
        let first = first.map_or_else(String::new, |path| plain(path));
        match self.files.len() {
            0 | 1 => format!("a change of {first}"),
            2 => format!("a change of {first} and 1 more file"),
            count => format!("a change of {first} and {} more files", count - 1),
        }
    }
}

/// A path for people, of any name.
fn plain(path: &Path) -> String {
    let text = path.display().to_string();
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Directories that are never looked into.
pub(super) fn is_ignored_directory(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || name == b"node_modules"
}

/// Files that say nothing about the app: what editors put beside the one that they write, and what marks that
/// something runs. A `.env` is none of these.
pub(super) fn is_ignored_file(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_vims = name == b"4913" || {
        let end = name.len().saturating_sub(4);
        let ending = &name[end..];
        name.starts_with(b".") && ending.starts_with(b".sw") && ending.len() == 4
    };
    let begins = |with: &[&[u8]]| with.iter().any(|it| name.starts_with(it));
    let ends = |with: &[&[u8]]| with.iter().any(|it| name.ends_with(it));
    is_vims
        || begins(&[b".#", b"#", b".goutputstream-", b".nfs"])
        || ends(&[b"~", b"___jb_tmp___", b"___jb_old___", b".sock", b".pid"])
        || name == b".DS_Store"
}

/// The log file, or what it was before.
pub(super) fn is_of_log(name: &OsStr, log: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(log.as_encoded_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &str) -> Edit {
        Edit::Changed(path.into())
    }

    #[test]
    fn a_burst_is_told_once_when_it_ceases() {
        let mut edits = Edits::default();
        assert_eq!((edits.due(), edits.take(Time(0))), (None, None));
        for (at, path) in [(1000, "b.js"), (1200, "a.js"), (1400, "b.js")] {
            edits.note(Time(at), changed(path));
            assert_eq!(edits.due(), Some(Time(at + 300)));
        }
        assert_eq!(edits.take(Time(1699)), None);
        let changes = edits.take(Time(1700)).unwrap();
        assert_eq!(changes.words(), "a change of b.js and 1 more file");
        assert_eq!((edits.due(), edits.take(Time(9000))), (None, None));
        edits.note(Time(9000), changed("c.js"));
        assert_eq!(edits.take(Time(9300)).unwrap().words(), "a change of c.js");
    }

    #[test]
    fn one_that_does_not_cease_is_told_all_the_same() {
        let mut edits = Edits::default();
        for step in 0..19 {
            edits.note(Time(step * 100), changed(&format!("{step}.js")));
            assert_eq!(edits.take(Time(step * 100)), None);
        }
        assert_eq!(edits.due(), Some(Time(2000)));
        let words = edits.take(Time(2000)).unwrap().words();
        assert_eq!(words, "a change of 0.js and 18 more files");
    }

    #[test]
    fn a_file_for_the_time_of_writing_is_no_change() {
        let mut edits = Edits::default();
        edits.note(Time(0), Edit::Made("sedAb1".into()));
        assert_eq!(edits.due(), None);
        edits.note(Time(1), changed("sedAb1"));
        edits.note(Time(2), Edit::Gone("sedAb1".into()));
        assert_eq!(edits.due(), None);
        edits.note(Time(2), changed("server.js"));
        assert_eq!(
            edits.take(Time(302)).unwrap().words(),
            "a change of server.js"
        );
        // What was there before and is gone is one, even where it has come back for a moment.
        for edit in [
            Edit::Gone("a.js".into()),
            Edit::Made("a.js".into()),
            Edit::Gone("a.js".into()),
        ] {
            edits.note(Time(1000), edit);
        }
        assert_eq!(edits.take(Time(1300)).unwrap().words(), "a change of a.js");
    }

    #[test]
    fn what_is_ignored() {
        for (name, is_ignored) in [
            ("node_modules", true),
            (".git", true),
            (".next", true),
            ("src", false),
            ("node_modules_of_mine", false),
        ] {
            assert_eq!(is_ignored_directory(name.as_ref()), is_ignored, "{name}");
        }
        for (name, is_ignored) in [
            ("server.js", false),
            (".env", false),
            (".swatch", false),
            ("server.js~", true),
            (".server.js.swp", true),
            (".server.js.swx", true),
            ("4913", true),
            ("#server.js#", true),
            (".#server.js", true),
            ("app.sock", true),
            ("swp", false),
        ] {
            assert_eq!(is_ignored_file(name.as_ref()), is_ignored, "{name}");
        }
        for (name, is_log) in [
            ("web.log", true),
            ("web.log.1", true),
            ("web.log.12.gz", true),
            ("web.logic.js", false),
            ("web", false),
        ] {
            assert_eq!(
                is_of_log(name.as_ref(), "web.log".as_ref()),
                is_log,
                "{name}"
            );
        }
    }
}
