//! A log file and what it was before, read as one: its last lines, and what comes, across rotations.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use segue_sys::readable;
use tokio::io::unix::AsyncFd;

use crate::telemetry::rotated::{self, Rotated};

/// Names may change while they are looked up; so often is it tried again.
const TRIES: usize = 100;
/// Read at once.
const BLOCK: usize = 64 << 10;

/// One of them, open, whatever its name is by now.
#[derive(Debug)]
struct Piece {
    file: File,
    is_compressed: bool,
    identity: (u64, u64),
    modified: (i64, i64),
}

impl Piece {
    fn new(file: File, is_compressed: bool) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            file,
            is_compressed,
            identity: (found.dev(), found.ino()),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }

    /// Whether the other is this one, compressed: it was given the time of its last line.
    fn is_plain_of(&self, other: &Self) -> bool {
        let is_candidate =
            other.is_compressed && !self.is_compressed && self.modified == other.modified;
        // Two files may have been written to in the same tick of a coarse clock.
        is_candidate && is_same(self.reader(), other.reader())
    }

    /// From its beginning, wherever others have read to.
    fn reader(&self) -> Box<dyn BufRead + '_> {
        let bytes = FromBeginning {
            file: &self.file,
            at: 0,
        };
        match self.is_compressed {
            true => Box::new(BufReader::with_capacity(BLOCK, MultiGzDecoder::new(bytes))),
            false => Box::new(BufReader::with_capacity(BLOCK, bytes)),
        }
    }

    /// What has no end is given back.
    fn each(&self, mut line: impl FnMut(Vec<u8>)) -> io::Result<Vec<u8>> {
        let mut reader: Box<dyn BufRead> = match self.is_compressed {
            true => Box::new(BufReader::with_capacity(
                BLOCK,
                MultiGzDecoder::new(&self.file),
            )),
            false => Box::new(BufReader::with_capacity(BLOCK, &self.file)),
        };
        loop {
            let mut bytes = Vec::new();
            reader.read_until(b'\n', &mut bytes)?;
            if bytes.pop_if(|last| *last == b'\n').is_none() {
                return Ok(bytes);
            }
            line(bytes);
        }
    }
}

/// Reads without moving the place where its file is read from.
struct FromBeginning<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromBeginning<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn is_same(mut one: impl BufRead, mut other: impl BufRead) -> bool {
    loop {
        let (Ok(first), Ok(second)) = (one.fill_buf(), other.fill_buf()) else {
            return false;
        };
        let count = first.len().min(second.len());
        if first.get(..count) != second.get(..count) || (count == 0 && first.len() != second.len())
        {
            return false;
        }
        if count == 0 {
            return true;
        }
        one.consume(count);
        other.consume(count);
    }
}

