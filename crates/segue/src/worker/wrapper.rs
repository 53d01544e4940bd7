//! Commands in which another node than the first one listens. The first takes the channel, so
//! the app itself would be no worker: it would bind its port alone, and a reload could not
//! replace it. They are known by their names, and answered with what to write instead.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::config::app::AppConfig;
use crate::config::command::{Command, CommandLine, is_node};
use crate::config::package::Package;

/// A command that cannot be a worker, and another that can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot run `{what}`: the app would listen in a process of its own below it, out of reach of a reload; {instead}"
)]
pub(crate) struct Wrapper {
    what: String,
    instead: String,
}

/// Refuses a script that belongs to a known wrapper, by its real path, and a node that only
/// watches another.
///
/// # Errors
/// What to write instead.
pub(crate) fn refuse_script(app: &AppConfig, real: &Path) -> Result<(), Wrapper> {
    if app.node_args.iter().any(is_watch) {
        let node_args = app.node_args.iter().filter(|arg| !is_watch(arg));
        let line = CommandLine {
            node_args: node_args.cloned().collect(),
            ..line_of(app)
        };
        return Err(Wrapper {
            what: words_of(app, "node"),
            instead: format!("{}, and `segue reload` after a change", write(&show(&line))),
        });
    }
    match tool_of(real) {
        Some(tool) => refuse(&tool, &app.args, app, &tool),
        None => Ok(()),
    }
}

/// Refuses a command that begins with a known wrapper's name.
///
/// # Errors
/// What to write instead.
pub(crate) fn refuse_executable(app: &AppConfig, name: &OsStr) -> Result<(), Wrapper> {
    let tool = if is_node(name) {
        "node".to_owned()
    } else {
        base_name(name)
    };
    // Of pnpm there is a native program too, which passes the channel on.
    if tool == "pnpm" {
        return Ok(());
    }
    refuse(&tool, &app.args, app, &tool)
}

/// Refuses an executable whose file, behind its links, belongs to a known wrapper.
///
/// # Errors
/// What to write instead.
pub(crate) fn refuse_program(app: &AppConfig, program: &Path) -> Result<(), Wrapper> {
    let real = program
        .canonicalize()
        .unwrap_or_else(|_| program.to_owned());
    match tool_of(&real) {
        Some(tool) => refuse(&tool, &app.args, app, &tool),
        None => Ok(()),
    }
}

fn refuse(tool: &str, args: &[OsString], app: &AppConfig, shown: &str) -> Result<(), Wrapper> {
    match instead_of(tool, args, &app.cwd, 0) {
        Some(instead) => Err(Wrapper {
            what: words_of(app, shown),
            instead,
        }),
        None => Ok(()),
    }
}

