//! Apps whose script is `npm start`, as many ecosystem files have it: npm would stand between segue and node,
//! so what the script of package.json runs is written instead, where that needs no shell.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::command::{Command, CommandLine};
use crate::config::package::Package;

const RUNNERS: [&str; 3] = ["npm", "pnpm", "yarn"];

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
        let cwd = app.get("cwd").and_then(Value::as_str).unwrap_or(".");
        let directory = directory.join(cwd);
        let Some(line) = script_of(app).and_then(|script| read(&script, &directory)) else {
            continue;
        };
        write(app, &line);
    }
}

/// The script of package.json that an app names.
fn script_of(app: &Map<String, Value>) -> Option<String> {
    let runner = app.get("script")?.as_str()?;
    let words: Vec<String> = match app.get("args")? {
        Value::String(words) => words.split_whitespace().map(str::to_owned).collect(),
        Value::Array(words) => {
            let words = words.iter().map(Value::as_str);
            words
                .map(|word| word.map(str::to_owned))
                .collect::<Option<_>>()?
        }
        _ => return None,
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        _ if !RUNNERS.contains(&runner) => None,
        ["run" | "run-script", script] => Some((*script).to_owned()),
        ["start"] => Some("start".to_owned()),
        // Yarn and pnpm need no `run`.
        [script] if runner != "npm" => Some((*script).to_owned()),
        _ => None,
    }
}

fn read(script: &str, directory: &Path) -> Option<CommandLine> {
    let package = Package::read(directory).ok().flatten()?;
    CommandLine::from_script(package.scripts.get(script)?, directory).ok()
}

fn write(app: &mut Map<String, Value>, line: &CommandLine) {
    let text = |word: &OsString| Value::from(word.to_string_lossy());
    let list = |words: &[OsString]| Value::from(words.iter().map(text).collect::<Vec<_>>());
    let (script, interpreter) = match &line.command {
        Command::Script(script) => (Value::from(script.to_string_lossy()), line.node.as_ref()),
        Command::Executable(program) => (text(program), None),
    };
    let is_program = matches!(line.command, Command::Executable(_));
    app.insert("script".to_owned(), script);
    app.insert("args".to_owned(), list(&line.args));
    app.remove("interpreter");
    if is_program {
        app.insert("interpreter".to_owned(), "none".into());
    } else if let Some(node) = interpreter {
        app.insert("interpreter".to_owned(), text(node));
    }
    if !line.node_args.is_empty() {
        app.insert("node_args".to_owned(), list(&line.node_args));
    }
    let env = app.entry("env").or_insert_with(|| Map::new().into());
    if let Some(env) = env.as_object_mut() {
        // As in a shell, what the script says goes first.
        for (name, value) in &line.env {
            env.insert(name.to_string_lossy().into_owned(), text(value));
        }
    }
}
