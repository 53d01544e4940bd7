//! `segue start` and `segue delete`: apps of the background supervisor, which `start` makes if there is none.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::args::{AppArgs, CommonArgs, RunArgs, StartArgs};
use super::error::Trouble;
use super::every::each;
use super::follow::{follow, limited};
use super::output::Output;
use super::prepared::{Prepared, here};
use super::scale::only_app;
use crate::config::file::File;
use crate::config::state;
use crate::control::client::{Client, ClientError};
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

/// The background supervisor's socket in the runtime directory.
pub(crate) const MAIN: &str = "main.sock";

/// How long a supervisor may take from its start to its first answer.
const BIRTH: Duration = Duration::from_secs(10);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(20);
/// So many bytes of its log are looked at when it does not come up.
const LAST_WORDS: u64 = 4096;

/// What a supervisor in the background gets of the environment of whoever starts the first app: apps get
/// theirs with their definition.
const KEPT: [&str; 10] = [
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "TMPDIR",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "RUST_BACKTRACE",
];

pub(super) async fn run(args: StartArgs, output: Output) -> Result<Exit, Trouble> {
    let started = start(&args, &output);
    limited(args.timeout, "cannot wait for the start", started).await
}

async fn start(args: &StartArgs, output: &Output) -> Result<Exit, Trouble> {
    let what = "cannot start";
    let usage = |why: String| Trouble::new(what, why, "", Exit::Usage);
    let here = here().map_err(usage)?;
    let known = existing(args.run.control.as_deref(), &here).await?;
    if let ([word], Some(client)) = (args.run.command.as_slice(), &known)
        && let Some(name) = word.to_str()
        && !here.join(name).exists()
    {
        let status = client.status().await;
        let status = status.map_err(|error| Trouble::talking(what, error))?;
        if status.apps.iter().any(|app| app.name == name) {
            return follow(async || client.order(name, "start").await, what, output).await;
        }
    }
    let is_alone = args.run.command.is_empty()
        && args.run.config.is_none()
        && File::of_directory(&here).is_none()
        && !here.join("package.json").exists();
    // Before a supervisor is made for nothing.
    let apps = match is_alone {
        true => Vec::new(),
        false => Prepared::all(&args.run).map_err(usage)?,
    };
    let client = match (known, birth_flag(&args.run)) {
        (Some(_), Some(flag)) => {
            return Err(Trouble::new(
                what,
                format!("{flag} is for a supervisor that begins, and one runs already"),
                "leave it out, or begin anew: segue shutdown",
                Exit::Usage,
            ));
        }
        (Some(client), None) => client,
        (None, _) => bring_up(&args.run, &here).await?,
    };
    if apps.is_empty() {
        let status = client.status().await;
        let status = status.map_err(|error| Trouble::talking(what, error))?;
        let names: Vec<&str> = status.apps.iter().map(|app| app.name.as_str()).collect();
        output.line(&match names.as_slice() {
            [] => "the background supervisor runs, without an app: segue start SCRIPT".to_owned(),
            names => format!("the background supervisor runs {}", names.join(", ")),
        });
        return Ok(Exit::Done);
    }
    let mut exits = Vec::new();
    for app in &apps {
        let what = format!("cannot start {}", app.name);
        let asked = follow(async || client.start(app).await, &what, output).await;
        exits.push(asked.unwrap_or_else(|trouble| {
            output.trouble(&trouble);
            trouble.exit
        }));
    }
    Ok(Exit::all(exits))
}

pub(super) async fn delete(args: AppArgs, output: Output) -> Result<Exit, Trouble> {
    let deleted = each(
        &args.common,
        args.app.as_deref(),
        &output,
        async |common, app| delete_one(common, app.as_deref(), &output).await,
    );
    limited(args.timeout, "cannot wait for the end", deleted).await
}

async fn delete_one(
    common: CommonArgs,
    app: Option<&str>,
    output: &Output,
) -> Result<Exit, Trouble> {
    let what = "cannot delete";
    let found = find(common.control, app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(what, error))?;
    let app = only_app(&found, app, what)?;
    follow(async || found.client.delete(&app).await, what, output).await
}

