//! What the hook does with a push: a release beside the others, built, turned to and reloaded; each step is
//! undone if a later one fails. It runs before the push is accepted, so that its failure refuses it.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use segue_wire::control::{App, ReloadBody, Wait, Worker};
use tokio::time::{Instant, sleep};

use super::super::error::Trouble;
use super::super::follow::follow;
use super::super::output::Output;
use super::super::scale::only_app;
use super::{Target, release};
use crate::control::client::{Client, ClientError};
use crate::control::find::{FindError, Found, find};
use crate::control::runtime::Place;
use crate::exit::Exit;

const LOCK: &str = ".segue-hook.lock";
const AGAIN: &str = "repair it and push again; what served before serves on";
/// More is no list of branches.
const LONGEST: u64 = 1 << 20;
/// So often may others reload at the same time.
const MOST_OVERTAKEN: u32 = 10;
/// How long those that have failed may take to end, and the pause between two looks.
const LEAVING: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// One branch of a push.
#[derive(Debug, PartialEq, Eq)]
struct Update {
    old: String,
    new: String,
}

/// The repository, and how the objects of the push are found, which are not in it yet.
struct Repository {
    directory: PathBuf,
}

pub(super) async fn run(target: Target, output: &Output) -> Result<Exit, Trouble> {
    let what = "cannot deploy";
    let trouble = |why: String| Trouble::new(what, why, AGAIN, Exit::Failed);
    let mut lines = String::new();
    let read = std::io::stdin().take(LONGEST).read_to_string(&mut lines);
    read.map_err(|error| trouble(format!("cannot read what is pushed: {error}")))?;
    let Some(update) = update_of(&lines, &target.branch) else {
        return Ok(Exit::Done);
    };
    if is_nothing(&update.new) {
        output.line(&format!(
            "segue: {} is removed; what serves serves on",
            target.branch
        ));
        return Ok(Exit::Done);
    }
    let repository = Repository::of_hook().map_err(trouble)?;
    let _turn = lock(&target.to).map_err(trouble)?;
    repository
        .expects(&update, &target.branch)
        .map_err(trouble)?;
    deploy(&target, &repository, &update.new, output).await
}

async fn deploy(
    target: &Target,
    repository: &Repository,
    commit: &str,
    output: &Output,
) -> Result<Exit, Trouble> {
    let name = release::name(Timestamp::now(), commit);
    let short = name.rsplit('-').next().unwrap_or_default().to_owned();
    let trouble =
        |why: String| Trouble::new(format!("cannot deploy {short}"), why, AGAIN, Exit::Failed);
    let previous = release::current(&target.to).map_err(trouble)?;
    let found = supervisor(target, previous.is_some()).await?;
    let path = Path::new(release::DIRECTORY).join(&name);
    let directory = target.to.join(&path);
    fs::create_dir_all(target.to.join(release::DIRECTORY))
        .and_then(|()| fs::create_dir(&directory))
        .map_err(|error| trouble(format!("cannot make {}: {error}", directory.display())))?;
    let removed = Unless(Some(&directory));
    output.line(&format!("segue: {short} goes to {}", directory.display()));
    repository.check_out(commit, &directory).map_err(trouble)?;
    if let Some(command) = &target.build {
        build(command, &directory).map_err(trouble)?;
    }
    release::turn(&target.to, Some(&path))
        .map_err(|error| trouble(format!("cannot turn current: {error}")))?;
    let served = match &found {
        Some(found) => reload(target, found, &directory, output).await,
        None => Ok(Exit::Done),
    };
    if !matches!(served, Ok(Exit::Done)) {
        release::turn(&target.to, previous.as_deref())
            .map_err(|error| trouble(format!("cannot turn current back: {error}")))?;
        if let Some(found) = &found
            && !is_left(found, &directory).await
        {
            // Nobody is robbed of what it runs from; a later push removes it.
            removed.keep();
        }
        return served;
    }
    removed.keep();
    if found.is_none() {
        let current = target.to.join(release::CURRENT);
        output.line(&format!(
            "segue: nothing runs yet: segue run --cwd {} SCRIPT",
            current.display()
        ));
    }
    // What served before may be another one than the link said.
    let before = found.iter().flat_map(|found| &found.status.apps);
    let before = before.filter_map(|app| app.release.as_deref().map(Path::new));
    let linked = previous.iter().map(PathBuf::as_path);
    let used: Vec<&Path> = linked.chain(before).chain([&*path]).collect();
    // A release that stays for once is no reason to refuse a push that serves.
    if let Err(error) = release::prune(&target.to, target.keep.into(), &used) {
        output.complain(&format!("segue: cannot remove old releases: {error}"));
    }
    Ok(Exit::Done)
}