/// What to write instead of `tool args`; `None` if it is no known wrapper. A wrapper may run
/// another: `depth` ends a package script that runs itself.
fn instead_of(tool: &str, args: &[OsString], cwd: &Path, depth: u32) -> Option<String> {
    let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("")).collect();
    let rest = |from: usize| -> Vec<OsString> {
        args.iter()
            .skip(from)
            .copied()
            .map(OsString::from)
            .collect()
    };
    let reload = "and `segue reload` after a change";
    match tool {
        "npm" | "yarn" | "yarnpkg" | "pnpm" | "corepack" => {
            let runs = ["run", "run-script"];
            let at = args.iter().position(|arg| !arg.starts_with('-'));
            let at = at.filter(|at| !runs.contains(args.get(*at).unwrap_or(&"")));
            let first = args.iter().position(|arg| runs.contains(arg));
            match at.map(|at| (at, args.get(at).copied().unwrap_or(""))) {
                Some((at, "exec" | "x" | "dlx")) => instead_of("npx", &rest(at + 1), cwd, depth),
                Some((at, "npm" | "yarn" | "pnpm")) => {
                    instead_of("npm", &rest(at + 1), cwd, depth)
                }
                Some((_, script)) => Some(instead_of_script(script, cwd, depth)),
                None => {
                    let script = first.and_then(|at| args.get(at + 1));
                    Some(instead_of_script(script.copied().unwrap_or("start"), cwd, depth))
                }
            }
        }
        "npx" | "pnpx" => {
            let at = args.iter().position(|arg| !arg.starts_with('-'));
            let at = at.unwrap_or(args.len());
            let program = args.get(at).copied().unwrap_or("PROGRAM");
            let inner = instead_of(program, &rest(at + 1), cwd, depth);
            Some(inner.unwrap_or_else(|| {
                let mut words = vec![format!("./node_modules/.bin/{program}")];
                words.extend(args.iter().skip(at + 1).map(ToString::to_string));
                write(&join("segue run", words))
            }))
        }
        "node" => {
            let at = args.iter().position(|arg| arg.starts_with("--run"))?;
            let joined = args.get(at)?.strip_prefix("--run=");
            let script = joined.or(args.get(at + 1).copied()).unwrap_or("start");
            Some(instead_of_script(script, cwd, depth))
        }
        "tsx" => {
            let args = strip_first(&args, "watch");
            Some(write(&typescript("--import=tsx", args)))
        }
        "ts-node-dev" | "tsnd" => {
            let command = typescript("--require=ts-node/register", only_script(&args));
            Some(format!("{}, {reload}", write(&command)))
        }
        "nodemon" | "node-dev" | "forever" => {
            let words = only_script(strip_first(&args, "start"));
            let words = words.iter().map(ToString::to_string);
            Some(format!("{}, {reload}", write(&join("segue run", words))))
        }
        "pm2" | "pm2-runtime" => {
            let workers = args.iter().position(|arg| matches!(*arg, "-i" | "--instances"));
            let workers = workers.and_then(|at| args.get(at + 1)).map(|count| {
                let count = if matches!(*count, "max" | "0") { "auto" } else { count };
                ["-w".to_owned(), count.to_owned()]
            });
            let words = only_script(strip_first(&args, "start")).iter();
            let words = words.map(ToString::to_string);
            Some(write(&join("segue run", workers.into_iter().flatten().chain(words))))
        }
        "cross-env" => {
            let at = args.iter().position(|arg| !arg.contains('='))?;
            let line = CommandLine::from_words(OsStr::new(args.get(at)?), &rest(at + 1));
            let assigned = args.iter().take(at).filter_map(|arg| arg.split_once('='));
            let env = assigned.map(|(name, value)| (name.into(), value.into()));
            let line = CommandLine {
                env: env.collect(),
                ..line
            };
            let inner = inner_wrapper(&line, cwd, depth);
            Some(inner.unwrap_or_else(|| write(&show(&line))))
        }
        "dotenv" | "dotenv-cli" | "env-cmd" => {
            let words = only_script(&args).iter().map(ToString::to_string);
            Some(write(&join("segue run --env-file .env", words)))
        }
        "concurrently" | "npm-run-all" | "run-s" | "run-p" | "turbo" | "lerna" | "nx" => Some(
            "run each of its commands with a `segue run` of its own, for example `segue run server.js`".into(),
        ),
        _ => None,
    }
}

fn instead_of_script(name: &str, cwd: &Path, depth: u32) -> String {
    let general = || {
        format!(
            "look at what the script `{name}` of package.json runs, and write its node command: `segue run server.js`"
        )
    };
    let package = Package::read(cwd).ok().flatten().unwrap_or_default();
    let script = package.scripts.get(name);
    let line = script.and_then(|script| CommandLine::from_script(script, cwd).ok());
    let Some(line) = line.filter(|_| depth < 3) else {
        return general();
    };
    inner_wrapper(&line, cwd, depth).unwrap_or_else(|| write(&show(&line)))
}

fn inner_wrapper(line: &CommandLine, cwd: &Path, depth: u32) -> Option<String> {
    match &line.command {
        Command::Executable(name) => instead_of(&base_name(name), &line.args, cwd, depth + 1),
        Command::Script(_) => {
            let mut plain = line.clone();
            plain.node_args.retain(|arg| !is_watch(arg));
            (plain != *line).then(|| write(&show(&plain)))
        }
    }
}

