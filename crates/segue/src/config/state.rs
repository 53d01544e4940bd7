//! Where a background supervisor keeps what outlives it: `$XDG_STATE_HOME/segue`, `/var/lib/segue` for
//! root, else `~/.local/state/segue`.

use std::path::PathBuf;

/// The directory; none where the environment does not say.
pub(crate) fn directory() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Some(state.join("segue"));
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/segue"));
    }
    Some(absolute("HOME")?.join(".local/state/segue"))
}

/// The apps that it remembers.
pub(crate) fn memory() -> Option<PathBuf> {
    Some(directory()?.join("apps.json"))
}

/// Its own log.
pub(crate) fn own_log() -> Option<PathBuf> {
    Some(directory()?.join("segue.log"))
}

/// The log file of an app that names none.
pub(crate) fn app_log(memory: &std::path::Path, app: &str) -> PathBuf {
    memory.with_file_name("logs").join(format!("{app}.log"))
}