/// The background supervisor, made if there is none.
pub(super) async fn background(control: Option<PathBuf>) -> Result<Client, Trouble> {
    let usage = |why: String| Trouble::new("cannot start", why, "", Exit::Usage);
    let here = here().map_err(usage)?;
    match existing(control.as_deref(), &here).await? {
        Some(client) => Ok(client),
        None => {
            let run = RunArgs {
                control,
                ..RunArgs::default()
            };
            bring_up(&run, &here).await
        }
    }
}

/// A flag that only a supervisor that begins can take.
fn birth_flag(run: &RunArgs) -> Option<&'static str> {
    let pid_file = run.pid_file.as_ref().map(|_| "--pid-file");
    pid_file.or(run.metrics.map(|_| "--metrics"))
}

/// The one that runs, if one does.
async fn existing(control: Option<&Path>, here: &Path) -> Result<Option<Client>, Trouble> {
    let candidates = match control {
        Some(control) => vec![here.join(control)],
        None => {
            let (sockets, _) = Place::of_this_process().sockets();
            let is_main = |path: &PathBuf| path.file_name().is_some_and(|name| name == MAIN);
            sockets.into_iter().filter(is_main).collect()
        }
    };
    for path in candidates {
        let client = Client::new(path);
        match client.status().await {
            Ok(_) => return Ok(Some(client)),
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(Trouble::talking("cannot start", error)),
        }
    }
    Ok(None)
}

async fn bring_up(run: &RunArgs, here: &Path) -> Result<Client, Trouble> {
    let what = "cannot start the background supervisor";
    let failed = |why: String, next: &str| Trouble::new(what, why, next, Exit::Failed);
    let control = match &run.control {
        Some(control) => here.join(control),
        None => {
            let directory = Place::of_this_process().directory();
            directory
                .map_err(|error| failed(error.to_string(), ""))?
                .join(MAIN)
        }
    };
    let log = state::own_log().ok_or_else(|| {
        failed(
            "neither XDG_STATE_HOME nor HOME is set".to_owned(),
            "set one of them",
        )
    })?;
    let file = open(&log).map_err(|error| {
        failed(
            format!("cannot open its log {}: {error}", log.display()),
            "set XDG_STATE_HOME to a directory that you may write to",
        )
    })?;
    let from = file.metadata().map_or(0, |found| found.len());
    let spawned = spawn(run, here, &control, file);
    let mut child = spawned.map_err(|error| {
        failed(
            format!("cannot start a process: {error}"),
            "see ulimit -u, and whether this binary is still at its place",
        )
    })?;
    let client = Client::new(control);
    let deadline = tokio::time::Instant::now() + BIRTH;
    loop {
        match client.status().await {
            Ok(_) => return Ok(client),
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(Trouble::talking(what, error)),
        }
        if let Ok(Some(status)) = child.try_wait() {
            // Another one may have been quicker.
            if client.status().await.is_ok() {
                return Ok(client);
            }
            let said = last_words(&log, from);
            let next = format!("mend that and start it again; its log is {}", log.display());
            return Err(failed(format!("it ended with {status}\n{said}"), &next));
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(failed(
                format!("it does not answer within {} s", BIRTH.as_secs()),
                &format!("see {}", log.display()),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn spawn(run: &RunArgs, here: &Path, control: &Path, log: fs::File) -> io::Result<Child> {
    let env = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| KEPT.contains(&name)));
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["start", "--foreground", "--detached", "--control"])
        .arg(control);
    if let Some(path) = &run.pid_file {
        command.arg("--pid-file").arg(here.join(path));
    }
    if let Some(address) = run.metrics {
        command.arg("--metrics").arg(address.to_string());
    }
    if run.quiet {
        command.arg("--quiet");
    }
    command
        .args(std::iter::repeat_n("--verbose", run.verbose.into()))
        .env_clear()
        .envs(env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn open(log: &Path) -> io::Result<fs::File> {
    if let Some(directory) = log.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    fs::File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
}

fn last_words(log: &Path, from: u64) -> String {
    use std::os::unix::fs::FileExt;
    let read = || -> io::Result<Vec<u8>> {
        let file = fs::File::open(log)?;
        let mut bytes = vec![0; usize::try_from(LAST_WORDS).unwrap_or_default()];
        let read = file.read_at(&mut bytes, from)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default())
        .trim_end()
        .to_owned()
}
