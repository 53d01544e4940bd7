//! The kernel's word on an app's files: which directories are watched, and what it says of them. All of it
//! touches disks, and none of it runs in the loop.
//!
//! The mask is ours because of what is not in it: files that are opened, read, or written by somebody who keeps
//! them open (logs, databases) wake nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::approach::Approach;
use super::edits::{Edit, is_ignored_directory, is_ignored_file, is_of_log};
use crate::config::watch::Pattern;

/// More directories than an app's own code has.
const MOST: usize = 20_000;

/// Surveys in a row, where a deployment goes on meanwhile.
const TRIES: u32 = 5;

/// A change of a file: written and closed, there or gone.
const ENTRIES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO);

/// The directory itself goes.
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

/// A name is there, or leads elsewhere.
const TURNS: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO);

/// Why files cannot be watched; with what to do.
#[derive(Debug, Error)]
pub(super) enum Blind {
    #[error(
        "the kernel lets this user watch no more directories; raise it (sysctl fs.inotify.max_user_watches), or watch fewer: watch = [\"src\"], watch = [\"!uploads\"]"
    )]
    Watches,
    #[error(
        "the kernel lets this user have no more watchers; raise it (sysctl fs.inotify.max_user_instances)"
    )]
    Instances,
    #[error("there are more than {MOST} directories; name those with code: watch = [\"src\"]")]
    TooMany,
    #[error("{}: {source}", path.display())]
    System { path: PathBuf, source: io::Error },
}

/// What is to be watched.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// With the links by which it was reached.
    pub(super) cwd: PathBuf,
    /// Below it; none stands for all.
    pub(super) only: Vec<PathBuf>,
    /// But for these.
    pub(super) except: Vec<Pattern>,
    pub(super) log: Option<PathBuf>,
}

/// A directory that is watched.
#[derive(Debug, Default)]
struct Spot {
    path: PathBuf,
    /// Names on the way to the app: if one of them is made anew, all is looked at again.
    turns: BTreeSet<OsString>,
    tree: Option<Tree>,
}

#[derive(Debug)]
struct Tree {
    /// For people.
    relative: PathBuf,
    /// Files of these names only.
    names: Option<BTreeSet<OsString>>,
    is_root: bool,
}

/// What has been heard.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) edits: Vec<Edit>,
    /// The way to the app is another one: [`Eye::open`] again.
    pub(super) is_turned: bool,
}

#[derive(Debug)]
pub(super) struct Eye {
    inotify: OwnedFd,
    except: Vec<Pattern>,
    spots: BTreeMap<i32, Spot>,
    /// The log's directory without links, and its name.
    log: Option<(PathBuf, OsString)>,
}

impl Eye {
    /// Watches.
    ///
    /// # Errors
    /// A limit, or the directory cannot be read.
    pub(super) fn open(what: &Watched) -> Result<Self, Blind> {
        let mut tries = 1;
        loop {
            let approach = Approach::of(&what.cwd);
            let eye = Self::survey(what, &approach)?;
            // Whatever was turned before it was watched is seen here.
            if tries == TRIES || Approach::of(&what.cwd) == approach {
                return Ok(eye);
            }
            tries += 1;
        }
    }

