//! The rotated log files: shifts their names, compresses the older ones and removes the oldest. A
//! thread does the latter two while there is something to do, and has another one of the lowest
//! priority compress. Whoever writes lines waits for the first at most, never for the second.
//!
//! A process may die at any moment: a rotated file is there under a name of its own, as it was or
//! compressed, until it is removed for its age. What a predecessor has left half done is found again.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, fchmod, fchown,
    fstat, futimens, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;

use crate::config::log::Rotation;
use crate::telemetry::rotated::{self, Rotated, modified};

/// Below every other thread, of disks as well (ioprio_set(2): it follows the nice value).
const NICE: i32 = 19;
/// Read at once, and between two looks whether to stop.
const BLOCK: usize = 64 << 10;
/// No name is moved to a higher number.
const HIGHEST: u32 = 99_999;

/// Told that a file could not be compressed, once until one could. Must not wait.
type Tell = Box<dyn Fn(io::Error) + Send + Sync>;

/// The rotated files of one log file.
pub(super) struct Archive {
    path: PathBuf,
    rule: Rotation,
    /// Held while names change.
    names: Mutex<()>,
    state: Mutex<State>,
    /// Of the state: a thread has ended, or there is more to do.
    changed: Condvar,
    tell: Tell,
}

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    is_copying: bool,
    /// The thread of low priority that does it.
    copier: Option<Pid>,
    /// There is, or may be, something to do.
    is_wanted: bool,
    /// Nothing is to be begun.
    is_paused: bool,
    has_failed: bool,
}

/// How one was compressed.
enum Done {
    Compressed,
    /// It has been removed or written to meanwhile.
    Changed,
    Paused,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").finish_non_exhaustive()
    }
}