/// All of them, the oldest first; the last is the log file itself.
///
/// # Errors
/// Those of open(2).
fn open_all(path: &Path) -> io::Result<Vec<Piece>> {
    let mut last = Ok(Vec::new());
    for _ in 0..TRIES {
        last = try_open_all(path);
        match &last {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    last
}

fn try_open_all(path: &Path) -> io::Result<Vec<Piece>> {
    let newest = Piece::new(File::open(path)?, false)?;
    let (directory, name) = rotated::directory(path)?;
    let list = || Ok::<_, io::Error>(rotated::list(&directory, &name)?.files);
    let files = list()?;
    let mut pieces: Vec<Piece> = Vec::new();
    let mut numbers = Vec::new();
    // The compressed one of a number comes before the other.
    for file in files.iter().rev() {
        let opened = File::from(file.open(&directory, &name)?);
        let piece = Piece::new(opened, file.is_compressed)?;
        let is_both = numbers.last() == Some(&file.number)
            && pieces.last().is_some_and(|last| piece.is_plain_of(last));
        if is_both {
            // It has just been compressed, and is removed next.
            pieces.pop();
        }
        numbers.push(file.number);
        pieces.push(piece);
    }
    // While names are changed one may be seen twice, or not at all.
    let found = std::fs::metadata(path)?;
    let is_same = |(one, other): (&Rotated, &Rotated)| {
        (one.number, one.identity) == (other.number, other.identity)
    };
    let again = list()?;
    let is_quiet = files.len() == again.len() && files.iter().zip(&again).all(is_same);
    if !is_quiet || (found.dev(), found.ino()) != newest.identity {
        return Err(io::ErrorKind::NotFound.into());
    }
    pieces.push(newest);
    Ok(pieces)
}

/// The last lines of a log, and where it goes on.
#[derive(Debug)]
pub(in crate::cli) struct Last {
    /// The oldest first.
    pub(in crate::cli) lines: Vec<Vec<u8>>,
    /// The beginning of one more.
    pub(in crate::cli) partial: Vec<u8>,
    newest: Piece,
}

/// The last lines, so many at most, that `wanted` does not refuse.
///
/// # Errors
/// Those of open(2) and read(2).
pub(in crate::cli) fn last_lines(
    path: &Path,
    most: usize,
    since: Option<i64>,
    mut wanted: impl FnMut(&[u8]) -> bool,
) -> io::Result<Last> {
    let mut pieces = open_all(path)?;
    let newest = pieces.pop().ok_or(io::ErrorKind::NotFound)?;
    let mut missing = most;
    let mut read = |piece: &Piece| {
        let mut lines = VecDeque::new();
        let mut add = |line: Vec<u8>| {
            if missing == 0 || !wanted(&line) {
                return;
            }
            if lines.len() == missing {
                lines.pop_front();
            }
            lines.push_back(line);
        };
        let partial = piece.each(&mut add)?;
        let is_last = piece.identity == newest.identity;
        let partial = match is_last || partial.is_empty() {
            true => partial,
            false => {
                add(partial);
                Vec::new()
            }
        };
        missing -= lines.len();
        io::Result::Ok((lines, partial, missing == 0))
    };
    // To its end, where it is followed from.
    let (lines, partial, mut is_enough) = read(&newest)?;
    let mut newest_first = vec![lines];
    for piece in pieces.iter().rev() {
        // What was last written before that time has no line of it, nor has what is older.
        if is_enough || since.is_some_and(|since| piece.modified.0 < since) {
            break;
        }
        let (lines, _, was_enough) = read(piece)?;
        is_enough = was_enough;
        newest_first.push(lines);
    }
    Ok(Last {
        lines: newest_first.into_iter().rev().flatten().collect(),
        partial,
        newest,
    })
}

/// Gives what is written from now on.
#[derive(Debug)]
pub(in crate::cli) struct Follower {
    path: PathBuf,
    current: Piece,
    /// The beginning of a line.
    partial: Vec<u8>,
    changes: AsyncFd<OwnedFd>,
}

impl Follower {
    /// From where the last lines ended.
    ///
    /// # Errors
    /// Those of inotify_add_watch(2).
    pub(in crate::cli) fn new(path: &Path, last: Last) -> io::Result<Self> {
        let changes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        let names = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&changes, parent, names)?;
        watch(&changes, &last.newest.file)?;
        Ok(Self {
            path: path.to_owned(),
            current: last.newest,
            partial: last.partial,
            changes: readable::watch(changes).map_err(|(_, error)| error)?,
        })
    }

    /// Every line that has come since the last time.
    ///
    /// # Errors
    /// Those of read(2).
    pub(in crate::cli) fn read(&mut self, line: &mut impl FnMut(Vec<u8>)) -> io::Result<()> {
        loop {
            let at_path = std::fs::metadata(&self.path);
            self.drain(line)?;
            match at_path {
                Ok(found) if (found.dev(), found.ino()) != self.current.identity => {
                    self.go_on(line)?;
                }
                // Renamed, and nothing in its place yet.
                Ok(_) | Err(_) => return Ok(()),
            }
        }
    }

    /// Waits until there may be more.
    ///
    /// # Errors
    /// That it cannot be watched.
    pub(in crate::cli) async fn changed(&self) -> io::Result<()> {
        let mut guard = self.changes.readable().await?;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.changes.get_ref(), &mut buffer);
        loop {
            match events.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        guard.clear_ready();
        Ok(())
    }

    fn drain(&mut self, line: &mut impl FnMut(Vec<u8>)) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        loop {
            let count = match self.current.file.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let read = block.get(..count).unwrap_or_default();
            for part in read.split_inclusive(|byte| *byte == b'\n') {
                match part.strip_suffix(b"\n") {
                    Some(end) => {
                        self.partial.extend_from_slice(end);
                        line(std::mem::take(&mut self.partial));
                    }
                    None => self.partial.extend_from_slice(part),
                }
            }
        }
    }

    /// The file has been rotated, once or more often: what came after it.
    fn go_on(&mut self, line: &mut impl FnMut(Vec<u8>)) -> io::Result<()> {
        let mut pieces = open_all(&self.path)?;
        // Its last line was written before it got another name.
        self.drain(line)?;
        let found = self.current.file.metadata()?;
        let modified = (found.mtime(), found.mtime_nsec());
        self.current.modified = modified;
        let own = self.current.identity;
        let newest = pieces.pop().ok_or(io::ErrorKind::NotFound)?;
        let is_own = |piece: &Piece| piece.identity == own || self.current.is_plain_of(piece);
        match pieces.iter().position(is_own) {
            Some(at) => drop(pieces.drain(..=at)),
            // It has been removed by now, and so has what is older.
            None => pieces.retain(|piece| piece.modified >= modified),
        }
        for piece in pieces {
            let partial = piece.each(&mut *line)?;
            if !partial.is_empty() {
                line(partial);
            }
        }
        self.partial.clear();
        self.current = newest;
        watch(self.changes.get_ref(), &self.current.file)
    }
}

