//! A release: one generation's directory, script, environment and arguments, resolved once and
//! pinned, so that a respawn runs what its generation runs, wherever `current` points by then.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use segue_core::{Generation, SlotId, WorkerId};
use segue_sys::process::Rlimit;
use segue_sys::spawn::{Held, Mask, Spawn};
use segue_wire::control::Revision;
use serde::{Deserialize, Serialize};

use super::bounds::{Bounds, NoBounds};
use super::preload::{NoPreload, is_permitted};
use super::wrapper::{self, Wrapper};
use crate::config::app::AppConfig;
use crate::config::command::{Command, is_node, script_position};
use crate::config::confine::ListenAt;
use crate::config::env_file::{EnvFileError, read_env_file};
use crate::config::file::FileError;
use crate::config::package::Package;
use crate::config::revision;
use crate::handoff::text::{optional_word, pairs, word, words};

/// Where node finds its channel.
const CHANNEL: i32 = 3;

/// Variables that are for us, or that mean something else below us: descriptors and sockets of
/// the service manager, our own control, and another primary's channel.
const NOT_PASSED_ON: [&str; 20] = [
    "FDSTORE",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NOTIFY_SOCKET",
    "SEGUE_APP",
    "SEGUE_CONTROL",
    "SEGUE_GENERATION",
    "SEGUE_HELD_FD",
    "SEGUE_KEEPER_FD",
    "SEGUE_SLOT",
    "SEGUE_STEERING",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Why a generation cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("cannot use the directory {}: {source}; check --cwd and where its symlinks point", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot run {}: there is no such script{}", path.display(), hint(.similar.as_deref()))]
    NoScript {
        path: PathBuf,
        similar: Option<PathBuf>,
    },
    #[error("cannot run {}: {source}", path.display())]
    Script { path: PathBuf, source: io::Error },
    #[error("cannot run {}: node is not in the PATH; install Node.js or say where it is with --node PATH", .0.display())]
    NoNode(PathBuf),
    #[error("cannot run {}: there is no such program{}", name.display(), hint(.similar.as_deref()))]
    NoProgram {
        name: PathBuf,
        similar: Option<PathBuf>,
    },
    #[error(
        "cannot run {name}: it is not executable; write `segue run node {name}` if it is a script for node, else `chmod +x {name}`"
    )]
    NotExecutable { name: String },
    #[error("its release is not known any more")]
    Forgotten,
    #[error(transparent)]
    EnvFile(#[from] EnvFileError),
    #[error(transparent)]
    Wrapper(#[from] Wrapper),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Bounds(#[from] NoBounds),
}

fn hint(similar: Option<&Path>) -> String {
    match similar {
        Some(path) => format!("; did you mean {}?", path.display()),
        None => "; check the name and the directory".into(),
    }
}

/// Everything that is the same for all workers of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Release {
    app: String,
    #[serde(with = "word")]
    program: PathBuf,
    #[serde(with = "words")]
    argv: Vec<OsString>,
    /// So many of them, at the end, are the app's own.
    arguments: usize,
    #[serde(with = "pairs")]
    env: BTreeMap<OsString, OsString>,
    #[serde(with = "word")]
    cwd: PathBuf,
    /// Where Node is to keep what it compiles.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_word"
    )]
    compile_cache: Option<PathBuf>,
    /// Whether node runs a script, and so can be a cluster worker: with `-e`, `-p` or a script
    /// on stdin, its `listen` would ask us and never hear the answer.
    has_script: bool,
    fingerprint: Fingerprint,
    #[serde(default)]
    bounds: Bounds,
    /// Which rights files that its workers make do not get, if not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    umask: Option<u32>,
    /// Where its workers are to listen, and nowhere else; none: anywhere.
    #[serde(default)]
    listen: Vec<ListenAt>,
    #[serde(default)]
    revision: Option<Revision>,
}

/// What decides where an app listens, besides its code: equal ones must listen alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Fingerprint {
    command: Command,
    #[serde(with = "words")]
    words: Vec<OsString>,
    #[serde(with = "pairs")]
    env: BTreeMap<OsString, OsString>,
}

