//! `segue hook`: a push to a bare repository becomes a release, or is refused. `install` writes a hook of
//! three lines; what it does is in `deploy`.

mod deploy;
mod release;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};

use super::error::Trouble;
use super::output::Output;
use crate::exit::Exit;
use crate::telemetry::log::Verbosity;

const HELP: &str = "\
A push to the branch makes DIR/releases/TIME-COMMIT, runs the build there, turns DIR/current to
it and reloads. If any of it fails the push is refused with the reason, DIR/current is turned
back, and what served before serves on. The app is to run from DIR/current.

Examples:
  git init --bare /srv/web.git
  segue hook install --repo /srv/web.git --to /srv/web --build 'npm ci --omit=dev'
  segue run --cwd /srv/web/current server.js
  git push ssh://host/srv/web.git main";

#[derive(Args, Debug)]
pub(crate) struct HookArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a pre-receive hook into a bare repository; one that is there is left
    #[command(after_help = HELP)]
    Install {
        /// The bare repository
        #[arg(long, value_name = "BARE.git")]
        repo: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// What the hook does
    #[command(hide = true)]
    Run {
        #[command(flatten)]
        target: Target,
    },
}

/// Where a push goes.
#[derive(Args, Clone, Debug)]
struct Target {
    /// Where releases and current are
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The app to reload [default: the only one]
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Run this by sh in the new release, before it is turned to; the pusher sees what it prints
    #[arg(long, value_name = "CMD")]
    build: Option<String>,
    /// The branch that is deployed; others are taken as ever
    #[arg(long, value_name = "NAME", default_value = "main")]
    branch: String,
    /// Keep so many releases
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    keep: u16,
    /// The supervisor's control socket [default: the only one, or the one that has the app]
    #[arg(long, value_name = "PATH", env = "SEGUE_CONTROL")]
    control: Option<PathBuf>,
}

impl HookArgs {
    pub(crate) fn output(&self) -> Output {
        Output::of_this_process(false, Verbosity::new(false, 0))
    }
}

pub(super) async fn run(args: HookArgs, output: Output) -> Result<Exit, Trouble> {
    match args.what {
        What::Install { repo, target } => install(&repo, target, &output),
        What::Run { target } => deploy::run(target, &output).await,
    }
}

fn install(repo: &Path, mut target: Target, output: &Output) -> Result<Exit, Trouble> {
    let trouble = |why: String, next: &str, exit| {
        let what = format!("cannot install a hook in {}", repo.display());
        Trouble::new(what, why, next, exit)
    };
    let failed = |why: String| trouble(why, "check the path and its permissions", Exit::Failed);
    let git = Command::new("git")
        .arg("-C")
        .arg(repo)
        .args(["rev-parse", "--is-bare-repository", "--git-path", "hooks"])
        .output();
    let git = git.map_err(|error| failed(format!("cannot run git: {error}")))?;
    let text = String::from_utf8_lossy(&git.stdout);
    let (true, [is_bare, hooks]) = (git.status.success(), &*text.lines().collect::<Vec<_>>())
    else {
        let why = "it is no repository of git's".to_owned();
        return Err(trouble(why, "make one: git init --bare PATH", Exit::Usage));
    };
    if *is_bare != "true" {
        let why =
            "it is not bare: a push would change the branch below its working tree".to_owned();
        let next = "make one beside it: git clone --bare PATH PATH.git";
        return Err(trouble(why, next, Exit::Usage));
    }
    std::fs::create_dir_all(target.to.join(release::DIRECTORY))
        .map_err(|error| failed(format!("{}: {error}", target.to.display())))?;
    target.to = target
        .to
        .canonicalize()
        .map_err(|error| failed(format!("{}: {error}", target.to.display())))?;
    if let Some(control) = &mut target.control {
        *control = std::path::absolute(&*control).map_err(|error| failed(error.to_string()))?;
    }
    release::current(&target.to)
        .map_err(|why| trouble(why, "move it away, or name another directory", Exit::Usage))?;

    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let line = line(&program, &target).map_err(|why| trouble(why, "rename it", Exit::Usage))?;
    let text = format!(
        "#!/bin/sh\n# By segue hook install: a push to {} is built and reloaded, or refused.\nexec {line}\n",
        target.branch
    );
    let hooks = repo.join(hooks);
    let path = hooks.join("pre-receive");
    std::fs::create_dir_all(&hooks)
        .map_err(|error| failed(format!("{}: {error}", hooks.display())))?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&path);
    match made {
        Ok(mut file) => {
            let written = file.write_all(text.as_bytes());
            written.map_err(|error| failed(format!("{}: {error}", path.display())))?;
            output.line(&format!("wrote {}", path.display()));
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
                output.line(&format!("{} is there already", path.display()));
                return Ok(Exit::Done);
            }
            let why = format!(
                "there is a {} already, which is left as it is",
                path.display()
            );
            let next = format!("remove it, or let it end with: exec {line}");
            return Err(trouble(why, &next, Exit::Failed));
        }
        Err(error) => return Err(failed(format!("{}: {error}", path.display()))),
    }
    if hooks.join("update").exists() {
        output.line("note: its update hook runs after the reload; what that refuses is deployed all the same");
    }
    output.line(&format!(
        "next: git push to its branch {}; run the app from {}",
        target.branch,
        target.to.join(release::CURRENT).display()
    ));
    Ok(Exit::Done)
}

/// What the hook runs, as sh reads it.
fn line(program: &Path, target: &Target) -> Result<String, String> {
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{} is not UTF-8", path.display())),
    };
    let mut words = vec![text(program)?, "hook".to_owned(), "run".to_owned()];
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
    flag("--to", text(&target.to)?);
    flag("--branch", target.branch.clone());
    flag("--keep", target.keep.to_string());
    for (name, value) in [("--app", &target.app), ("--build", &target.build)] {
        if let Some(value) = value {
            flag(name, value.clone());
        }
    }
    if let Some(control) = &target.control {
        flag("--control", text(control)?);
    }
    if words.iter().any(|word| word.contains('\n')) {
        return Err("a word has a line break in it".to_owned());
    }
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    Ok(words.join(" "))
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_sh_reads_them() {
        for (word, expected) in [
            ("/srv/web", "/srv/web"),
            ("npm ci", "'npm ci'"),
            ("it's $HOME", "'it'\\''s $HOME'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