impl Archive {
    pub(super) fn new(
        path: &Path,
        rule: Rotation,
        tell: impl Fn(io::Error) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            rule,
            names: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            tell: Box::new(tell),
        })
    }

    /// Moves every name up, and gives the log file the first one. It stays open.
    ///
    /// # Errors
    /// Those of rename(2). Every file still has a name.
    pub(super) fn shift(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<u32> {
        let _names = lock(&self.names);
        let listing = rotated::list(directory, name)?;
        let is_free = |number: &u32| !listing.taken.contains(number);
        // Up to the first gap.
        let mut numbers = Vec::new();
        for number in (1..=HIGHEST).filter(is_free) {
            numbers.push(number);
            if !listing.files.iter().any(|file| file.number == number) {
                break;
            }
        }
        for pair in numbers.windows(2).rev() {
            let &[from, to] = pair else { continue };
            for file in listing.files.iter().filter(|file| file.number == from) {
                let old = rotated::name(name, from, file.is_compressed);
                let new = rotated::name(name, to, file.is_compressed);
                rename(directory, &old, &new)?;
            }
        }
        let first = numbers.first().copied().unwrap_or(1);
        rename(directory, name, &rotated::name(name, first, false))?;
        Ok(first)
    }

    /// Undoes the last step of that.
    pub(super) fn give_back(&self, directory: &OwnedFd, name: &OsStr, number: u32) {
        let _names = lock(&self.names);
        // Where it fails the file has the other name, and is written there.
        let _ = rename(directory, &rotated::name(name, number, false), name);
    }

    /// There may be something to do.
    pub(super) fn wake(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.is_wanted = true;
        if state.is_running || state.is_paused {
            self.changed.notify_all();
            return;
        }
        let theirs = Arc::clone(self);
        let begun = thread::Builder::new()
            .name("segue-archive".to_owned())
            .spawn(move || theirs.work());
        state.is_running = begun.is_ok();
        drop(state);
        if let Err(error) = begun {
            self.fail(error);
        }
    }

    /// Has the thread end, and waits for that, for so long at most. Says whether it has.
    pub(super) fn pause(&self, limit: Duration) -> bool {
        let mut state = lock(&self.state);
        state.is_paused = true;
        // On a busy machine it would be long before it sees that. Who may not lift it waits.
        let _ = (state.copier).map(|copier| setpriority_process(Some(copier), 0));
        let waited = self
            .changed
            .wait_timeout_while(state, limit, |state| state.is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_running
    }

    pub(super) fn resume(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.is_paused = false;
        let is_wanted = state.is_wanted;
        drop(state);
        if is_wanted {
            self.wake();
        }
    }

    /// Whether its thread ends within that time.
    #[cfg(test)]
    pub(super) fn is_settled(&self, limit: Duration) -> bool {
        let state = lock(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, limit, |state| state.is_running);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_running
    }

    fn work(&self) {
        loop {
            let mut state = lock(&self.state);
            if state.is_paused || !state.is_wanted {
                state.is_running = false;
                self.changed.notify_all();
                return;
            }
            state.is_wanted = false;
            drop(state);
            match self.put_in_order() {
                Ok(()) => lock(&self.state).has_failed = false,
                // Without its directory there is nothing to put in order.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.fail(error),
            }
        }
    }

    fn fail(&self, error: io::Error) {
        let is_first = !std::mem::replace(&mut lock(&self.state).has_failed, true);
        if is_first {
            (self.tell)(error);
        }
    }

    /// Removes what is too much and compresses what is left, the newest one apart: somebody may
    /// still read it.
    fn put_in_order(&self) -> io::Result<()> {
        let (directory, name) = rotated::directory(&self.path)?;
        let part = part(&name);
        if file_at(&directory, &part)?.is_some() {
            unlinkat(&directory, &part, AtFlags::empty())?;
        }
        let mut seen = Vec::new();
        let mut failed = Ok(());
        loop {
            let files = self.remove_oldest(&directory, &name)?;
            let newest = files.first().map(|file| file.number);
            let next = files.iter().find(|file| {
                !file.is_compressed && Some(file.number) != newest && !seen.contains(&file.identity)
            });
            let Some(next) = next else { return failed };
            seen.push(next.identity);
            match self.compress(&directory, &name, next) {
                Ok(Done::Compressed | Done::Changed) => {}
                Ok(Done::Paused) => {
                    lock(&self.state).is_wanted = true;
                    return Ok(());
                }
                Err(error) => failed = Err(error),
            }
        }
    }

    /// What is kept.
    fn remove_oldest(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<Vec<Rotated>> {
        let _names = lock(&self.names);
        let mut files = rotated::list(directory, name)?.files;
        let written = match self.rule.size {
            Some(size) => size,
            None => file_at(directory, name)?.map_or(0, |found| found.size),
        };
        loop {
            let mut numbers: Vec<u32> = files.iter().map(|file| file.number).collect();
            numbers.dedup();
            let sum = files.iter().map(|file| file.size).sum::<u64>();
            let is_large = self.rule.total.is_some_and(|total| written + sum > total);
            let is_many = numbers.len() > self.rule.keep as usize;
            if !is_large && !is_many {
                return Ok(files);
            }
            let Some(oldest) = files.pop() else {
                return Ok(files);
            };
            match unlinkat(directory, oldest.name(name), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn compress(&self, directory: &OwnedFd, name: &OsStr, file: &Rotated) -> io::Result<Done> {
        let source = match file.open(directory, name) {
            Ok(source) => File::from(source),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::Changed),
            Err(error) => return Err(error),
        };
        let compressed = rotated::name(name, file.number, true);
        if let Some(other) = file_at(directory, &compressed)? {
            // A predecessor died between the last two steps; or somebody else rotates as well.
            return match is_same(source, File::from(other.open(directory, &compressed)?)) {
                true => self.replace(directory, name, file.identity, None),
                false => Ok(Done::Changed),
            };
        }
        let part = part(name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(directory, &part, flags, Mode::from_raw_mode(0o600))?;
        let done = self
            .copy(&source, File::from(target), directory, name)
            .and_then(|is_whole| match is_whole {
                Done::Compressed => self.replace(directory, name, file.identity, Some(&part)),
                other => Ok(other),
            });
        if !matches!(done, Ok(Done::Compressed)) {
            let _ = unlinkat(directory, &part, AtFlags::empty());
        }
        done
    }

    /// Has the one compressed to the other, and on the disk.
    fn copy(
        &self,
        source: &File,
        target: File,
        directory: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<Done> {
        lock(&self.state).is_copying = true;
        let copying = Copying(self);
        thread::scope(|scope| {
            // Not this thread: it holds the names now and then, and at the lowest priority a busy
            // machine could keep it from letting go of them for seconds.
            let copy = thread::Builder::new()
                .name("segue-gzip".to_owned())
                .spawn_scoped(scope, move || {
                    // Where that is refused it runs like any other.
                    let _ = setpriority_process(None, NICE);
                    lock(&self.state).copier = Some(gettid());
                    copying.copy(source, target)
                })?;
            loop {
                let state = lock(&self.state);
                let goes_on = |state: &mut State| state.is_copying && !state.is_wanted;
                let state = self.changed.wait_while(state, goes_on);
                let mut state = state.unwrap_or_else(PoisonError::into_inner);
                if !state.is_copying {
                    break;
                }
                // Another one has come: what is too much must not wait for us.
                state.is_wanted = false;
                drop(state);
                self.remove_oldest(directory, name)?;
            }
            copy.join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that compresses it died")))
        })
    }

    /// Puts the compressed file in the place of the other, whatever number that has by now; without
    /// one, it is there already.
    fn replace(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        source: (u64, u64),
        part: Option<&OsStr>,
    ) -> io::Result<Done> {
        let _names = lock(&self.names);
        let files = rotated::list(directory, name)?.files;
        let is_source = |file: &&Rotated| !file.is_compressed && file.identity == source;
        let Some(source) = files.iter().find(is_source) else {
            return Ok(Done::Changed);
        };
        if let Some(part) = part {
            rename(directory, part, &rotated::name(name, source.number, true))?;
        }
        unlinkat(directory, source.name(name), AtFlags::empty())?;
        Ok(Done::Compressed)
    }
}

/// One that is being compressed; dropped, it is no more.
struct Copying<'a>(&'a Archive);

impl Copying<'_> {
    fn copy(&self, mut source: &File, target: File) -> io::Result<Done> {
        let before = fstat(source)?;
        let mut encoder = GzEncoder::new(target, Compression::default());
        let mut block = vec![0; BLOCK];
        let mut copied = 0_u64;
        loop {
            if lock(&self.0.state).is_paused {
                return Ok(Done::Paused);
            }
            let count = match source.read(&mut block) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            encoder.write_all(block.get(..count).unwrap_or_default())?;
            copied += count as u64;
        }
        let target = encoder.finish()?;
        let after = fstat(source)?;
        let is_quiet = modified(&before) == modified(&after)
            && u64::try_from(after.st_size).is_ok_and(|size| size == copied);
        if !is_quiet {
            return Ok(Done::Changed);
        }
        like(&target, &after);
        let (seconds, nanoseconds) = modified(&after);
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        // What it shows is when the last line was written.
        let _ = futimens(
            &target,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        );
        target.sync_data()?;
        Ok(Done::Compressed)
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        (state.is_copying, state.copier) = (false, None);
        drop(state);
        self.0.changed.notify_all();
    }
}

/// A new file has the rights of the one before, as far as we may give them.
pub(super) fn like(file: impl AsFd, before: &rustix::fs::Stat) {
    let own = fstat(&file).map(|own| (own.st_uid, own.st_gid));
    if own.is_ok_and(|own| own != (before.st_uid, before.st_gid)) {
        let (uid, gid) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
        if fchown(&file, Some(uid), Some(gid)).is_err() {
            let _ = fchown(&file, None, Some(gid));
        }
    }
    let _ = fchmod(&file, Mode::from_raw_mode(before.st_mode & 0o777));
}

struct Found {
    size: u64,
}

impl Found {
    fn open(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(directory, name, flags, Mode::empty())?)
    }
}

/// # Errors
/// That something else has this name.
fn file_at(directory: &OwnedFd, name: &OsStr) -> io::Result<Option<Found>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Ok(Some(Found {
                size: u64::try_from(found.st_size).unwrap_or(0),
            })),
            _ => Err(Errno::EXIST.into()),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn part(name: &OsStr) -> std::ffi::OsString {
    let mut part = name.to_owned();
    part.push(".gz.part");
    part
}

fn is_same(plain: impl Read, compressed: impl Read) -> bool {
    let mut decoder = MultiGzDecoder::new(io::BufReader::new(compressed));
    let mut plain = io::BufReader::with_capacity(BLOCK, plain);
    let mut block = vec![0; BLOCK];
    loop {
        let Ok(count) = decoder.read(&mut block) else {
            return false;
        };
        if count == 0 {
            return matches!(plain.read(&mut [0]), Ok(0));
        }
        let mut expected = vec![0; count];
        if plain.read_exact(&mut expected).is_err() || block.get(..count) != Some(&expected[..]) {
            return false;
        }
    }
}

/// Never over another file.
fn rename(directory: &OwnedFd, from: &OsStr, to: &OsStr) -> io::Result<()> {
    match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // The file system does not know of it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            match statat(directory, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(renameat(directory, from, directory, to)?),
                Ok(_) => Err(Errno::EXIST.into()),
                Err(errno) => Err(errno.into()),
            }
        }
        renamed => Ok(renamed?),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
