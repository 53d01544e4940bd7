//! The file of a queue, rotated in time: decides when, between two lines, and opens the next one.
//! Belongs to the queue's thread, which may wait for a disk.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, openat, statat, statx};
use rustix::io::Errno;

use super::archive::{Archive, like};
use super::layout::Layout;
use super::log::{self, LogNews};
use super::sink::{Sink, Stopped};
use crate::config::log::Rotation;
use crate::telemetry::rotated::{self, identity};

/// After one that failed, so long no other is tried.
const PAUSE: Duration = Duration::from_secs(10);
/// Somebody else may rename a file between two steps of ours; so often is it tried again at once.
const TRIES: usize = 5;

/// A sink that is rotated, if it is to be.
pub(super) struct Rolling<'a> {
    pub(super) sink: Sink<'a>,
    rotator: Option<Rotator>,
}

/// When one file has to make room for the next, and how.
#[derive(Debug)]
pub(super) struct Rotator {
    rule: Rotation,
    path: PathBuf,
    archive: Arc<Archive>,
    /// When the first line of the file was written, in milliseconds since 1970.
    began: Option<u64>,
    not_before: Option<Instant>,
    has_failed: bool,
}

impl<'a> Rolling<'a> {
    pub(super) fn new(sink: Sink<'a>, rotator: Option<Rotator>) -> Self {
        let mut rolling = Self { sink, rotator };
        rolling.look_at_age();
        rolling
    }

    /// Writes whole lines, to one file or several; `hear` is told what became of each,
    /// and gets a new one before anything is written to it.
    pub(super) fn write(
        &mut self,
        chunk: &[u8],
        name: &str,
        layout: &Layout,
        hear: &mut impl FnMut(LogNews, Option<&OwnedFd>),
    ) -> Result<(), Stopped> {
        let mut rest = chunk;
        while !rest.is_empty() {
            if self.is_due() {
                self.rotate(hear);
            }
            let count = match self.fitting(rest) {
                0 => {
                    self.rotate(hear);
                    // The file is new, or goes on as it is for a while.
                    self.fitting(rest).max(first_line(rest))
                }
                count => count,
            };
            let (part, after) = rest.split_at(count.min(rest.len()));
            let written = self.sink.write(part, name, layout);
            self.note_beginning(hear);
            written.map_err(|stopped| match stopped {
                Stopped::Paused { left } => Stopped::Paused {
                    left: left + after.len(),
                },
                Stopped::Closed => Stopped::Closed,
            })?;
            rest = after;
        }
        Ok(())
    }

    /// Rotates it if it is old enough.
    pub(super) fn rotate_if_due(&mut self, hear: &mut impl FnMut(LogNews, Option<&OwnedFd>)) {
        if self.is_due() {
            self.rotate(hear);
        }
    }

    /// When it will be old enough. `None` where nothing has to be done.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let rotator = self.rotator.as_ref()?;
        if !self.sink.can_rotate() || self.sink.size() == 0 {
            return None;
        }
        let age = u64::try_from(rotator.rule.age?.as_millis()).unwrap_or(u64::MAX);
        let now = now();
        // A clock that was set back does not make it younger than new.
        let began = rotator.began?.min(now);
        let left = Duration::from_millis(began.saturating_add(age).saturating_sub(now));
        let pause = rotator.not_before.map_or(Duration::ZERO, |not_before| {
            not_before.saturating_duration_since(Instant::now())
        });
        Some(left.max(pause))
    }

    /// Another file takes its place, for a reason of somebody else.
    pub(super) fn change(&mut self, file: OwnedFd) {
        self.sink.change(file);
        if let Some(rotator) = &mut self.rotator {
            rotator.began = None;
            rotator.not_before = None;
        }
        self.look_at_age();
    }

    fn is_due(&self) -> bool {
        self.due_in() == Some(Duration::ZERO)
    }

    /// So many of the bytes go to the file as it is; none if it has to be rotated first.
    fn fitting(&self, rest: &[u8]) -> usize {
        let Some(rotator) = &self.rotator else {
            return rest.len();
        };
        let Some(limit) = rotator.rule.size else {
            return rest.len();
        };
        if self.sink.is_mid_line() {
            return first_line(rest);
        }
        let is_too_early = rotator.not_before.is_some_and(|at| Instant::now() < at);
        if !self.sink.can_rotate() || is_too_early {
            return rest.len();
        }
        let room = limit.saturating_sub(self.sink.size());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let Some(within) = rest.get(..room) else {
            return rest.len();
        };
        match within.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.sink.size() == 0 => first_line(rest),
            None => 0,
        }
    }

    fn rotate(&mut self, hear: &mut impl FnMut(LogNews, Option<&OwnedFd>)) {
        let Some(rotator) = &mut self.rotator else {
            return;
        };
        match rotator.turn(self.sink.file()) {
            Ok(file) => {
                hear(LogNews::Rotated, Some(&file));
                rotator.has_failed = false;
                rotator.archive.wake();
                self.change(file);
            }
            Err(error) => {
                rotator.not_before = Some(Instant::now() + PAUSE);
                if !std::mem::replace(&mut rotator.has_failed, true) {
                    hear(LogNews::NotRotated(error), None);
                }
            }
        }
    }

    /// A file that has lines already began when it was made, as far as that can be told.
    fn look_at_age(&mut self) {
        let Some(rotator) = &mut self.rotator else {
            return;
        };
        if rotator.rule.age.is_some() && rotator.began.is_none() && self.sink.size() > 0 {
            rotator.began = born(self.sink.file());
        }
    }

    fn note_beginning(&mut self, hear: &mut impl FnMut(LogNews, Option<&OwnedFd>)) {
        let has_lines = self.sink.size() > 0;
        if let Some(rotator) = &mut self.rotator
            && rotator.rule.age.is_some()
            && rotator.began.is_none()
            && has_lines
        {
            let began = now();
            rotator.began = Some(began);
            hear(LogNews::Began(began), None);
        }
    }
}