/// How a worker is started, besides what its release says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    /// A script for node to load before the app, where the release
    /// [takes one](Release::takes_preload).
    pub(crate) preload: Option<&'a Path>,
    /// The limit of open files that it gets: the one that we were started with.
    pub(crate) descriptor_limit: Option<Rlimit>,
    /// Its priority, if it is not ours.
    pub(crate) nice: Option<i32>,
    /// Where it may say that it is ready.
    pub(crate) notify: Option<&'a OsStr>,
    /// The directory of its cgroup, if it has one.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// A worker that is about to start.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The process, which runs once it is released.
    pub(crate) process: Held,
    /// Our end of the Node channel, non-blocking; so are the two pipes.
    pub(crate) channel: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Release {
    /// Resolves the app as it is now: symlinks are followed, env files read, programs looked up.
    ///
    /// # Errors
    /// What is missing or refused, with what to do about it. Nothing has been started then.
    pub(crate) fn resolve(app: &AppConfig) -> Result<Self, ResolveError> {
        let cwd = directory(&app.cwd)?;
        let bounds = Bounds::of(&app.confinement)?;
        let given = environment(app, &bounds)?;
        let path = given.get(OsStr::new("PATH")).cloned().unwrap_or_default();

        let (program, argv, has_script) = match &app.command {
            Command::Script(script) => {
                let script = find_script(&app.cwd.join(script))?;
                wrapper::refuse_script(app, &script)?;
                let node = find_program(&app.node, &app.cwd, &path)?
                    .ok_or_else(|| ResolveError::NoNode(script.clone()))?;
                let mut argv = vec![app.node.clone()];
                argv.extend(app.node_args.iter().cloned());
                argv.push(script.into_os_string());
                (node, argv, true)
            }
            Command::Executable(name) => {
                wrapper::refuse_executable(app, name)?;
                let program = find_program(name, &app.cwd, &path)?;
                let program = program.ok_or_else(|| no_program(name, &app.cwd))?;
                wrapper::refuse_program(app, &program)?;
                let inline = is_node(name) && script_position(&app.args).is_none();
                (program, vec![name.clone()], !inline)
            }
        };
        let argv: Vec<OsString> = argv.into_iter().chain(app.args.iter().cloned()).collect();

        let words = app.node_args.iter().chain(&app.args).cloned().collect();
        let fingerprint = Fingerprint {
            command: app.command.clone(),
            words,
            env: given.clone(),
        };
        let mut env = given;
        // The caller's PWD may name the symlink, which moves on while this release stays.
        env.insert("PWD".into(), cwd.clone().into_os_string());
        let revision = revision::of(&cwd);
        Ok(Self {
            app: app.name.clone(),
            program,
            argv,
            arguments: app.args.len(),
            env,
            cwd,
            compile_cache: None,
            has_script,
            fingerprint,
            bounds,
            umask: app.umask,
            listen: app.confinement.listen.clone(),
            revision,
        })
    }

    /// The same release once more, as it was, if its directory and its program are where they were.
    ///
    /// # Errors
    /// What is gone.
    pub(crate) fn still_there(self) -> Result<Self, ResolveError> {
        directory(&self.cwd)?;
        match self.program.is_file() {
            true => Ok(self),
            false => Err(ResolveError::NoProgram {
                name: self.program,
                similar: None,
            }),
        }
    }

    /// Has its workers keep there what they compile.
    pub(crate) fn set_compile_cache(&mut self, directory: PathBuf) {
        self.compile_cache = Some(directory);
    }

    /// The executable.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Its environment, without what is different for each worker.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let variables = self.env.iter();
        variables.map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// The value of one variable.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Whether the process that is started is node itself, and not a shell or the like around it.
    pub(crate) fn runs_node(&self) -> bool {
        self.argv.first().is_some_and(|first| is_node(first))
            || matches!(self.fingerprint.command, Command::Script(_))
    }

    /// Whether its workers can have the preload script.
    ///
    /// # Errors
    /// Why they cannot.
    pub(crate) fn takes_preload(&self) -> Result<(), NoPreload> {
        let runs_script = matches!(self.fingerprint.command, Command::Script(_))
            && self.argv.first().is_some_and(|first| is_node(first));
        if !runs_script {
            return Err(NoPreload::NotAScript);
        }
        let options = self.env.get(OsStr::new("NODE_OPTIONS"));
        let before_script = self
            .argv
            .iter()
            .take(self.argv.len().saturating_sub(self.arguments));
        match is_permitted(before_script, options.map(OsString::as_os_str)) {
            true => Ok(()),
            false => Err(NoPreload::Permissions),
        }
    }

    /// What its workers may, and who they are.
    pub(crate) const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Where its workers are to listen, and nowhere else; none: anywhere.
    pub(crate) fn listen(&self) -> &[ListenAt] {
        &self.listen
    }

    /// The directory it runs in, free of symlinks.
    pub(crate) fn directory(&self) -> &Path {
        &self.cwd
    }

    /// Where it comes from, if it says so.
    pub(crate) const fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }

    /// Its command line, with the script's real path.
    #[cfg(test)]
    pub(crate) fn argv(&self) -> &[OsString] {
        &self.argv
    }

    /// Whether arguments or environment differ, so that the two may rightly listen
    /// at different addresses. Another directory alone is no difference.
    pub(crate) fn is_changed_from(&self, other: &Self) -> bool {
        self.fingerprint != other.fingerprint || self.listen != other.listen
    }

    /// Makes one worker, which starts when it is released.
    ///
    /// # Errors
    /// That no process could be made, with the step that failed.
    pub(crate) fn spawn(
        &self,
        worker: WorkerId,
        slot: SlotId,
        generation: Generation,
        start: &Start<'_>,
    ) -> io::Result<Launched> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // On our end alone: the flag belongs to the open file description, and Node sets its own.
        rustix::io::ioctl_fionbio(&ours, true)?;
        let (stdout, out) = output_pipe()?;
        let (stderr, err) = output_pipe()?;
        let null = std::fs::File::open("/dev/null")?;
        let identity = self.bounds.identity();
        if let Some(identity) = &identity {
            // Who opens /dev/stdout opens the pipe, which would be ours. Without the right to give it
            // away (CAP_CHOWN) that fails for them, and nothing else does.
            let _ = identity.own(&out);
            let _ = identity.own(&err);
        }

        let mut argv = self.argv.clone();
        if let Some(preload) = start.preload {
            // First of all: what the app's own node arguments load finds it in place.
            argv.splice(1..1, ["--require".into(), preload.as_os_str().to_owned()]);
        }
        let process = Spawn {
            program: &self.program,
            argv: &argv,
            env: &self.worker_env(worker, slot, generation, start),
            cwd: &self.cwd,
            descriptors: vec![(null.into(), 0), (out, 1), (err, 2), (theirs, CHANNEL)],
            descriptor_limit: self.bounds.descriptor_limit(start.descriptor_limit),
            nice: start.nice,
            identity: identity.as_ref(),
            no_new_privileges: self.bounds.no_new_privileges(),
            umask: self.umask,
            cgroup: start.cgroup,
            mask: Mask::Clear,
        }
        .hold()?;
        Ok(Launched {
            process,
            channel: ours,
            stdout,
            stderr,
        })
    }

    fn worker_env(
        &self,
        worker: WorkerId,
        slot: SlotId,
        generation: Generation,
        start: &Start<'_>,
    ) -> Vec<(OsString, OsString)> {
        let mut env = self.env.clone();
        if let Some(directory) = &self.compile_cache {
            env.insert("NODE_COMPILE_CACHE".into(), directory.into());
        }
        if let Some(notify) = start.notify {
            env.insert("NOTIFY_SOCKET".into(), notify.to_owned());
        }
        let mut set = |name: &str, value: String| env.insert(name.into(), value.into());
        set("SEGUE_APP", self.app.clone());
        set("SEGUE_SLOT", slot.0.to_string());
        set("SEGUE_GENERATION", generation.0.to_string());
        set("NODE_APP_INSTANCE", slot.0.to_string());
        set("NODE_CHANNEL_FD", CHANNEL.to_string());
        set("NODE_CHANNEL_SERIALIZATION_MODE", "json".into());
        if self.has_script {
            set("NODE_UNIQUE_ID", worker.0.to_string());
        }
        env.into_iter().collect()
    }
}

