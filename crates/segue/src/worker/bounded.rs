//! The log of a background supervisor itself: several processes have it open as their output, so it is
//! never another file. What is in it is put aside when that is much, and it begins anew.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// From this size on.
pub(super) const LIMIT: u64 = 10 << 20;

#[derive(Debug)]
pub(super) struct Bounded {
    path: PathBuf,
    /// At which size it is tried next.
    limit: u64,
}

impl Bounded {
    /// `file` if it is the one at that path.
    pub(super) fn of(file: impl AsFd, path: &Path) -> Option<Self> {
        let (open, there) = (rustix::fs::fstat(file).ok()?, fs::metadata(path).ok()?);
        let is_it = (open.st_dev, open.st_ino) == (there.dev(), there.ino());
        (is_it && there.is_file()).then(|| Self {
            path: path.to_owned(),
            limit: LIMIT,
        })
    }

    /// Whether it has begun anew.
    pub(super) fn see(&mut self, file: &OwnedFd, size: u64) -> bool {
        if size < self.limit {
            return false;
        }
        match self.put_aside(file) {
            Ok(()) => {
                self.limit = LIMIT;
                true
            }
            Err(_) => {
                // A disk that is full now may have room when this has come again.
                self.limit = size.saturating_add(LIMIT);
                false
            }
        }
    }

    fn put_aside(&self, file: &OwnedFd) -> io::Result<()> {
        let with = |end: &str| {
            let mut path = self.path.clone().into_os_string();
            path.push(end);
            PathBuf::from(path)
        };
        let part = with(".1.part");
        let copied = (|| {
            // Whatever is at its path by now.
            let mut from = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            let mut to = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&part)?;
            io::copy(&mut from, &mut to)?;
            fs::rename(&part, with(".1"))
        })();
        if copied.is_err() {
            let _ = fs::remove_file(&part);
        }
        copied?;
        // Everybody appends. What another process has written since it was copied is lost.
        Ok(rustix::fs::ftruncate(file, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_large_file_begins_anew_and_what_was_in_it_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segue.log");
        let open = || OpenOptions::new().append(true).create(true).open(&path);
        let (mut file, mut other) = (open().unwrap(), open().unwrap());
        assert!(Bounded::of(&file, &folder.path().join("none")).is_none());
        let mut bounded = Bounded::of(&file, &path).unwrap();
        file.write_all(b"first\n").unwrap();
        let descriptor = OwnedFd::from(file.try_clone().unwrap());
        assert!(!bounded.see(&descriptor, LIMIT - 1));
        assert!(bounded.see(&descriptor, LIMIT));
        other.write_all(b"second\n").unwrap();
        let kept = || fs::read_to_string(folder.path().join("segue.log.1")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(kept(), "first\n");
        assert!(bounded.see(&descriptor, LIMIT));
        assert_eq!(kept(), "second\n");

        // Where it cannot be put aside it goes on, and that is not tried at each line.
        file.write_all(b"third\n").unwrap();
        fs::create_dir(folder.path().join("segue.log.1.part")).unwrap();
        assert!(!bounded.see(&descriptor, LIMIT));
        fs::remove_dir(folder.path().join("segue.log.1.part")).unwrap();
        assert!(!bounded.see(&descriptor, 2 * LIMIT - 1));
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");
        assert!(bounded.see(&descriptor, 2 * LIMIT));
        assert_eq!(kept(), "third\n");
    }
}
