//! Where Node keeps what it has compiled of a release (`NODE_COMPILE_CACHE`, Node 22.1 and later): each
//! release has a directory, because Node names what is in it by the files' paths, and a few of those
//! before it are kept. Node itself keeps its versions apart within one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::launch::Release;
use super::preload::check_directory;

/// So many releases of an app have a directory.
const RELEASES: usize = 4;

/// How long `node --version` may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Variables with which an app says itself what it wants.
const OWN: [&str; 3] = [
    "NODE_COMPILE_CACHE",
    "NODE_DISABLE_COMPILE_CACHE",
    "NODE_V8_COVERAGE",
];

/// Major and minor.
type Version = (u32, u32);

/// An executable, and when it was last changed.
type Program = (PathBuf, SystemTime);

/// The compile cache of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompileCache {
    pub(crate) directory: PathBuf,
    /// Nothing is in it, and the first worker can be made to fill it.
    pub(crate) is_cold: bool,
}

/// The cache of a release, below `shelf`; `None` where Node knows none, the app has its own, or there is
/// no place that can be trusted, or the workers are another user. Looks at files and may start node: not to be called in the loop.
pub(crate) fn place(shelf: &Path, app: &str, release: &Release) -> Option<CompileCache> {
    // Another user could not write there, and its node is not for us to run.
    if release.bounds().identity().is_some() {
        return None;
    }
    if release.takes_preload().is_err() || OWN.iter().any(|name| release.variable(name).is_some()) {
        return None;
    }
    let version = node_version(release)?;
    if version < (22, 1) {
        return None;
    }
    let of_app = shelf.join("compile").join(app);
    let directory = of_app.join(format!("{:016x}", hash(release.directory().as_os_str())));
    match make(shelf, &of_app, &directory) {
        Ok(is_empty) => {
            prune(&of_app, &directory);
            // Before that it is written at a worker's end only.
            let is_cold = is_empty && version >= (22, 10);
            Some(CompileCache { directory, is_cold })
        }
        Err(error) => {
            tracing::debug!(%error, directory = %directory.display(), "no compile cache");
            None
        }
    }
}

/// True if it is empty.
fn make(shelf: &Path, of_app: &Path, directory: &Path) -> io::Result<bool> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    // Whoever can write there can run code in every worker.
    for directory in [shelf, of_app, directory] {
        check_directory(directory)?;
    }
    // The newest is what is used now.
    let _ = fs::File::open(directory)?.set_modified(SystemTime::now());
    let is_empty = match fs::read_dir(directory)?.next() {
        None => true,
        Some(version) => {
            fs::read_dir(version?.path()).map_or(true, |mut files| files.next().is_none())
        }
    };
    Ok(is_empty)
}

/// Removes those of releases long gone.
fn prune(of_app: &Path, present: &Path) {
    let Ok(entries) = fs::read_dir(of_app) else {
        return;
    };
    let mut others: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path() != present)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    others.sort_unstable_by(|one, other| other.cmp(one));
    for (_, path) in others.into_iter().skip(RELEASES - 1) {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::debug!(%error, path = %path.display(), "an old compile cache stays");
        }
    }
}

/// The version of a release's node. Asked again only of another file.
fn node_version(release: &Release) -> Option<Version> {
    static KNOWN: Mutex<BTreeMap<Program, Option<Version>>> = Mutex::new(BTreeMap::new());
    let program = release.program();
    let key = (
        program.to_owned(),
        program.metadata().ok()?.modified().ok()?,
    );
    let known = |of: &Program| {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(of).copied()
    };
    if let Some(version) = known(&key) {
        return version;
    }
    let version = ask_version(release);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // It may be a wrapper that changes its mind; so it is not remembered for ever.
    known.clear();
    known.insert(key, version);
    version
}

fn ask_version(release: &Release) -> Option<Version> {
    let mut child = Command::new(release.program())
        .arg("--version")
        .env_clear()
        .envs(
            release
                .variables()
                .filter(|(name, _)| *name != "NODE_OPTIONS"),
        )
        .current_dir(release.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut out = child.stdout.take()?;
    let patience = rustix::event::Timespec {
        tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut polled = [rustix::event::PollFd::new(
        &out,
        rustix::event::PollFlags::IN,
    )];
    let has_spoken = rustix::event::poll(&mut polled, Some(&patience)).is_ok_and(|count| count > 0);
    let mut text = [0; 32];
    let length = match has_spoken {
        true => out.read(&mut text).unwrap_or(0),
        false => 0,
    };
    let _ = child.kill();
    let _ = child.wait();
    parse_version(std::str::from_utf8(text.get(..length)?).ok()?)
}

/// `v22.10.0`.
fn parse_version(text: &str) -> Option<Version> {
    let mut parts = text.trim().strip_prefix('v')?.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

/// FNV-1a, 64 bits: it tells paths apart, no more.
fn hash(text: &OsStr) -> u64 {
    text.as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("v22.10.0\n"), Some((22, 10)));
        assert_eq!(parse_version("v26.0.0-nightly"), Some((26, 0)));
        for text in ["", "22.1.0", "v", "deno 2.0.0", "v22"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn the_newest_few_are_kept_and_what_is_empty_is_cold() {
        let shelf = tempfile::tempdir().unwrap();
        let shelf = shelf.path();
        let of_app = shelf.join("compile/web");
        for number in 0..10 {
            let directory = of_app.join(format!("{number:016x}"));
            assert!(make(shelf, &of_app, &directory).unwrap(), "it is cold");
            fs::create_dir(directory.join("v24")).unwrap();
            assert!(make(shelf, &of_app, &directory).unwrap(), "still");
            fs::write(directory.join("v24/file"), "code").unwrap();
            assert!(!make(shelf, &of_app, &directory).unwrap());
            let at = SystemTime::now() - Duration::from_secs(100 - number);
            let file = fs::File::open(&directory).unwrap();
            file.set_modified(at).unwrap();
            prune(&of_app, &directory);
        }
        let mut left: Vec<_> = fs::read_dir(&of_app)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort_unstable();
        let expected: Vec<std::ffi::OsString> = (6..10)
            .map(|number| format!("{number:016x}").into())
            .collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn who_can_be_written_to_by_others_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let shelf = tempfile::tempdir().unwrap();
        let shelf = shelf.path();
        fs::set_permissions(shelf, fs::Permissions::from_mode(0o777)).unwrap();
        let of_app = shelf.join("compile/web");
        assert!(make(shelf, &of_app, &of_app.join("1")).is_err());
    }
}