    fn survey(what: &Watched, cwd: &Approach) -> Result<Self, Blind> {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).map_err(|error| match error {
            Errno::MFILE => Blind::Instances,
            error => blind(Path::new("inotify"), error),
        })?;
        let log = what.log.as_ref().and_then(|log| {
            let directory = fs::canonicalize(log.parent()?).ok()?;
            Some((directory, log.file_name()?.to_owned()))
        });
        let mut eye = Self {
            inotify,
            except: what.except.clone(),
            spots: BTreeMap::new(),
            log,
        };
        eye.watch_way(cwd)?;
        let Some(root) = &cwd.real else {
            return Ok(eye);
        };
        if what.only.is_empty() {
            eye.plant(root, Path::new(""), true, &mut Vec::new())?;
            return Ok(eye);
        }
        for path in &what.only {
            let way = Approach::of(&root.join(path));
            eye.watch_way(&way)?;
            let Some(real) = &way.real else {
                continue;
            };
            if real.is_dir() {
                eye.plant(real, path, true, &mut Vec::new())?;
            } else if let (Some(directory), Some(name)) = (real.parent(), real.file_name()) {
                let relative = path.parent().unwrap_or(Path::new(""));
                eye.watch_file(directory, relative, name)?;
            }
        }
        Ok(eye)
    }

    /// For waiting; reading is done here.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.try_clone()
    }

    fn add(&mut self, path: &Path, flags: WatchFlags) -> Result<&mut Spot, Blind> {
        let flags = flags | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        let number = inotify::add_watch(&self.inotify, path, flags);
        let number = number.map_err(|error| blind(path, error))?;
        let spot = self.spots.entry(number).or_default();
        spot.path = path.to_owned();
        Ok(spot)
    }

    fn watch_way(&mut self, way: &Approach) -> Result<(), Blind> {
        for (directory, name) in &way.turns {
            match self.add(directory, TURNS) {
                Ok(spot) => drop(spot.turns.insert(name.clone())),
                Err(error) => error.or_unless_odd()?,
            }
        }
        Ok(())
    }

    fn watch_file(&mut self, at: &Path, relative: &Path, name: &OsStr) -> Result<(), Blind> {
        let spot = self.add(at, ENTRIES)?;
        let tree = spot.tree.get_or_insert_with(|| Tree {
            relative: relative.to_owned(),
            names: Some(BTreeSet::new()),
            is_root: false,
        });
        if let Some(names) = &mut tree.names {
            names.insert(name.to_owned());
        }
        Ok(())
    }

    /// Watches a directory with all that are below it. `found` gets the files that are there.
    fn plant(
        &mut self,
        root: &Path,
        relative: &Path,
        is_root: bool,
        found: &mut Vec<PathBuf>,
    ) -> Result<(), Blind> {
        let mut rest = vec![(root.to_owned(), relative.to_owned(), is_root)];
        while let Some((path, relative, is_root)) = rest.pop() {
            if self.spots.len() >= MOST {
                return Err(Blind::TooMany);
            }
            let flags = match is_root {
                true => ENTRIES | ITSELF,
                false => ENTRIES,
            };
            let spot = match self.add(&path, flags) {
                Ok(spot) => spot,
                Err(error) if is_root => return Err(error),
                // One that has just gone, or that we may not read.
                Err(error) => {
                    error.or_unless_odd()?;
                    continue;
                }
            };
            spot.tree = Some(Tree {
                relative: relative.clone(),
                names: None,
                is_root,
            });
            let Ok(entries) = fs::read_dir(&path) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if self.is_excepted(&relative.join(&name)) {
                    continue;
                }
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && !is_ignored_directory(&name) {
                    rest.push((path.join(&name), relative.join(&name), false));
                } else if !is_directory && !is_ignored_file(&name) {
                    found.push(relative.join(&name));
                }
            }
        }
        Ok(())
    }

    fn is_excepted(&self, relative: &Path) -> bool {
        self.except.iter().any(|pattern| pattern.matches(relative))
    }

    /// Reads what there is.
    ///
    /// # Errors
    /// New directories cannot be watched.
    pub(super) fn read(&mut self) -> Result<Seen, Blind> {
        let mut heard = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    heard.push((event.wd(), event.events(), name));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(blind(Path::new("inotify"), error)),
            }
        }
        let mut seen = Seen::default();
        for (number, events, name) in heard {
            self.hear(number, events, name, &mut seen)?;
        }
        Ok(seen)
    }

    fn hear(
        &mut self,
        number: i32,
        events: ReadFlags,
        name: Option<OsString>,
        seen: &mut Seen,
    ) -> Result<(), Blind> {
        let has = |flag| events.contains(flag);
        if has(ReadFlags::QUEUE_OVERFLOW) {
            // More than the kernel could tell: something has changed, and directories may be new.
            seen.is_turned = true;
            seen.edits.push(Edit::Changed("many files".into()));
            return Ok(());
        }
        let Some(spot) = self.spots.get(&number) else {
            return Ok(());
        };
        let is_root = spot.tree.as_ref().is_some_and(|tree| tree.is_root);
        if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
            seen.is_turned |= is_root || !spot.turns.is_empty();
            if has(ReadFlags::IGNORED) {
                self.spots.remove(&number);
            }
            return Ok(());
        }
        let Some(name) = name else {
            return Ok(());
        };
        if spot.turns.contains(&name) && events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
        {
            seen.is_turned = true;
            seen.edits.push(Edit::Changed(name.into()));
            return Ok(());
        }
        let Some(tree) = &spot.tree else {
            return Ok(());
        };
        if tree
            .names
            .as_ref()
            .is_some_and(|names| !names.contains(&name))
        {
            return Ok(());
        }
        let (path, relative) = (spot.path.join(&name), tree.relative.join(&name));
        if self.is_excepted(&relative) {
            return Ok(());
        }
        if has(ReadFlags::ISDIR) {
            return self.hear_directory(&name, &path, relative, events, seen);
        }
        let is_log = self
            .log
            .as_ref()
            .is_some_and(|(at, log)| *at == spot.path && is_of_log(&name, log));
        if is_log || is_ignored_file(&name) {
            return Ok(());
        }
        if events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            seen.edits.push(Edit::Gone(relative));
        } else if has(ReadFlags::CLOSE_WRITE) {
            seen.edits.push(Edit::Changed(relative));
        } else if let Ok(about) = fs::symlink_metadata(&path) {
            let kind = about.file_type();
            let is_special = kind.is_socket() || kind.is_fifo();
            // A link is whole at once; a file is about to be written.
            let is_whole = has(ReadFlags::MOVED_TO) || kind.is_symlink() || about.nlink() > 1;
            match is_whole {
                _ if is_special => {}
                true => seen.edits.push(Edit::Changed(relative)),
                false => seen.edits.push(Edit::Made(relative)),
            }
        }
        Ok(())
    }

    fn hear_directory(
        &mut self,
        name: &OsStr,
        path: &Path,
        relative: PathBuf,
        events: ReadFlags,
        seen: &mut Seen,
    ) -> Result<(), Blind> {
        if is_ignored_directory(name) {
            return Ok(());
        }
        if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            // Files may have been there before the watch was.
            let mut found = Vec::new();
            self.plant(path, &relative, false, &mut found)
                .or_else(Blind::or_unless_odd)?;
            seen.edits.extend(found.into_iter().map(Edit::Changed));
        } else if events.contains(ReadFlags::MOVED_FROM) {
            let gone = self
                .spots
                .iter()
                .filter(|(_, spot)| spot.path.starts_with(path));
            let gone: Vec<i32> = gone.map(|(number, _)| *number).collect();
            for number in gone {
                self.spots.remove(&number);
                // The kernel may have forgotten it by itself.
                let _ = inotify::remove_watch(&self.inotify, number);
            }
            seen.edits.push(Edit::Gone(relative));
        }
        Ok(())
    }
}

