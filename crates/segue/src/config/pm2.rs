//! PM2's apps, from an ecosystem file or a dump: what becomes of each key, or why nothing does. Reading
//! and running files is not done here.

mod program;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

pub(crate) use self::program::{is_node, is_runner, is_shell, split};
pub(crate) use self::table::name_of;

use self::program::{Line, base};
use self::table::{counterpart, interpreter, is_without, reason};

use super::command::{fit_name, is_script};
use super::package::PlainScript;
use super::quantity;
use super::written::{Written, key};

/// An app in our words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translated {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) settings: Written,
    /// Keys that have no counterpart, each with the reason.
    pub(crate) left: Vec<(String, String)>,
    /// Keys that mean something else here, each with what.
    pub(crate) differs: Vec<(String, String)>,
}

/// Translates everything that a file holds. `mode` chooses `env_MODE`; `own` is the environment here,
/// of which a dump repeats most.
///
/// # Errors
/// It holds no apps.
pub(crate) fn translate(
    file: &Value,
    mode: Option<&str>,
    own: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Translated>, String> {
    let (apps, is_dump) = match file {
        Value::Array(apps) => (
            apps.clone(),
            apps.iter().any(|app| app.get("pm_exec_path").is_some()),
        ),
        Value::Object(file) => match file.get("apps") {
            Some(Value::Array(apps)) => (apps.clone(), false),
            Some(app @ Value::Object(_)) => (vec![app.clone()], false),
            // As in a package.json.
            _ if file.contains_key("pm2") => return translate_own(file, mode, own),
            _ if file.keys().any(|key| name_of(key) == "script") => {
                (vec![Value::Object(file.clone())], false)
            }
            _ => return Err("it has no apps".to_owned()),
        },
        _ => return Err("it has no apps".to_owned()),
    };
    let mut found: Vec<Translated> = Vec::new();
    for app in apps.iter().filter_map(Value::as_object) {
        let keys = app.iter().map(|(name, value)| (name_of(name), value));
        let keys: BTreeMap<String, &Value> = keys.collect();
        let mut one = App {
            keys,
            is_dump,
            mode,
            own,
            is_node: true,
            found: Translated::default(),
        };
        one.translate()?;
        let one = one.found;
        // A dump has an entry for each instance.
        match found.iter().any(|other| other.name == one.name) {
            true if is_dump => {}
            true => return Err(format!("two apps are named {}", one.name)),
            false => found.push(one),
        }
    }
    if found.is_empty() {
        return Err("it has no apps".to_owned());
    }
    if let (Some(app), Some(file)) = (found.first_mut(), file.as_object())
        && file.contains_key("apps")
    {
        for name in file.keys().filter(|name| *name != "apps") {
            app.leave(name);
        }
    }
    Ok(found)
}

/// The `pm2` of a package.json: an app, several, or a whole file.
fn translate_own(
    package: &serde_json::Map<String, Value>,
    mode: Option<&str>,
    own: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Translated>, String> {
    let mut file = package.get("pm2").cloned().unwrap_or_default();
    if let Value::Object(app) = &mut file
        && let (Some(name), false) = (package.get("name"), app.contains_key("apps"))
    {
        app.entry("name").or_insert_with(|| name.clone());
    }
    translate(&file, mode, own)
}

struct App<'a> {
    keys: BTreeMap<String, &'a Value>,
    is_dump: bool,
    mode: Option<&'a str>,
    own: &'a dyn Fn(&str) -> Option<String>,
    /// What runs it listens through us and hears messages.
    is_node: bool,
    found: Translated,
}

impl Translated {
    fn leave(&mut self, name: &str) {
        self.note(name, reason(name));
    }

    fn note(&mut self, name: &str, why: &str) {
        self.left.push((name.to_owned(), why.to_owned()));
    }

    fn differ(&mut self, name: &str, what: &str) {
        self.differs.push((name.to_owned(), what.to_owned()));
    }

    /// Puts a value that is good, and lists one that is not.
    fn put(&mut self, from: &str, to: &str, value: &str) {
        match key(to).map(|key| key.check(value)) {
            Some(Ok(())) => self.settings.push(to, value),
            Some(Err(why)) => self.note(from, &format!("{value:?}: {why}")),
            None => self.leave(from),
        }
    }
}

impl App<'_> {
    fn translate(&mut self) -> Result<(), String> {
        let script = self.text("script").ok_or("an app has no script")?;
        let name = self.text("name").unwrap_or_else(|| {
            let stem = Path::new(&script).file_stem();
            stem.unwrap_or_default().to_string_lossy().into_owned()
        });
        self.found.name = fit_name(&name);
        self.command(&script);
        for (name, value) in self.keys.clone() {
            self.key(&name, value);
        }
        if !self.keys.contains_key("instances") {
            self.found.put("instances", "workers", "1");
        }
        // PM2 asks by SIGINT; what an app does to end hangs on that. A shell that waits for a command ends
        // with it then, and PM2 asks that one too.
        let is_asked_otherwise = match self.is_node {
            true => self.is_true("shutdown_with_message"),
            false => is_shell(&self.found.command),
        };
        if !is_asked_otherwise {
            self.found.put("kill", "stop.request", "SIGINT");
        }
        Ok(())
    }

    fn command(&mut self, script: &str) {
        let extension = Path::new(script).extension().unwrap_or_default();
        let known = interpreter(&extension.to_string_lossy());
        let mut line = Line {
            interpreter: self.text("interpreter").unwrap_or_else(|| known.to_owned()),
            before: self.words("node_args"),
            script: self.at_home(script),
            args: self.words("args"),
        };
        let found = &mut self.found;
        if line.interpreter.starts_with("node@") {
            let why = format!(
                "{:?}: segue installs no node; name yours: node = \"PATH\"",
                line.interpreter
            );
            found.note("interpreter", &why);
            "node".clone_into(&mut line.interpreter);
        }
        let mut line = line.unwrapped();
        if line.script == "serve" {
            found.note(
                "script",
                "PM2's own server of files: let nginx serve them, or install the package serve and name its script",
            );
        } else if is_runner(&line.script) {
            let why = format!(
                "{} would stand between segue and node: write what it runs",
                base(&line.script)
            );
            found.note("script", &why);
            "none".clone_into(&mut line.interpreter);
        } else if line.script.contains(' ')
            && let Err(why) = PlainScript::parse(&line.script)
        {
            let why = format!(
                "{why}, which PM2 starts and which would stand between segue and node: write one command"
            );
            found.note("script", &why);
            "none".clone_into(&mut line.interpreter);
        } else if line.interpreter == "none" || !is_node(&line.interpreter) {
            self.is_node = false;
        }
        self.write(line);
    }

    fn write(&mut self, line: Line) {
        let found = &mut self.found;
        if line.interpreter == "none" {
            found.command = line.script;
            found.args = line.args;
        } else if !self.is_node {
            found.command = line.interpreter;
            let words = line.before.into_iter().chain([line.script]);
            found.args = words.chain(line.args).collect();
        } else {
            match is_script(line.script.as_ref()) {
                true => {
                    found.command = line.script;
                    found.args = line.args;
                }
                // Node itself finds what has another name.
                false => {
                    "node".clone_into(&mut found.command);
                    found.args = [line.script].into_iter().chain(line.args).collect();
                }
            }
            if line.interpreter != "node" && !self.is_dump {
                found.put("interpreter", "node", &line.interpreter);
            }
            for arg in line.before {
                found.put("node_args", "node_args", &arg);
            }
        }
        if !self.is_node {
            found.put("interpreter", "reload.ready", "alive");
            let what = format!(
                "{} is not node and opens its port by itself; an app that listens cannot have it twice, so use segue restart in place of a reload",
                base(&found.command)
            );
            found.differ("interpreter", &what);
        }
    }

    fn key(&mut self, name: &str, value: &Value) {
        let is_set = is_set(value);
        let text = plain(value);
        match name {
            "name" | "script" | "args" | "interpreter" | "node_args" => {}
            "exec_mode" if text.starts_with("fork") && self.has_several() && self.is_node => {
                self.found.differ(
                    name,
                    "workers share the ports that they listen on, as in PM2's cluster mode",
                );
            }
            "exec_mode" | "autorestart" if value != &Value::Bool(false) => {}
            "autorestart" => self.found.note(
                name,
                "a worker that ends is respawned; for jobs that end segue is not made",
            ),
            "env_file" if is_set => self.found.put(name, "env_file", &text),
            "cwd" => {
                let directory = self.at_home(&text);
                self.found.put(name, "cwd", &directory);
            }
            "instances" => self.instances(&text),
            "port" if is_set => self.found.put(name, "env", &format!("PORT={text}")),
            "env" => self.variables(name, value),
            _ if self.mode.is_some_and(|mode| name == format!("env_{mode}")) => {
                self.variables(name, value);
            }
            "wait_ready" | "shutdown_with_message" if is_set && !self.is_node => {
                self.found.note(name, "only node hears and says messages");
            }
            "wait_ready" if is_set => self.found.put(name, "reload.ready", "message"),
            "shutdown_with_message" if is_set => {
                self.found.put(name, "stop.request", "message:shutdown");
            }
            "listen_timeout" if is_set => self.listen_timeout(&time(value)),
            // Requests and what the app does at SIGINT each get what both had together.
            "kill_timeout" if is_set => {
                self.found.put(name, "stop.timeout", &time(value));
                self.found.put(name, "drain.kill_after", &time(value));
            }
            "exp_backoff_restart_delay" if is_set && text != "0" => {
                self.found.put(name, "restart.backoff.min", &time(value));
            }
            "restart_delay" if is_set && text != "0" => {
                self.found.put(name, "restart.backoff.min", &time(value));
                self.found.put(name, "restart.backoff.max", &time(value));
            }
            "max_restarts" if is_set => {
                self.found
                    .put(name, "restart.intensity", &format!("{text}/1m"));
            }
            "max_memory_restart" if is_set => self.found.put(name, "limits.memory", &size(value)),
            "out_file" if ["NULL", "/dev/null"].contains(&text.as_str()) => {
                self.found.leave("disable_logs");
            }
            "out_file" if !self.is_dump && is_set => {
                let path = self.in_cwd(&text);
                self.found.put(name, "log.out", &path);
            }
            // Both streams are in it, as in ours.
            "log_file" if matches!(value, Value::String(_)) && !self.has_log() => {
                let path = self.in_cwd(&text);
                self.found.put(name, "log.out", &path);
            }
            "time" if is_set => self.found.put(name, "log.time", "on"),
            "log_date_format" if is_set && !text.is_empty() => {
                self.found.put(name, "log.time", "on");
                self.found.differ(name, "log.time has one form, in UTC");
            }
            "log_type" if is_set => self.found.put(name, "log.format", &text),
            "source_map_support" if is_set && self.is_node => {
                self.found.put(name, "node_args", "--enable-source-maps");
            }
            "disable_source_map_support" => {}
            "watch" if value == &Value::Bool(true) => self.found.put(name, "watch", "on"),
            "watch" if is_set => {
                for path in self.words(name) {
                    let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
                    match path.as_str() {
                        "" | "." | "on" => self.found.put(name, "watch", "on"),
                        path => self.found.put(name, "watch", path),
                    }
                }
            }
            "ignore_watch" => self.ignore_watch(name),
            // As PM2 has it, 0 is none.
            "cron_restart" if text == "0" => {}
            "treekill" if !is_set && !self.is_dump => self.found.leave(name),
            _ if !is_set => {}
            "instance_var" if text == "NODE_APP_INSTANCE" => {}
            "merge_logs" | "error_file" | "pid_file" | "vizion" | "treekill" | "pmx"
            | "automation" | "namespace" | "username" | "windows_hide" | "kill_retry_time"
            | "filter_env" | "io"
                if self.is_dump => {}
            // A dump holds PM2's own state, and the environment once more.
            _ if self.is_dump && !is_without(name) => {}
            _ if name.starts_with("env_") => self.found.note(
                name,
                &format!(
                    "import with --env {} to have it",
                    name.trim_start_matches("env_")
                ),
            ),
            _ => match counterpart(name) {
                Some(ours) => self.found.put(name, ours, &text),
                None => self.found.leave(name),
            },
        }
    }

    fn instances(&mut self, text: &str) {
        match text {
            "max" | "0" => self.found.put("instances", "workers", "auto"),
            below if below.starts_with('-') => {
                self.found.put("instances", "workers", "auto");
                self.found.differ(
                    "instances",
                    &format!(
                        "{below}: workers = \"auto\" is one for each CPU; write a number for fewer"
                    ),
                );
            }
            count => self.found.put("instances", "workers", count),
        }
    }

    /// PM2 goes on after it as if the app were ready; here the start has failed then.
    fn listen_timeout(&mut self, time: &str) {
        let ours = key("reload.ready_timeout").and_then(|key| key.default);
        let ours = ours.unwrap_or_default();
        match (quantity::duration(time), quantity::duration(ours)) {
            (Ok(theirs), Ok(default)) if theirs <= default => {
                let what = format!(
                    "PM2 goes on without the app after {time}; reload.ready_timeout, after which it has failed, stays {ours}"
                );
                self.found.differ("listen_timeout", &what);
            }
            _ => self
                .found
                .put("listen_timeout", "reload.ready_timeout", time),
        }
    }

    /// It has a log that counts more than `log_file`.
    fn has_log(&self) -> bool {
        self.keys.get("out_file").is_some_and(|file| is_set(file))
    }

    /// What is not to be watched, where all of it is a name or a path, with stars perhaps.
    fn ignore_watch(&mut self, name: &str) {
        if !self.keys.get("watch").is_some_and(|watch| is_set(watch)) {
            return;
        }
        // Nothing that a watch of ours would look at.
        let ours = [
            "node_modules",
            "./node_modules",
            ".git",
            "\\.git",
            "[\\/\\\\]\\./",
        ];
        let words = self.words(name).into_iter();
        let patterns = words.filter(|word| !ours.contains(&word.as_str()));
        let patterns = patterns.map(|word| {
            let plain = word.trim_start_matches("**/");
            let plain = plain.trim_end_matches("/*").trim_end_matches("/**");
            let is_odd = |c: char| "[]{}()\\|?+^$!".contains(c);
            let is_plain = !plain.contains(is_odd) && !plain.contains("**") && !plain.is_empty();
            (is_plain && Path::new(plain).is_relative()).then(|| format!("!{plain}"))
        });
        match patterns.collect::<Option<Vec<_>>>() {
            Some(patterns) => {
                for pattern in patterns {
                    self.found.put(name, "watch", &pattern);
                }
            }
            None => self.found.leave(name),
        }
    }

    fn has_several(&self) -> bool {
        let count = self.text("instances");
        count.is_some_and(|count| count != "1")
    }

    /// PM2 knows `~`, which is otherwise a shell's.
    fn at_home(&self, path: &str) -> String {
        let home = (self.own)("HOME");
        match (path.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => format!("{home}/{rest}"),
            _ => path.to_owned(),
        }
    }

    /// A log file is below `cwd` there, and below the directory of the file here.
    fn in_cwd(&self, path: &str) -> String {
        let directory = self.text("cwd").unwrap_or_default();
        let path = Path::new(&self.at_home(&directory)).join(self.at_home(path));
        path.to_string_lossy().into_owned()
    }

    fn variables(&mut self, key: &str, value: &Value) {
        let Some(variables) = value.as_object() else {
            self.found.note(key, "it is no object of variables");
            return;
        };
        for (name, value) in variables {
            let text = plain(value);
            // What a shell or PM2 has put there is no setting of the app.
            let is_of_others = self.is_dump
                && ((self.own)(name).is_some()
                    || !matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
                    || name.chars().any(|c| c.is_ascii_lowercase())
                    || ["PM2_", "SSH_", "XDG_", "LS_"]
                        .iter()
                        .any(|own| name.starts_with(own))
                    || ["_", "PWD", "OLDPWD", "SHLVL", "NODE_APP_INSTANCE"]
                        .contains(&name.as_str()));
            if !is_of_others {
                self.found.put("env", "env", &format!("{name}={text}"));
            }
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        let text = self.keys.get(key).map(|value| plain(value));
        text.filter(|text| !text.is_empty())
    }

    fn is_true(&self, key: &str) -> bool {
        self.keys
            .get(key)
            .is_some_and(|value| **value == Value::Bool(true))
    }

    /// Words in a list, or in one text.
    fn words(&self, key: &str) -> Vec<String> {
        match self.keys.get(key) {
            Some(Value::Array(words)) => words.iter().map(plain).collect(),
            Some(Value::String(line)) => split(line),
            _ => Vec::new(),
        }
    }
}

fn is_set(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Milliseconds, unless a unit is written.
fn time(value: &Value) -> String {
    let text = plain(value);
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        true => format!("{text}ms"),
        false => text,
    }
}

/// Bytes, or a number with K, M or G.
fn size(value: &Value) -> String {
    let text = plain(value);
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.trim_end_matches(unit);
    match unit.to_ascii_uppercase().as_str() {
        "K" | "KB" => format!("{number}KiB"),
        "M" | "MB" => format!("{number}MiB"),
        "G" | "GB" => format!("{number}GiB"),
        "" => match number.parse::<u64>() {
            Ok(bytes) => format!("{}KiB", bytes.div_ceil(1024)),
            Err(_) => text,
        },
        _ => text,
    }
}

#[cfg(test)]
mod tests;
