//! The file of `--log`: how it is opened, at first and anew, and what is told of it.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use crate::config::log::Rotation;
use crate::handoff::Journal;

/// Where a successor reads when the first line of that file was written.
pub(crate) const BEGAN: &str = "log/began";

/// The name under which the open file is held. A successor goes on in the middle of a line, and in a
/// file that has been renamed since.
pub(crate) const HELD: &str = "log";

/// Readable by its user and its group: log shippers run as another user.
pub(super) const MODE: u32 = 0o640;

/// Opens it to append to, and makes it if need be.
///
/// # Errors
/// Those of open(2); `ENXIO` for a FIFO that nobody reads.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    // A FIFO must not hold us up, a terminal must not become ours. Regular files do not mind.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    Ok(file.into())
}

/// The file, open at its path.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: OwnedFd,
    pub(crate) rotation: Rotation,
    /// When its first line was written, if a predecessor knows: milliseconds since 1970.
    pub(crate) began: Option<u64>,
}

/// What becomes of the file.
#[derive(Debug)]
pub(crate) enum LogNews {
    /// It was opened anew; every line from now on is in the new one.
    Reopened,
    /// It could not be; the old one goes on.
    NotReopened(io::Error),
    /// Lines are lost from now on.
    Failing(io::Error),
    /// So many were.
    Recovered { lost: u64 },
    /// It has made room for another one.
    Rotated,
    /// It could not; it goes on.
    NotRotated(io::Error),
    /// An old one could not be compressed; it stays as it is.
    NotCompressed(io::Error),
    /// Its first line is of that time, in milliseconds since 1970.
    Began(u64),
}

/// Whom the file's thread tells.
pub(crate) struct Owner {
    /// None once another file is the one to go on with.
    journal: Mutex<Option<Journal>>,
    /// Must not wait.
    tell: Box<dyn Fn(LogNews) + Send + Sync>,
}

impl Owner {
    pub(crate) fn new(journal: Journal, tell: impl Fn(LogNews) + Send + Sync + 'static) -> Self {
        Self {
            journal: Mutex::new(Some(journal)),
            tell: Box::new(tell),
        }
    }

    /// A successor is to go on with this file, before anything is written to it.
    pub(super) fn hold(&self, file: impl AsFd) {
        if let Some(journal) = &*self.journal() {
            journal.hold(HELD, file);
        }
    }

    /// Nothing is held for a successor any more from when this returns.
    pub(super) fn retire(&self) {
        *self.journal() = None;
    }

    fn journal(&self) -> MutexGuard<'_, Option<Journal>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, news: LogNews) {
        (self.tell)(news);
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").finish_non_exhaustive()
    }
}
