//! The preload script: puts it where every worker can read it, and says which workers get it.
//!
//! Node ends at once when a `--require` file is missing, so the file is looked at before each
//! spawn, and a worker goes without it where it cannot be had.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bounds::Bounds;

const SCRIPT: &[u8] = include_bytes!("../../../../preload/preload.cjs");

/// The name has the content in it: two releases of segue never overwrite each other's.
const HASH: u64 = hash(SCRIPT);

/// Readable by every user, writable by us.
const MODE: u32 = 0o644;

/// Why a worker runs without the preload script.
#[derive(Clone, Debug, PartialEq, Eq, Error, Deserialize, Serialize)]
pub(crate) enum NoPreload {
    #[error("--preload off")]
    Off,
    #[error("only scripts that node runs get the preload script")]
    NotAScript,
    #[error("node's permission model keeps the preload script out")]
    Permissions,
    #[error("no place for the preload script: {0}")]
    NoPlace(String),
}

/// Where the script may lie.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    /// The best place first.
    places: Vec<PathBuf>,
    /// The first of them is a cache directory.
    has_cache: bool,
}

impl Shelf {
    /// The cache directory of this process's user, then `fallback`.
    pub(crate) fn of_this_process(fallback: Option<&Path>) -> Self {
        let uid = rustix::process::geteuid();
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache = if uid.is_root() {
            // HOME may be that of whoever called sudo.
            Some(PathBuf::from("/var/cache"))
        } else {
            absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
        };
        let cache = cache.map(|cache| cache.join("segue"));
        Self {
            has_cache: cache.is_some(),
            places: cache
                .into_iter()
                .chain(fallback.map(Path::to_owned))
                .collect(),
        }
    }

    /// The cache directory, if there is one.
    pub(crate) fn cache(&self) -> Option<&Path> {
        let first = self.places.first().filter(|_| self.has_cache);
        first.map(PathBuf::as_path)
    }

    /// The file, which has been made or repaired if need be, for workers of these bounds.
    ///
    /// # Errors
    /// There is no directory that can be written to, trusted, and read by them; each is named with its reason.
    pub(crate) fn place(&self, bounds: &Bounds) -> Result<PathBuf, NoPreload> {
        let mut reasons = Vec::new();
        for directory in &self.places {
            match place_in(directory) {
                Ok(file) if bounds.can_read(&file) => return Ok(file),
                Ok(_) => reasons.push(format!(
                    "{}: the workers' user may not read there",
                    directory.display()
                )),
                Err(error) => reasons.push(format!("{}: {error}", directory.display())),
            }
        }
        Err(NoPreload::NoPlace(match reasons.is_empty() {
            true => "neither XDG_CACHE_HOME nor HOME is set".to_owned(),
            false => reasons.join("; "),
        }))
    }
}

/// Whether node, started with these arguments and this environment, may load a file of ours.
pub(super) fn is_permitted<'a>(
    node_args: impl IntoIterator<Item = &'a OsString>,
    options: Option<&OsStr>,
) -> bool {
    let is_restriction = |word: &str| matches!(word, "--permission" | "--experimental-permission");
    let in_options = options.is_some_and(|options| {
        let options = options.to_string_lossy();
        options.split_whitespace().any(is_restriction)
    });
    let mut node_args = node_args.into_iter();
    !in_options && !node_args.any(|arg| arg.to_str().is_some_and(is_restriction))
}

fn place_in(directory: &Path) -> io::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    check_directory(directory)?;
    let file = directory.join(format!("preload-{HASH:016x}.cjs"));
    if is_intact(&file) {
        return Ok(file);
    }
    write(&file)?;
    match is_intact(&file) {
        true => Ok(file),
        false => Err(io::Error::other("what was written is not what is read")),
    }
}

/// Whoever can write there can run code in every worker.
pub(super) fn check_directory(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write to it"));
    }
    Ok(())
}

fn is_intact(file: &Path) -> bool {
    let read = || -> io::Result<bool> {
        // A FIFO under this name must not hold us up.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(file)?;
        let found = file.metadata()?;
        let is_ours = found.is_file()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o777 == MODE
            && usize::try_from(found.len()) == Ok(SCRIPT.len());
        if !is_ours {
            return Ok(false);
        }
        let mut content = Vec::with_capacity(SCRIPT.len());
        file.read_to_end(&mut content)?;
        Ok(content == SCRIPT)
    };
    read().unwrap_or(false)
}

/// All at once: a node that starts meanwhile finds the file of before, or this one.
fn write(file: &Path) -> io::Result<()> {
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    let written = write_new(&fresh).and_then(|()| fs::rename(&fresh, file));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn write_new(path: &Path) -> io::Result<()> {
    // What a process of the same number may have left.
    let _ = fs::remove_file(path);
    let mut file = File::create_new(path)?;
    file.write_all(SCRIPT)?;
    // Whatever the umask.
    file.set_permissions(fs::Permissions::from_mode(MODE))
}

/// FNV-1a, 64 bits: it tells contents apart, no more.
const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        rest = after;
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn shelf(directories: &[PathBuf]) -> Shelf {
        Shelf {
            places: directories.to_vec(),
            has_cache: false,
        }
    }

    #[test]
    fn it_is_written_once_and_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("cache/segue");
        let shelf = shelf(std::slice::from_ref(&directory));
        let file = shelf.place(&Bounds::default()).unwrap();
        let identity = |file: &Path| fs::metadata(file).unwrap().ino();
        assert_eq!(fs::read(&file).unwrap(), SCRIPT);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, MODE);
        let first = identity(&file);
        assert_eq!(shelf.place(&Bounds::default()).unwrap(), file);
        assert_eq!(identity(&file), first, "left alone");

        let mut changed = SCRIPT.to_vec();
        changed[0] ^= 1;
        fs::write(&file, changed).unwrap();
        assert_eq!(shelf.place(&Bounds::default()), Ok(file.clone()));
        assert_eq!(fs::read(&file).unwrap(), SCRIPT);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        shelf.place(&Bounds::default()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, MODE);
        fs::remove_file(&file).unwrap();
        symlink("/etc/passwd", &file).unwrap();
        shelf.place(&Bounds::default()).unwrap();
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (open, closed) = (folder.path().join("open"), folder.path().join("closed"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let file = shelf(&[open.clone(), closed.clone()])
            .place(&Bounds::default())
            .unwrap();
        assert!(file.starts_with(&closed));
        let linked = folder.path().join("linked");
        symlink(&closed, &linked).unwrap();
        let a_file = folder.path().join("file");
        fs::write(&a_file, "").unwrap();
        for directory in [open, linked, a_file.join("below")] {
            let refused = shelf(std::slice::from_ref(&directory)).place(&Bounds::default());
            let text = refused.unwrap_err().to_string();
            assert!(text.contains(directory.to_str().unwrap()), "{text}");
        }
        assert!(matches!(
            shelf(&[]).place(&Bounds::default()),
            Err(NoPreload::NoPlace(_))
        ));
    }

    #[test]
    fn the_permission_model_is_noticed() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let plain = words(&["--enable-source-maps", "--permissions"]);
        assert!(is_permitted(
            &plain,
            Some(OsStr::new("--max-old-space-size=100"))
        ));
        assert!(!is_permitted(&words(&["--permission"]), None));
        assert!(!is_permitted(&words(&["--experimental-permission"]), None));
        let options = OsStr::new("--trace-warnings --permission");
        assert!(!is_permitted(&plain, Some(options)));
    }
}
