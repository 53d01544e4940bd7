//! Whether what a file names is there: directories, scripts, programs, env files. Nothing is run.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::app::FromFile;
use super::{Complaint, File, FileApp};
use crate::config::accounts::Accounts;
use crate::config::command::Command;
use crate::config::confine::Confinement;
use crate::config::env_file::read_env_file;
use crate::config::written::Written;

const NO_SHELL: &str = "there is no shell: write what follows the program into args, as in command = \"node\", args = [\"server.js\"]";

/// Everything that is missing.
pub(crate) fn verify(
    file: &File,
    caller_env: &[(std::ffi::OsString, std::ffi::OsString)],
) -> Vec<Complaint> {
    let path = caller_env.iter().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, value)| value.as_os_str()).unwrap_or_default();
    let complaints = file.apps.iter().flat_map(|app| {
        let read = FromFile::of(
            file,
            app,
            &Written::default(),
            file.directory(),
            caller_env.to_vec(),
        );
        match read {
            Ok(read) => missing(app, &read, path),
            Err(error) => vec![complaint(app, &["command"], error.to_string(), "")],
        }
    });
    complaints.collect()
}

fn complaint(app: &FileApp, keys: &[&str], what: String, help: &str) -> Complaint {
    let span = keys.iter().find_map(|key| app.spans.get(*key));
    Complaint {
        what,
        span: span.cloned().unwrap_or_default(),
        help: help.to_owned(),
    }
}

/// Whoever it is to run as is looked up here, although that may be another machine's user.
fn no_account(app: &FileApp, confinement: &Confinement) -> Option<Complaint> {
    let (user, group) = (confinement.user.as_deref(), confinement.group.as_deref());
    user.or(group)?;
    let present = rustix::process::geteuid().as_raw();
    let error = Accounts::of_system().find(user, group, present).err()?;
    Some(complaint(app, &["user", "group"], error.to_string(), ""))
}

fn missing(app: &FileApp, read: &FromFile, path: &OsStr) -> Vec<Complaint> {
    let config = &read.config;
    if !config.cwd.is_dir() {
        // Everything else is below it.
        let what = format!("there is no directory {}", config.cwd.display());
        return vec![complaint(
            app,
            &["cwd", "command"],
            what,
            "make it, or correct cwd",
        )];
    }
    let mut complaints = Vec::new();
    complaints.extend(no_account(app, &config.confinement));
    match &config.command {
        Command::Script(script) => {
            let script = config.cwd.join(script);
            // Node adds what is missing, or looks into a directory.
            let with_js = PathBuf::from(format!("{}.js", script.display()));
            if !script.exists() && !with_js.is_file() {
                let what = format!("there is no script {}", script.display());
                let help = match script.to_string_lossy().contains(char::is_whitespace) {
                    true => NO_SHELL,
                    false => {
                        "a script stands below cwd, which is the directory of the file unless it is given"
                    }
                };
                complaints.push(complaint(app, &["command"], what, help));
            }
            if program(&config.node, &config.cwd, path).is_none() {
                let what = format!("there is no node {}", config.node.display());
                let help = "install Node.js, or say where it is: node = \"/usr/local/bin/node\"";
                complaints.push(complaint(app, &["node", "command"], what, help));
            }
        }
        Command::Executable(name) if program(name, &config.cwd, path).is_none() => {
            let what = format!("there is no program {}", name.display());
            let help = match name.to_string_lossy().contains(char::is_whitespace) {
                true => NO_SHELL,
                false => {
                    "check its name; a script for node ends in .js, .mjs, .cjs, .ts, .mts or .cts"
                }
            };
            complaints.push(complaint(app, &["command"], what, help));
        }
        Command::Executable(_) => {}
    }
    for file in &config.env_files {
        if let Err(error) = read_env_file(&config.cwd.join(file)) {
            complaints.push(complaint(app, &["env_file"], error.to_string(), ""));
        }
    }
    complaints
}

/// A program, looked up as for a worker.
fn program(name: &OsStr, cwd: &Path, path: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(cwd.join(name)).filter(is_program);
    }
    let mut found = std::env::split_paths(path).map(|directory| cwd.join(directory).join(name));
    found.find(is_program)
}