/// A pipe that is non-blocking at our end only.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer))
}

fn directory(path: &Path) -> Result<PathBuf, ResolveError> {
    let failed = |source| ResolveError::Directory {
        path: path.to_owned(),
        source,
    };
    let real = path.canonicalize().map_err(failed)?;
    if real.is_dir() {
        Ok(real)
    } else {
        Err(failed(io::ErrorKind::NotADirectory.into()))
    }
}

fn environment(
    app: &AppConfig,
    bounds: &Bounds,
) -> Result<BTreeMap<OsString, OsString>, ResolveError> {
    let passed_on = |(name, _): &&(OsString, OsString)| {
        !NOT_PASSED_ON.iter().any(|internal| *name == **internal)
            && name != "PWD"
            && !bounds.keeps_back(name)
    };
    let caller = app.caller_env.iter().filter(passed_on).cloned();
    let mut env: BTreeMap<_, _> = caller.collect();
    env.extend(bounds.variables());
    for file in &app.env_files {
        env.extend(read_env_file(&app.cwd.join(file))?);
    }
    env.extend(app.env.iter().cloned());
    Ok(env)
}

/// The real path of what node would run for `path`: itself, or with what node adds.
fn find_script(path: &Path) -> Result<PathBuf, ResolveError> {
    let failed = |source| ResolveError::Script {
        path: path.to_owned(),
        source,
    };
    if path.is_file() {
        return path.canonicalize().map_err(failed);
    }
    let with_js = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".js");
        PathBuf::from(name)
    };
    let mut candidates = vec![with_js(path)];
    if path.is_dir() {
        let package = Package::read(path).ok().flatten();
        if let Some(main) = package.and_then(|package| package.main) {
            let main = path.join(main);
            candidates.extend([main.clone(), with_js(&main), main.join("index.js")]);
        }
        candidates.push(path.join("index.js"));
    }
    match candidates.into_iter().find(|candidate| candidate.is_file()) {
        Some(found) => found.canonicalize().map_err(failed),
        None => Err(ResolveError::NoScript {
            path: path.to_owned(),
            similar: similar_script(path),
        }),
    }
}