fn watch(changes: &OwnedFd, file: &File) -> io::Result<()> {
    // The file itself, whatever its name.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    inotify::add_watch(changes, path, WatchFlags::MODIFY)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(lines: Vec<Vec<u8>>) -> Vec<String> {
        let text = |line| String::from_utf8(line).unwrap();
        lines.into_iter().map(text).collect()
    }

    fn compress(path: &Path) {
        let text = std::fs::read(path).unwrap();
        let target = File::create(path.with_extension("2.gz")).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(target, flate2::Compression::fast());
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn last_lines_come_from_as_many_files_as_it_takes() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("web");
        std::fs::write(place.path().join("web.9"), "1\n2\n").unwrap();
        compress(&place.path().join("web.9"));
        std::fs::write(place.path().join("web.1"), "3\n4\n").unwrap();
        std::fs::write(&path, "5\n6\n").unwrap();
        for (most, expected) in [
            (0, &[][..]),
            (1, &["6"]),
            (3, &["4", "5", "6"]),
            (5, &["2", "3", "4", "5", "6"]),
            (usize::MAX, &["1", "2", "3", "4", "5", "6"]),
        ] {
            let lines = last_lines(&path, most, None, |_| true).unwrap().lines;
            assert_eq!(texts(lines), expected, "{most}");
        }
        let odd = |line: &[u8]| matches!(line, b"1" | b"3" | b"5");
        assert_eq!(
            texts(last_lines(&path, 2, None, odd).unwrap().lines),
            ["3", "5"]
        );
        assert!(last_lines(&place.path().join("none"), 1, None, |_| true).is_err());
    }

    #[tokio::test]
    async fn following_goes_through_rotations() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("web");
        std::fs::write(&path, "old\n").unwrap();
        let last = last_lines(&path, 0, None, |_| true).unwrap();
        assert!(last.lines.is_empty());
        let mut follower = Follower::new(&path, last).unwrap();
        let append = |text: &str| {
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(&path)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let rotate = || {
            let _ = std::fs::rename(place.path().join("web.1"), place.path().join("web.2"));
            std::fs::rename(&path, place.path().join("web.1")).unwrap();
        };
        append("a\nb");
        follower.changed().await.unwrap();
        let mut lines = Vec::new();
        follower.read(&mut |line| lines.push(line)).unwrap();
        append("c\n");
        rotate();
        append("d\n");
        rotate();
        append("e\n");
        follower.changed().await.unwrap();
        follower.read(&mut |line| lines.push(line)).unwrap();
        append("f\n");
        follower.changed().await.unwrap();
        follower.read(&mut |line| lines.push(line)).unwrap();
        // What was followed is compressed before it is looked at again.
        append("g\n");
        rotate();
        append("h\n");
        rotate();
        std::fs::rename(place.path().join("web.2"), place.path().join("web.9")).unwrap();
        std::fs::rename(place.path().join("web.9"), place.path().join("gone")).unwrap();
        append("i\n");
        follower.changed().await.unwrap();
        follower.read(&mut |line| lines.push(line)).unwrap();
        assert_eq!(texts(lines), ["a", "bc", "d", "e", "f", "g", "h", "i"]);
    }

    /// The compressed form of a file, made as segue makes it.
    fn compressed(from: &Path, to: &Path) {
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(to).unwrap(), flate2::Compression::fast());
        encoder.write_all(&std::fs::read(from).unwrap()).unwrap();
        let file = encoder.finish().unwrap();
        let modified = from.metadata().unwrap().modified().unwrap();
        file.set_modified(modified).unwrap();
    }

    #[tokio::test]
    async fn what_is_being_compressed_comes_once() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("web");
        let at = |name: &str| place.path().join(name);
        std::fs::write(&path, "old\n").unwrap();
        let mut follower =
            Follower::new(&path, last_lines(&path, 0, None, |_| true).unwrap()).unwrap();
        let mut lines = Vec::new();
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"a\n")
            .unwrap();
        follower.read(&mut |line| lines.push(line)).unwrap();
        let tick = path.metadata().unwrap().modified().unwrap();
        // Of one tick of the clock: what is followed, by now compressed, and two that came after it.
        std::fs::rename(&path, at("web.3")).unwrap();
        compressed(&at("web.3"), &at("web.3.gz"));
        std::fs::remove_file(at("web.3")).unwrap();
        for (name, text) in [("web.2", "b\n"), ("web.1", "c\n"), ("web", "d\n")] {
            std::fs::write(at(name), text).unwrap();
            File::options()
                .write(true)
                .open(at(name))
                .unwrap()
                .set_modified(tick)
                .unwrap();
        }
        // The first of them is there in both forms.
        compressed(&at("web.2"), &at("web.2.gz"));
        follower.changed().await.unwrap();
        follower.read(&mut |line| lines.push(line)).unwrap();
        assert_eq!(texts(lines), ["a", "b", "c", "d"]);
        let lines = last_lines(&path, usize::MAX, None, |_| true).unwrap().lines;
        assert_eq!(texts(lines), ["old", "a", "b", "c", "d"]);
    }
}