impl Blind {
    /// A limit is one for all directories; anything else concerns this one, and is no reason to give up.
    fn or_unless_odd(self) -> Result<(), Self> {
        match self {
            Self::System { .. } => Ok(()),
            limit @ (Self::Watches | Self::Instances | Self::TooMany) => Err(limit),
        }
    }
}

fn blind(path: &Path, error: Errno) -> Blind {
    match error {
        Errno::NOSPC => Blind::Watches,
        error => Blind::System {
            path: path.to_owned(),
            source: error.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::keys::KEYS;
    use crate::config::settings::AppSettings;

    fn eye(cwd: &Path, only: &[&str]) -> (Watched, Eye) {
        let what = Watched {
            cwd: cwd.to_owned(),
            only: only.iter().map(PathBuf::from).collect(),
            except: Vec::new(),
            log: Some(cwd.join("web.log")),
        };
        let eye = Eye::open(&what).unwrap();
        (what, eye)
    }

    fn changed(seen: &Seen) -> Vec<&str> {
        let paths = seen.edits.iter().filter_map(|edit| match edit {
            Edit::Changed(path) | Edit::Gone(path) => path.to_str(),
            Edit::Made(_) => None,
        });
        paths.collect()
    }

    #[test]
    fn files_are_seen_and_what_is_not_the_apps_code_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let here = fs::canonicalize(directory.path()).unwrap();
        for name in ["src", "node_modules/a", ".git"] {
            fs::create_dir_all(here.join(name)).unwrap();
        }
        fs::write(here.join("server.js"), "1").unwrap();
        let (_, mut eye) = eye(&here, &[]);
        for name in [
            "node_modules/a/x.js",
            ".git/HEAD",
            "web.log",
            "web.log.1.gz",
            "a.js~",
        ] {
            fs::write(here.join(name), "").unwrap();
        }
        fs::read(here.join("server.js")).unwrap();
        let seen = eye.read().unwrap();
        assert!(changed(&seen).is_empty() && !seen.is_turned, "{seen:?}");
        fs::write(here.join("server.js"), "2").unwrap();
        fs::write(here.join("src/a.js"), "2").unwrap();
        assert_eq!(changed(&eye.read().unwrap()), ["server.js", "src/a.js"]);
        // A directory that is new, with a file that was in it before it was watched.
        fs::create_dir(here.join("src/deep")).unwrap();
        fs::write(here.join("src/deep/b.js"), "").unwrap();
        assert_eq!(changed(&eye.read().unwrap()), ["src/deep/b.js"]);
        fs::write(here.join("src/deep/b.js"), "1").unwrap();
        assert_eq!(changed(&eye.read().unwrap()), ["src/deep/b.js"]);
        fs::rename(here.join("src/deep"), here.join("node_modules/deep")).unwrap();
        assert_eq!(changed(&eye.read().unwrap()), ["src/deep"]);
        fs::write(here.join("node_modules/deep/b.js"), "2").unwrap();
        assert!(changed(&eye.read().unwrap()).is_empty());
    }

    #[test]
    fn what_is_left_out_is_not_seen() {
        let directory = tempfile::tempdir().unwrap();
        let here = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir_all(here.join("src/uploads")).unwrap();
        let mut watch = AppSettings::default();
        let key = KEYS.iter().find(|key| key.name == "watch").unwrap();
        for pattern in ["!uploads", "!*.tmp"] {
            key.set(&mut watch, pattern).unwrap();
        }
        let what = Watched {
            cwd: here.clone(),
            only: Vec::new(),
            except: watch.watch.except,
            log: None,
        };
        let mut eye = Eye::open(&what).unwrap();
        for name in ["src/uploads/a.png", "b.tmp", "src/a.js"] {
            fs::write(here.join(name), "").unwrap();
        }
        fs::create_dir(here.join("uploads")).unwrap();
        fs::write(here.join("uploads/c.js"), "").unwrap();
        assert_eq!(changed(&eye.read().unwrap()), ["src/a.js"]);
        fs::remove_dir_all(here.join("src/uploads")).unwrap();
        assert!(changed(&eye.read().unwrap()).is_empty());
    }

    #[test]
    fn a_link_that_is_turned_and_a_directory_that_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        for name in ["one", "two"] {
            fs::create_dir(here.join(name)).unwrap();
        }
        let current = here.join("current");
        symlink("one", &current).unwrap();
        let (what, mut eye) = eye(&current, &[]);
        symlink("two", here.join("new")).unwrap();
        fs::rename(here.join("new"), &current).unwrap();
        let seen = eye.read().unwrap();
        assert!(seen.is_turned);
        assert_eq!(changed(&seen), ["current"]);
        let mut eye = Eye::open(&what).unwrap();
        fs::write(here.join("one/a.js"), "").unwrap();
        assert!(changed(&eye.read().unwrap()).is_empty());
        fs::write(here.join("two/a.js"), "").unwrap();
        assert_eq!(changed(&eye.read().unwrap()), ["a.js"]);
        fs::rename(here.join("two"), here.join("old")).unwrap();
        assert!(eye.read().unwrap().is_turned);
        let mut eye = Eye::open(&what).unwrap();
        fs::rename(here.join("one"), here.join("two")).unwrap();
        assert!(eye.read().unwrap().is_turned);
    }

    #[test]
    fn paths_that_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let here = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(here.join("app")).unwrap();
        fs::create_dir(here.join("shared")).unwrap();
        symlink("../shared", here.join("app/config")).unwrap();
        fs::write(here.join("app/server.js"), "").unwrap();
        let (_, mut eye) = eye(&here.join("app"), &["server.js", "config", "later"]);
        for name in ["app/other.js", "shared/a.json", "app/server.js"] {
            fs::write(here.join(name), "1").unwrap();
        }
        let seen = eye.read().unwrap();
        assert_eq!(changed(&seen), ["config/a.json", "server.js"]);
        fs::create_dir(here.join("app/later")).unwrap();
        assert!(eye.read().unwrap().is_turned);
    }
}