/// A script of the same name with another extension.
fn similar_script(path: &Path) -> Option<PathBuf> {
    ["js", "mjs", "cjs", "ts", "mts", "cts"]
        .into_iter()
        .map(|extension| path.with_extension(extension))
        .find(|candidate| candidate.is_file())
}

/// An executable file: below `cwd` if the name has a slash, else the first in `path`. Its own
/// name stays as it is, since some programs go by the name they are called by, while symlinks of
/// the directories above it are followed. `None` if there is none of that name.
fn find_program(name: &OsStr, cwd: &Path, path: &OsStr) -> Result<Option<PathBuf>, ResolveError> {
    let is_executable = |file: &Path| {
        file.metadata()
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let pin = |file: PathBuf| match (file.parent().map(Path::canonicalize), file.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => file,
    };
    if name.as_encoded_bytes().contains(&b'/') {
        let file = cwd.join(name);
        return match file.metadata() {
            Ok(data) if data.is_file() && !is_executable(&file) => {
                Err(ResolveError::NotExecutable {
                    name: name.to_string_lossy().into_owned(),
                })
            }
            Ok(data) if data.is_file() => Ok(Some(pin(file))),
            _ => Ok(None),
        };
    }
    let found = std::env::split_paths(path)
        .map(|directory| cwd.join(directory).join(name))
        .find(|file| is_executable(file));
    Ok(found.map(pin))
}

fn no_program(name: &OsStr, cwd: &Path) -> ResolveError {
    let here = cwd.join(name);
    let with_dot = || here.is_file().then(|| Path::new(".").join(name));
    let with_extension = || similar_script(&here)?.file_name().map(PathBuf::from);
    ResolveError::NoProgram {
        name: name.into(),
        similar: with_extension().or_else(with_dot),
    }
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
