//! The files that a log file was before: `web.log.1` is the newest, `web.log.2.gz` the one before it.
//! Only what is there is told; nothing is changed here.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

/// Dates and pids are no numbers of ours.
const MOST_DIGITS: usize = 5;

const COMPRESSED: &str = ".gz";

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Rotated {
    pub(crate) number: u32,
    pub(crate) is_compressed: bool,
    pub(crate) size: u64,
    /// The device and the inode.
    pub(crate) identity: (u64, u64),
}

/// All of them, the newest first, and numbers that are no files.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<Rotated>,
    /// A directory or a symbolic link has this name: it is nobody's log.
    pub(crate) taken: Vec<u32>,
}

/// The directory of a log file, and its name there.
///
/// # Errors
/// Those of open(2); that it has no name.
pub(crate) fn directory(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    Ok((directory, name.to_owned()))
}

/// # Errors
/// That the directory cannot be read.
pub(crate) fn list(directory: &OwnedFd, name: &OsStr) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let entry = OsStr::from_bytes(entry.file_name().to_bytes());
        let Some((number, is_compressed)) = parse(name, entry) else {
            continue;
        };
        let found = match statat(directory, entry, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            listing.taken.push(number);
            continue;
        }
        listing.files.push(Rotated {
            number,
            is_compressed,
            size: u64::try_from(found.st_size).unwrap_or(0),
            identity: identity(&found),
        });
    }
    listing
        .files
        .sort_by_key(|file| (file.number, file.is_compressed));
    Ok(listing)
}

impl Rotated {
    pub(crate) fn name(&self, of: &OsStr) -> OsString {
        name(of, self.number, self.is_compressed)
    }

    /// # Errors
    /// Those of open(2); that it is another file by now.
    pub(crate) fn open(&self, directory: &OwnedFd, of: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(directory, self.name(of), flags, Mode::empty())?;
        match identity(&rustix::fs::fstat(&file)?) == self.identity {
            true => Ok(file),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

pub(crate) fn name(of: &OsStr, number: u32, is_compressed: bool) -> OsString {
    let mut name = of.as_bytes().to_vec();
    name.extend(format!(".{number}").bytes());
    if is_compressed {
        name.extend(COMPRESSED.bytes());
    }
    OsString::from_vec(name)
}

#[expect(
    clippy::unnecessary_cast,
    trivial_numeric_casts,
    reason = "the types differ between architectures"
)]
pub(crate) const fn identity(found: &Stat) -> (u64, u64) {
    (found.st_dev as u64, found.st_ino as u64)
}

#[expect(
    clippy::unnecessary_cast,
    trivial_numeric_casts,
    reason = "the types differ between architectures"
)]
pub(crate) const fn modified(found: &Stat) -> (i64, i64) {
    (found.st_mtime as i64, found.st_mtime_nsec as i64)
}

fn parse(of: &OsStr, entry: &OsStr) -> Option<(u32, bool)> {
    let rest = entry.as_bytes().strip_prefix(of.as_bytes())?;
    let rest = std::str::from_utf8(rest).ok()?.strip_prefix('.')?;
    let (number, is_compressed) = match rest.strip_suffix(COMPRESSED) {
        Some(number) => (number, true),
        None => (rest, false),
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || number.starts_with('0') || number.len() > MOST_DIGITS {
        return None;
    }
    Some((number.parse().ok()?, is_compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (entry, expected) in [
            ("web.log.1", Some((1, false))),
            ("web.log.12.gz", Some((12, true))),
            ("web.log", None),
            ("web.log.", None),
            ("web.log.0", None),
            ("web.log.01", None),
            ("web.log.1.xz", None),
            ("web.log.20260101", None),
            ("web.log.1.gz.part", None),
            ("web.log.-1", None),
            ("web.log.+1", None),
            ("other.log.1", None),
        ] {
            let parsed = parse(OsStr::new("web.log"), OsStr::new(entry));
            assert_eq!(parsed, expected, "{entry}");
            if let Some((number, is_compressed)) = parsed {
                assert_eq!(name(OsStr::new("web.log"), number, is_compressed), entry);
            }
        }
    }

    #[test]
    fn links_and_directories_are_no_logs() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("web.log");
        std::fs::write(place.path().join("web.log.3"), "x").unwrap();
        std::fs::create_dir(place.path().join("web.log.1")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.path().join("web.log.2.gz")).unwrap();
        let (directory, name) = directory(&path).unwrap();
        let mut listing = list(&directory, &name).unwrap();
        listing.taken.sort_unstable();
        assert_eq!(listing.taken, [1, 2]);
        let [file] = &listing.files[..] else {
            panic!("{listing:?}");
        };
        assert_eq!((file.number, file.size), (3, 1));
    }
}
