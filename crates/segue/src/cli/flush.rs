//! `segue flush` and `segue reopen`: the log file emptied, with what it was before; opened anew.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, ftruncate, openat, unlinkat};
use rustix::io::Errno;
use segue_wire::control::Level;

use super::args::CommonArgs;
use super::error::Trouble;
use super::every::each;
use super::logs::NO_FILE;
use super::output::Output;
use super::scale::only_app;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;
use crate::telemetry::rotated;

const WHAT: &str = "cannot flush";
/// Files may be rotated meanwhile; so often is it looked again.
const ROUNDS: usize = 20;

#[derive(clap::Args, Debug)]
pub(crate) struct FlushArgs {
    /// The app that is meant; all: every one [default: the only one]
    #[arg(value_name = "APP")]
    app: Option<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ReopenArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// What is gone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Freed {
    bytes: u64,
    removed: usize,
}

pub(super) async fn run(args: FlushArgs, output: Output) -> Result<Exit, Trouble> {
    each(
        &args.common,
        args.app.as_deref(),
        &output,
        async |common, app| flush(&common, app.as_deref(), &output).await,
    )
    .await
}

async fn flush(common: &CommonArgs, app: Option<&str>, output: &Output) -> Result<Exit, Trouble> {
    let found = find(common.control.clone(), app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(WHAT, error))?;
    let app = only_app(&found, app, WHAT)?;
    let shown = found.status.apps.iter().find(|shown| shown.name == app);
    let Some(log) = shown.and_then(|shown| shown.log.as_ref()) else {
        return Err(Trouble::new(
            WHAT,
            format!("{app} has {NO_FILE}"),
            "segue run --log FILE writes one",
            Exit::Failed,
        ));
    };
    let freed = empty(Path::new(&log.path)).map_err(|error| {
        Trouble::new(
            WHAT,
            format!("{}: {error}", log.path),
            "run the command as the supervisor's user, and see what is at that path",
            Exit::Failed,
        )
    })?;
    // It then knows how large the file is.
    let reopened = found.client.reopen_logs().await;
    reopened.map_err(|error| Trouble::talking("cannot have the log file opened anew", error))?;
    if output.json {
        let told = serde_json::json!({
            "app": app, "path": log.path, "freed_bytes": freed.bytes, "removed_files": freed.removed,
        });
        output.line(&told.to_string());
    } else if output.verbosity.shows(Level::Info) {
        let files = match freed.removed {
            0 => String::new(),
            1 => ", and removed 1 rotated file".to_owned(),
            count => format!(", and removed {count} rotated files"),
        };
        output.line(&format!(
            "{app}: emptied {}{files}: {} freed",
            log.path,
            bytes(freed.bytes)
        ));
    }
    Ok(Exit::Done)
}

pub(super) async fn reopen(args: ReopenArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot reopen the log files";
    let found = find(args.common.control.clone(), None, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(what, error))?;
    let outcome = found.client.reopen_logs().await;
    let outcome = outcome.map_err(|error| Trouble::talking(what, error))?;
    if output.json {
        // Strings and numbers always have a JSON form.
        output.line(&serde_json::to_string(&outcome).unwrap_or_default());
    } else if output.verbosity.shows(Level::Info) {
        output.line(&outcome.text);
    }
    Ok(Exit::Done)
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{}.{} MiB", count >> 20, ((count & 0xf_ffff) * 10) >> 20),
    }
}

/// Removes what the file was before, and empties it. No link is followed, and what has another name as well
/// is not ours to empty.
fn empty(path: &Path) -> io::Result<Freed> {
    let (directory, name) = rotated::directory(path)?;
    let flags =
        OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let current = match openat(&directory, &name, flags, Mode::empty()) {
        Err(Errno::LOOP) => {
            let why = "it is a symbolic link; name the file that it leads to";
            return Err(io::Error::other(why));
        }
        // It has been renamed, and not opened anew.
        Err(Errno::NOENT) => None,
        opened => Some(opened?),
    };
    if let Some(current) = &current {
        check(current)?;
    }
    let mut freed = Freed::default();
    for _ in 0..ROUNDS {
        if !remove(&directory, &name, &mut freed)? {
            break;
        }
    }
    if let Some(current) = &current {
        let size = fstat(current)?.st_size;
        ftruncate(current, 0)?;
        freed.bytes += u64::try_from(size).unwrap_or(0);
    }
    Ok(freed)
}

fn check(file: &OwnedFd) -> io::Result<()> {
    let found = fstat(file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    match found.st_nlink {
        0 | 1 => Ok(()),
        _ => Err(io::Error::other("it has another name as well")),
    }
}

/// Says whether there was one.
fn remove(directory: &OwnedFd, name: &OsStr, freed: &mut Freed) -> io::Result<bool> {
    let files = rotated::list(directory, name)?.files;
    for file in &files {
        // Under this name there may be another one by now.
        match file.open(directory, name) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        match unlinkat(directory, file.name(name), AtFlags::empty()) {
            Ok(()) => {
                freed.bytes += file.size;
                freed.removed += 1;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(!files.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_file_is_emptied_and_the_rotated_ones_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for (name, text) in [
            ("web.log", "12345"),
            ("web.log.1", "123"),
            ("web.log.2.gz", "1"),
            ("web.log.20260101", "a date"),
            ("other", "kept"),
        ] {
            fs::write(at(name), text).unwrap();
        }
        symlink(at("other"), at("web.log.3")).unwrap();
        let freed = empty(&at("web.log")).unwrap();
        assert_eq!(
            freed,
            Freed {
                bytes: 9,
                removed: 2
            }
        );
        assert_eq!(fs::read_to_string(at("web.log")).unwrap(), "");
        assert_eq!(fs::read_to_string(at("web.log.3")).unwrap(), "kept");
        assert!(!at("web.log.1").exists() && at("web.log.20260101").exists());
        assert_eq!(empty(&at("web.log")).unwrap(), Freed::default());
    }

    #[test]
    fn what_is_not_a_log_file_of_ours_alone_is_left() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("secret"), "kept").unwrap();
        fs::write(at("link.1"), "kept").unwrap();
        symlink(at("secret"), at("link")).unwrap();
        fs::hard_link(at("secret"), at("hard")).unwrap();
        for (name, why) in [
            ("link", "symbolic link"),
            ("hard", "another name"),
            (".", ""),
            ("none/web.log", ""),
        ] {
            let error = empty(&at(name)).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        assert_eq!(fs::read_to_string(at("secret")).unwrap(), "kept");
        assert!(at("link.1").exists());
    }
}
