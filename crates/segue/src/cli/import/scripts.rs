//! What an app's files say about how it is run: `npm start`, a line that PM2 gives a shell, a program in the
//! place of a script. What would stand between segue and node is replaced by what it runs, where that
//! needs no shell.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::command::{Command, CommandLine};
use crate::config::package::Package;
use crate::config::pm2::{is_node, is_runner, is_shell, name_of, split};

/// A script of package.json may name another one.
const DEEPEST: u32 = 4;

/// Packages that run TypeScript, and so do it for scripts that name nothing.
const TYPESCRIPT: [&str; 2] = ["tsx", "ts-node"];

/// Resolves them in every app of a file. What cannot be is left, and told later.
pub(super) fn resolve(file: &mut Value, directory: &Path) {
    let apps = match file {
        Value::Object(file) if file.get("apps").is_some() => file.get_mut("apps"),
        other => Some(other),
    };
    let apps = match apps {
        Some(Value::Array(apps)) => apps.iter_mut().collect(),
        Some(app) => vec![app],
        None => Vec::new(),
    };
    for app in apps.into_iter().filter_map(Value::as_object_mut) {
        let mut app = App(app);
        let directory = directory.join(app.text("cwd").unwrap_or_default());
        let Some(script) = app.text("script") else {
            continue;
        };
        let runs_itself = app
            .text("interpreter")
            .is_none_or(|it| it == "none" || is_node(&it));
        if runs_itself && let Some(line) = line_of(&script, &app.words("args"), &directory, 0) {
            app.write(&line);
        }
        app.look_at_its_file(&directory);
    }
}

/// What a command runs in the end; none if it is what it says.
fn line_of(first: &str, args: &[String], directory: &Path, depth: u32) -> Option<CommandLine> {
    let base = first.rsplit('/').next().unwrap_or(first);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (text, more) = match (base, words.as_slice()) {
        _ if depth > DEEPEST => return None,
        ("npm" | "pnpm" | "yarn", words) => {
            let (script, more) = package_script(base, words)?;
            let package = Package::read(directory).ok().flatten()?;
            (package.scripts.get(script)?.clone(), more)
        }
        ("npx", words) => {
            let at = words.iter().position(|word| !word.starts_with('-'))?;
            let (program, more) = words.get(at..)?.split_first()?;
            ((*program).to_owned(), more)
        }
        ("cross-env", words) => {
            let at = words.iter().position(|word| !word.contains('='))?;
            let (assigned, rest) = words.split_at(at);
            let (program, more) = rest.split_first()?;
            let mut line = within(program, more, directory, depth)?;
            let assigned = assigned.iter().filter_map(|word| word.split_once('='));
            let assigned = assigned.map(|(name, value)| (name.into(), value.into()));
            line.env = assigned.chain(line.env).collect();
            return Some(line);
        }
        (shell, ["-c", line]) if is_shell(shell) => ((*line).to_owned(), &[][..]),
        (_, words) if first.contains(' ') && !directory.join(first).exists() => {
            (first.to_owned(), words)
        }
        _ => return None,
    };
    within(&text, more, directory, depth)
}

fn within(text: &str, more: &[&str], directory: &Path, depth: u32) -> Option<CommandLine> {
    let mut line = CommandLine::from_script(text, directory).ok()?;
    let more = more.iter().copied().map(OsString::from);
    if let (Command::Executable(node), Some("node")) = (&line.command, line.command_name()) {
        // A program word alone: what follows may be its script.
        let words: Vec<OsString> = line.args.iter().cloned().chain(more).collect();
        let whole = CommandLine::from_words(node, &words);
        return Some(CommandLine {
            env: line.env,
            ..whole
        });
    }
    line.args.extend(more);
    let Some(program) = line.command_name() else {
        return Some(line);
    };
    let args = line
        .args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned());
    let args: Vec<String> = args.collect();
    match line_of(program, &args, directory, depth + 1) {
        Some(inner) => Some(CommandLine {
            env: line.env.iter().cloned().chain(inner.env).collect(),
            ..inner
        }),
        None => Some(line),
    }
}