/// Who is to reload; nobody before the first release.
async fn supervisor(target: &Target, has_release: bool) -> Result<Option<Found>, Trouble> {
    let app = target.app.as_deref();
    let found = find(target.control.clone(), app, &Place::of_this_process()).await;
    match found {
        Ok(found) => Ok(Some(found)),
        Err(
            FindError::None { .. }
            | FindError::NoSuchApp { .. }
            | FindError::Client(ClientError::NotRunning { .. }),
        ) if !has_release => Ok(None),
        Err(error) => Err(Trouble::finding("cannot deploy", error)),
    }
}

async fn reload(
    target: &Target,
    found: &Found,
    directory: &Path,
    output: &Output,
) -> Result<Exit, Trouble> {
    let what = "cannot reload";
    let app = only_app(found, target.app.as_deref(), what)?;
    let body = ReloadBody {
        wait: Wait::Committed,
        ..ReloadBody::default()
    };
    let mut exit = Exit::Conflict;
    for _ in 0..MOST_OVERTAKEN {
        // Each is a request of its own.
        let client = Client::new(found.client.path());
        exit = follow(async || client.reload(Some(&app), body).await, what, output).await?;
        // One that was overtaken does not say what serves.
        if exit != Exit::Conflict {
            break;
        }
    }
    if exit != Exit::Done {
        return Ok(exit);
    }
    // A reload of something else would prove nothing.
    let status = found.client.status().await;
    let status = status.map_err(|error| Trouble::talking(what, error))?;
    let release = status.apps.into_iter().find(|shown| shown.name == app);
    let release = release.and_then(|shown| shown.release).unwrap_or_default();
    let meant = directory.canonicalize().unwrap_or_default();
    if Path::new(&release).starts_with(&meant) {
        return Ok(Exit::Done);
    }
    let current = target.to.join(release::CURRENT);
    Err(Trouble::new(
        format!("cannot deploy to {app}"),
        format!("it runs from {release}, not from {}", current.display()),
        format!("start it with --cwd {}", current.display()),
        Exit::Failed,
    ))
}

/// Whether nobody runs from a release that was refused, once those that tried have ended.
async fn is_left(found: &Found, directory: &Path) -> bool {
    let meant = directory.canonicalize().unwrap_or_default();
    let until = Instant::now() + LEAVING;
    loop {
        let Ok(status) = found.client.status().await else {
            return false;
        };
        let is_used = |app: &App| {
            let release = app.release.as_deref().map(Path::new);
            let is_new = |worker: &Worker| worker.generation > app.generation;
            app.reload.is_some()
                || release.is_some_and(|release| release.starts_with(&meant))
                || app.workers.iter().any(is_new)
        };
        if !status.apps.iter().any(is_used) {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        sleep(PAUSE).await;
    }
}

/// Removes a release that did not come to serve.
struct Unless<'a>(Option<&'a Path>);

impl Unless<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        if let Some(directory) = self.0 {
            // What cannot be removed is in nobody's way; a later push removes it.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// One deployment at a time.
fn lock(to: &Path) -> Result<File, String> {
    let path = to.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err("another push is being deployed".to_owned()),
        Err(TryLockError::Error(error)) => Err(format!("{}: {error}", path.display())),
    }
}