impl Rotator {
    pub(super) const fn new(
        rule: Rotation,
        path: PathBuf,
        archive: Arc<Archive>,
        began: Option<u64>,
    ) -> Self {
        Self {
            rule,
            path,
            archive,
            began,
            not_before: None,
            has_failed: false,
        }
    }

    /// The file that takes the lines from now on.
    fn turn(&self, file: &OwnedFd) -> io::Result<OwnedFd> {
        let mut turned = self.try_turn(file);
        for _ in 1..TRIES {
            match &turned {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
            turned = self.try_turn(file);
        }
        turned
    }

    /// # Errors
    /// That a name was not there any more which just had been, among others.
    fn try_turn(&self, file: &OwnedFd) -> io::Result<OwnedFd> {
        let (directory, name) = rotated::directory(&self.path)?;
        let ours = fstat(file)?;
        let at = match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            // Somebody has renamed it, or a predecessor came to this point.
            Err(Errno::NOENT) => return log::open(&self.path),
            Err(errno) => return Err(errno.into()),
            Ok(at) => at,
        };
        match FileType::from_raw_mode(at.st_mode) {
            FileType::RegularFile if identity(&at) == identity(&ours) => {}
            // The same, and a new one is there already.
            FileType::RegularFile => return log::open(&self.path),
            FileType::Symlink => {
                return Err(io::Error::other(
                    "it is a symbolic link; name the file that it leads to",
                ));
            }
            _ => return Err(Errno::EXIST.into()),
        }
        if ours.st_size == 0 {
            // Somebody has emptied it.
            return log::open(&self.path);
        }
        let number = self.archive.shift(&directory, &name)?;
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(log::MODE);
        match openat(&directory, &name, flags, mode) {
            Ok(next) => {
                like(&next, &ours);
                Ok(next)
            }
            Err(errno) => {
                self.archive.give_back(&directory, &name, number);
                Err(errno.into())
            }
        }
    }
}

fn first_line(rest: &[u8]) -> usize {
    rest.iter()
        .position(|byte| *byte == b'\n')
        .map_or(rest.len(), |end| end + 1)
}

fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).ok()).unwrap_or(0)
}

fn millis(since: Option<Duration>) -> Option<u64> {
    u64::try_from(since?.as_millis()).ok()
}

/// When the file was made, or last written where that is not known.
fn born(file: &OwnedFd) -> Option<u64> {
    let wanted = StatxFlags::BTIME | StatxFlags::MTIME;
    let found = statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let time = if has_birth {
        found.stx_btime
    } else {
        found.stx_mtime
    };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    millis(Some(Duration::new(seconds, time.tv_nsec)))
}

/// Whether the last line of the file lacks its end, as far as that can be told.
pub(super) fn ends_mid_line(file: &OwnedFd, size: u64) -> bool {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    let Some(last) = size.checked_sub(1) else {
        return false;
    };
    // Ours is open for writing only.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut byte = [b'\n'];
    let read = std::fs::File::open(Path::new(&path));
    read.and_then(|file| file.read_at(&mut byte, last)).is_ok() && byte != *b"\n"
}