/// The script of package.json that is named, and what it is given.
fn package_script<'a, 'b>(runner: &str, words: &'a [&'b str]) -> Option<(&'b str, &'a [&'b str])> {
    let (script, more) = match words {
        ["run" | "run-script", script, more @ ..] => (*script, more),
        ["start", more @ ..] => ("start", more),
        // Yarn and pnpm need no `run`.
        [script, more @ ..] if runner != "npm" && !script.starts_with('-') => (*script, more),
        _ => return None,
    };
    match more {
        ["--", more @ ..] => Some((script, more)),
        [] => Some((script, more)),
        // npm keeps these for itself.
        _ if runner == "npm" => None,
        more => Some((script, more)),
    }
}

/// An app, whatever its keys are called.
struct App<'a>(&'a mut Map<String, Value>);

impl App<'_> {
    fn key(&self, name: &str) -> Option<String> {
        self.0.keys().find(|key| name_of(key) == name).cloned()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(&self.key(name)?)
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = self.value(name)?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn words(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::String(line)) => split(line),
            Some(Value::Array(words)) => words
                .iter()
                .map(|word| {
                    word.as_str()
                        .map_or_else(|| word.to_string(), str::to_owned)
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Under the name that it has: a dump is known by its own.
    fn set(&mut self, name: &str, value: Option<Value>) {
        let known = self.key(name);
        while let Some(key) = self.key(name) {
            self.0.remove(&key);
        }
        if let Some(value) = value {
            self.0
                .insert(known.unwrap_or_else(|| name.to_owned()), value);
        }
    }

    fn write(&mut self, line: &CommandLine) {
        let text = |word: &OsString| Value::from(word.to_string_lossy());
        let list = |words: &[OsString]| Value::from(words.iter().map(text).collect::<Vec<_>>());
        let (script, interpreter) = match &line.command {
            Command::Script(script) => (
                Value::from(script.to_string_lossy()),
                line.node.as_ref().map(text),
            ),
            Command::Executable(program) => (text(program), Some("none".into())),
        };
        self.set("script", Some(script));
        self.set("args", Some(list(&line.args)));
        self.set("interpreter", interpreter);
        let node_args = (!line.node_args.is_empty()).then(|| list(&line.node_args));
        self.set("node_args", node_args);
        let env = self.0.entry("env").or_insert_with(|| Map::new().into());
        if let Some(env) = env.as_object_mut() {
            // As in a shell, what the script says goes first.
            for (name, value) in &line.env {
                env.insert(name.to_string_lossy().into_owned(), text(value));
            }
        }
    }

    /// A program in the place of a script is none for node, a script in that of a program is one.
    fn look_at_its_file(&mut self, directory: &Path) {
        let (Some(script), interpreter) = (self.text("script"), self.text("interpreter")) else {
            return;
        };
        let own = directory.join(&script);
        match own.extension().and_then(|it| it.to_str()) {
            Some("ts" | "mts" | "cts") if interpreter.is_none() => {
                let arguments = self.words("node_args");
                let loads = ["--import", "--require", "--loader", "-r"];
                let loads = |arg: &String| loads.iter().any(|it| arg.starts_with(it));
                let tool = TYPESCRIPT.iter().find(|tool| is_installed(tool, directory));
                if let (Some(tool), false) = (tool, arguments.iter().any(loads)) {
                    self.set("interpreter", Some((*tool).into()));
                }
            }
            None if interpreter.is_none_or(|it| it == "none")
                && !is_runner(&script)
                && script != "serve" =>
            {
                let path = on_path(&script).filter(|_| !own.exists());
                match kind(path.as_ref().unwrap_or(&own)) {
                    Some(Kind::Program) => self.set("interpreter", Some("none".into())),
                    Some(Kind::Node) => {
                        let path = path.map(|path| path.to_string_lossy().into());
                        self.set("interpreter", None);
                        self.set("script", path.or(Some(script.into())));
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }
}

fn on_path(word: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").filter(|_| !word.contains('/'))?;
    let mut found = std::env::split_paths(&path).map(|directory| directory.join(word));
    found.find(|path| path.is_file())
}

enum Kind {
    Program,
    Node,
}

fn kind(path: &PathBuf) -> Option<Kind> {
    let mut first = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(128).read_to_end(&mut first).ok()?;
    let line = first.split(|byte| *byte == b'\n').next()?;
    let names_node = line.windows(4).any(|four| four == b"node");
    match line {
        [0x7f, b'E', b'L', b'F', ..] => Some(Kind::Program),
        [b'#', b'!', ..] if names_node => Some(Kind::Node),
        [b'#', b'!', ..] => Some(Kind::Program),
        _ => None,
    }
}

fn is_installed(package: &str, directory: &Path) -> bool {
    let installed = |above: &Path| above.join("node_modules").join(package).is_dir();
    directory.ancestors().any(installed)
}