/// The app's build is not about this repository.
fn build(command: &str, directory: &Path) -> Result<(), String> {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", command])
        .current_dir(directory)
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            shell.env_remove(name);
        }
    }
    shell.env("PWD", directory);
    let status = shell
        .status()
        .map_err(|error| format!("cannot run the build: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the build failed: {command}: {status}")),
    }
}

impl Repository {
    fn of_hook() -> Result<Self, String> {
        let directory =
            std::env::var_os("GIT_DIR").ok_or("it is no hook of git's: GIT_DIR is not set")?;
        let directory = Path::new(&directory).canonicalize();
        Ok(Self {
            directory: directory.map_err(|error| format!("GIT_DIR: {error}"))?,
        })
    }

    /// With the variables of the hook, which lead to the objects of the push.
    fn git(&self, words: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.args(words)
            .env("GIT_DIR", &self.directory)
            .stdin(Stdio::null());
        git
    }

    fn says(&self, words: &[&str]) -> Result<Option<String>, String> {
        let done = self
            .git(words)
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run git: {error}"))?;
        let text = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        Ok(done.status.success().then_some(text))
    }

    /// What git itself would refuse after us is refused before anything is done.
    fn expects(&self, update: &Update, branch: &str) -> Result<(), String> {
        let at = self.says(&[
            "rev-parse",
            "--verify",
            "--quiet",
            &format!("refs/heads/{branch}"),
        ])?;
        let is_new = is_nothing(&update.old);
        if at.as_deref() != (!is_new).then_some(update.old.as_str()) {
            return Err(format!("{branch} has changed meanwhile"));
        }
        let fast_only = self.says(&["config", "--bool", "receive.denyNonFastForwards"])?;
        if !is_new && fast_only.as_deref() == Some("true") {
            let is_fast = self.says(&["merge-base", "--is-ancestor", &update.old, &update.new])?;
            if is_fast.is_none() {
                return Err("it is no fast-forward, which the repository denies".to_owned());
            }
        }
        Ok(())
    }

    fn check_out(&self, commit: &str, directory: &Path) -> Result<(), String> {
        let index = directory.with_extension("index");
        let result = [&["read-tree", commit][..], &["checkout-index", "--all"]]
            .into_iter()
            .try_for_each(|words| {
                let status = self
                    .git(words)
                    .current_dir(directory)
                    .env("GIT_INDEX_FILE", &index)
                    .env("GIT_WORK_TREE", directory)
                    .status()
                    .map_err(|error| format!("cannot run git: {error}"))?;
                match status.success() {
                    true => Ok(()),
                    false => Err(format!("git {}: {status}", words.join(" "))),
                }
            });
        // It was of use for this only.
        let _ = fs::remove_file(index);
        result?;
        // By which the release is known; one that is there is the app's own affair.
        let revision = File::options()
            .write(true)
            .create_new(true)
            .open(directory.join("REVISION"));
        match revision.and_then(|mut file| writeln!(file, "{commit}")) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(format!("cannot write REVISION: {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// What a push does to the branch: lines of `OLD NEW REF`.
fn update_of(lines: &str, branch: &str) -> Option<Update> {
    lines.lines().find_map(|line| {
        let mut words = line.splitn(3, ' ');
        let (old, new, name) = (words.next()?, words.next()?, words.next()?);
        let is_meant = name.strip_prefix("refs/heads/") == Some(branch);
        is_meant.then(|| Update {
            old: old.to_owned(),
            new: new.to_owned(),
        })
    })
}

/// How git writes that there is none.
fn is_nothing(commit: &str) -> bool {
    commit.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_branch_is_meant() {
        let lines = "a1 b1 refs/heads/main\na2 b2 refs/tags/main\na3 b3 refs/heads/next/main\n";
        let update = |old: &str, new: &str| {
            Some(Update {
                old: old.to_owned(),
                new: new.to_owned(),
            })
        };
        assert_eq!(update_of(lines, "main"), update("a1", "b1"));
        assert_eq!(update_of(lines, "next/main"), update("a3", "b3"));
        assert_eq!(update_of(lines, "other"), None);
        assert_eq!(update_of("", "main"), None);
        assert!(is_nothing("0000") && !is_nothing("0100"));
    }
}
