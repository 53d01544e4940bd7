//! Releases side by side and the symbolic link `current`: made, turned and removed. Nothing is reloaded here.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub(super) const DIRECTORY: &str = "releases";
pub(super) const CURRENT: &str = "current";

/// Digits of a commit in the name of its release.
const SHORT: usize = 12;

/// The name of a release: in the order of time.
pub(super) fn name(now: jiff::Timestamp, commit: &str) -> String {
    let commit = commit.get(..SHORT).unwrap_or(commit);
    format!("{}-{commit}", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// What `current` says, if it is there.
///
/// # Errors
/// It is no link.
pub(super) fn current(to: &Path) -> Result<Option<PathBuf>, String> {
    let path = to.join(CURRENT);
    match fs::read_link(&path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            Err(format!("{} is no symbolic link", path.display()))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Turns `current`, at one moment; without a target it is removed.
pub(super) fn turn(to: &Path, target: Option<&Path>) -> io::Result<()> {
    let current = to.join(CURRENT);
    let Some(target) = target else {
        return fs::remove_file(current);
    };
    let fresh = to.join(format!(".current-{}", std::process::id()));
    // Left by one that was killed, of the same number.
    let _ = fs::remove_file(&fresh);
    symlink(target, &fresh)?;
    fs::rename(&fresh, current).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

/// Removes the oldest of the releases that were made here, never one of these. Says how many.
pub(super) fn prune(to: &Path, keep: usize, used: &[&Path]) -> io::Result<usize> {
    let directory = to.join(DIRECTORY);
    let is_used = |path: &Path| {
        let is_same = |used: &&Path| to.join(used).canonicalize().ok() == path.canonicalize().ok();
        used.iter().any(is_same)
    };
    let mut ours = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && is_name(&entry.file_name().to_string_lossy()) {
            ours.push(entry.path());
        }
    }
    ours.sort();
    let too_many = ours.len().saturating_sub(keep);
    let mut removed = 0;
    for path in ours.iter().take(too_many).filter(|path| !is_used(path)) {
        fs::remove_dir_all(path)?;
        removed += 1;
    }
    Ok(removed)
}

/// Whether a release was made here: others are not ours to remove.
fn is_name(name: &str) -> bool {
    let Some((time, commit)) = name.split_once('-') else {
        return false;
    };
    let is_time = time.len() == 16
        && time.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    is_time && commit.len() == SHORT && commit.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_those_in_use_stay() {
        let place = tempfile::tempdir().unwrap();
        let to = place.path();
        let commit = "0123456789abcdef";
        let time = |second: i64| jiff::Timestamp::from_second(1_700_000_000 + second).unwrap();
        let names: Vec<String> = (0..6).map(|second| name(time(second), commit)).collect();
        assert_eq!(names[0], "20231114T221320Z-0123456789ab");
        for made in names.iter().map(String::as_str).chain(["v1", "20231114-x"]) {
            fs::create_dir_all(to.join(DIRECTORY).join(made)).unwrap();
        }
        let path = |at: usize| Path::new(DIRECTORY).join(&names[at]);
        turn(to, Some(&path(5))).unwrap();
        assert_eq!(current(to).unwrap(), Some(path(5)));
        assert_eq!(prune(to, 2, &[&path(5), &path(1)]).unwrap(), 3);
        let left: Vec<bool> = (0..6).map(|at| to.join(path(at)).exists()).collect();
        assert_eq!(left, [false, true, false, false, true, true]);
        assert!(to.join("releases/v1").exists() && to.join("releases/20231114-x").exists());
        turn(to, None).unwrap();
        assert_eq!(current(to).unwrap(), None);
        fs::create_dir(to.join(CURRENT)).unwrap();
        assert!(current(to).is_err());
    }
}