/// The package that a script belongs to, if that is a program of its own: the last
/// `node_modules/NAME` on its real path, or npm's where distributions put it.
fn tool_of(real: &Path) -> Option<String> {
    let parts: Vec<&str> = real.iter().filter_map(OsStr::to_str).collect();
    let at = parts
        .iter()
        .rposition(|part| matches!(*part, "node_modules" | "nodejs"))?;
    let package = *parts.get(at + 1)?;
    let file = parts.last().copied().unwrap_or("");
    match package {
        "npm" if file.starts_with("npx") => Some("npx".into()),
        // A library of the app under this name has no such file.
        "npm" if !file.starts_with("npm") => None,
        "npm" | "yarn" | "pnpm" | "corepack" | "tsx" | "ts-node-dev" | "nodemon" | "node-dev"
        | "forever" | "pm2" | "cross-env" | "dotenv-cli" | "env-cmd" | "concurrently"
        | "npm-run-all" => Some(package.to_owned()),
        _ => None,
    }
}

fn base_name(name: &OsStr) -> String {
    let name = Path::new(name).file_name().unwrap_or(name);
    name.to_string_lossy().into_owned()
}

fn is_watch(arg: &OsString) -> bool {
    arg.to_str().is_some_and(|arg| arg.starts_with("--watch"))
}

fn strip_first<'a, 'b>(args: &'a [&'b str], word: &str) -> &'a [&'b str] {
    match args {
        [first, rest @ ..] if *first == word => rest,
        _ => args,
    }
}

/// From the script on: what stands before it are the wrapper's own options.
fn only_script<'a, 'b>(args: &'a [&'b str]) -> &'a [&'b str] {
    let is_script = |arg: &&str| {
        let extension = Path::new(arg).extension().and_then(OsStr::to_str);
        matches!(extension, Some("js" | "mjs" | "cjs" | "ts" | "mts" | "cts"))
    };
    match args.iter().position(is_script) {
        Some(at) => args.split_at(at).1,
        None => &["server.js"],
    }
}

fn typescript(loader: &str, args: &[&str]) -> String {
    let script = args.iter().position(|arg| !arg.starts_with('-'));
    let (options, script) = args.split_at(script.unwrap_or(args.len()));
    let options = [loader].into_iter().chain(options.iter().copied());
    let options = options.map(|option| format!("--node-arg={option}"));
    join(
        "segue run",
        options.chain(script.iter().map(ToString::to_string)),
    )
}

fn line_of(app: &AppConfig) -> CommandLine {
    CommandLine {
        command: app.command.clone(),
        args: app.args.clone(),
        node: None,
        node_args: app.node_args.clone(),
        env: Vec::new(),
    }
}

/// The command as it was given, with the tool's name in place of its path.
fn words_of(app: &AppConfig, tool: &str) -> String {
    let mut words: Vec<&OsStr> = Vec::new();
    if let (Command::Script(script), "node") = (&app.command, tool) {
        words.extend(app.node_args.iter().map(OsString::as_os_str));
        words.push(script.as_os_str());
    }
    words.extend(app.args.iter().map(OsString::as_os_str));
    join(
        tool,
        words
            .into_iter()
            .map(|word| word.to_string_lossy().into_owned()),
    )
}

/// A command line as the user would write it for segue.
fn show(line: &CommandLine) -> String {
    let text = |word: &OsStr| word.to_string_lossy().into_owned();
    let mut words = Vec::new();
    for (name, value) in &line.env {
        words.extend([
            "--env".to_owned(),
            format!("{}={}", text(name), text(value)),
        ]);
    }
    for arg in &line.node_args {
        words.push(format!("--node-arg={}", text(arg)));
    }
    words.push(match &line.command {
        Command::Script(path) => text(path.as_os_str()),
        Command::Executable(name) => text(name),
    });
    words.extend(line.args.iter().map(|arg| text(arg)));
    join("segue run", words)
}

fn write(command: &str) -> String {
    format!("write `{command}` instead")
}

fn join(first: &str, words: impl IntoIterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    let mut line = first.to_owned();
    for word in words {
        line.push(' ');
        if !word.is_empty() && word.chars().all(plain) {
            line.push_str(&word);
        } else {
            line.push_str(&format!("'{}'", word.replace('\'', r"'\''")));
        }
    }
    line
}

#[cfg(test)]
#[path = "wrapper_tests.rs"]
mod tests;
