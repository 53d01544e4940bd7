//! `segue import pm2`: an ecosystem file or a dump of PM2's becomes a `segue.toml`. Files that are code are
//! run by the user's own node, as PM2 does; what has no counterpart is listed with the reason.

mod scripts;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::check::here;
use super::error::Trouble;
use super::output::Output;
use crate::config::file::{File, NAME, print};
use crate::config::pm2::{Translated, translate};
use crate::exit::Exit;

/// How long a file may take to say what it holds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Loads a file as Node would, CommonJS or module, and writes what it exports after a NUL.
const LOAD: &str = "
import(require('url').pathToFileURL(process.argv[1]).href).then(async (loaded) => {
  let file = loaded.default ?? loaded;
  if (typeof file === 'function') file = await file();
  process.stdout.write('\\u0000' + JSON.stringify(file), () => process.exit(0));
}).catch((error) => { console.error(error); process.exit(1); });";

/// The same for a file that is called JSON: PM2 takes any expression of JavaScript, comments included.
const LOAD_EXPRESSION: &str = "
const text = require('fs').readFileSync(process.argv[1], 'utf8').replace(/^\\uFEFF/, '');
const file = require('vm').runInNewContext('(' + text + '\\n)', {}, { filename: process.argv[1] });
process.stdout.write('\\u0000' + JSON.stringify(file), () => process.exit(0));";

/// Where PM2 looks, too.
const USUAL: [&str; 13] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.yaml",
    "ecosystem.config.yml",
    "ecosystem.json",
    "ecosystem.yaml",
    "ecosystem.yml",
    "processes.json",
    "processes.yaml",
    "processes.yml",
    "process.json",
    "process.yml",
];

#[derive(clap::Args, Debug)]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    pub(crate) from: ImportFrom,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImportFrom {
    /// From PM2: an ecosystem file (.js, .cjs, .mjs, .json, .yaml) or its dump.pm2
    Pm2(Pm2Args),
}

#[derive(clap::Args, Debug)]
pub(crate) struct Pm2Args {
    /// The file [default: ecosystem.config.js, .cjs, .mjs, .yaml, ecosystem.json or processes.json in the current directory]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Take the variables of env_NAME as well, as pm2 start --env NAME does
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// The node that runs a file that is code
    #[arg(long, value_name = "PATH", default_value = "node")]
    pub(crate) node: String,
}

pub(super) async fn run(args: ImportArgs, output: Output) -> Result<Exit, Trouble> {
    let ImportFrom::Pm2(args) = args.from;
    let here = here()?;
    let source = match &args.file {
        Some(file) => here.join(file),
        None => {
            let mut usual = USUAL.iter().map(|name| here.join(name));
            usual.find(|path| path.is_file()).ok_or_else(|| {
                let why = format!("{} has no {}", here.display(), USUAL.join(", "));
                let next = "name the file: segue import pm2 FILE";
                Trouble::new("nothing to import", why, next, Exit::Usage)
            })?
        }
    };
    let cannot = |why: String| {
        let next = "nothing was written";
        Trouble::new(
            format!("cannot import {}", source.display()),
            why,
            next,
            Exit::Failed,
        )
    };
    let mut value = load(&source, &args).map_err(cannot)?;
    scripts::resolve(&mut value, source.parent().unwrap_or(&here));
    let own = |name: &str| std::env::var(name).ok();
    let apps = translate(&value, args.env.as_deref(), &own).map_err(cannot)?;
    // Paths of an ecosystem file are relative to it, those of a dump absolute.
    let is_dump = source
        .extension()
        .is_some_and(|extension| extension == "pm2");
    let directory = match is_dump {
        true => here.as_path(),
        false => source.parent().unwrap_or(&here),
    };
    let path = directory.join(NAME);
    let text = content(&apps, &source);
    File::parse(&path, &text, &own).map_err(|error| cannot(error.to_string()))?;
    write_new(&path, &text).map_err(cannot)?;
    output.line(&format!("wrote {}", path.display()));
    for app in &apps {
        for line in remarks(app) {
            output.line(&format!("{}: {line}", app.name));
        }
    }
    output.line("next: segue check, then segue start");
    Ok(Exit::Done)
}

fn content(apps: &[Translated], source: &Path) -> String {
    let mut text = format!("# From {}, by segue import pm2.\n", source.display());
    for app in apps {
        text.push('\n');
        text.push_str(&print::app(
            &app.name,
            &app.command,
            &app.args,
            &app.settings,
        ));
        for line in remarks(app) {
            let _ = writeln!(text, "# {line}");
        }
    }
    text
}

/// What is not as it was.
fn remarks(app: &Translated) -> Vec<String> {
    let left = app.left.iter();
    let left = left.map(|(key, why)| format!("{key} is left out: {why}"));
    let differs = app.differs.iter();
    let differs = differs.map(|(key, what)| format!("{key} is different: {what}"));
    left.chain(differs).collect()
}

fn write_new(path: &PathBuf, text: &str) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!("there is a {} already; move it away", path.display()),
        _ => format!("{}: {error}", path.display()),
    })?;
    file.write_all(text.as_bytes())
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn load(source: &Path, args: &Pm2Args) -> Result<Value, String> {
    let extension = source.extension().unwrap_or_default().to_string_lossy();
    let read = || std::fs::read_to_string(source).map_err(|error| error.to_string());
    let text = match extension.as_ref() {
        "pm2" => read()?,
        "json" => {
            let text = read()?;
            match serde_json::from_str(&text) {
                Ok(value) => return Ok(value),
                Err(_) => run_node(LOAD_EXPRESSION, source, &args.node)?,
            }
        }
        "yaml" | "yml" => return yaml(&read()?),
        "js" | "cjs" | "mjs" => run_node(LOAD, source, &args.node)?,
        _ => {
            let why = "it is none of .js, .cjs, .mjs, .json, .yaml, .yml and .pm2; write it as one of these";
            return Err(why.to_owned());
        }
    };
    serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}"))
}

/// As PM2 reads it: YAML 1.2, where `yes` and `on` are words.
fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| format!("it is not YAML: {error}"))
}

/// What a file exports, as JSON.
fn run_node(program: &str, source: &Path, node: &str) -> Result<String, String> {
    if !source.is_file() {
        return Err("there is no such file".to_owned());
    }
    let mut child = Command::new(node)
        .args(["-e", program])
        .arg(source)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {node}: {error}; say which with --node PATH"))?;
    let (done, result) = mpsc::channel();
    let stdout = child.stdout.take();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|mut stdout| stdout.read_to_string(&mut text));
        let _ = done.send(read.map(|read| read.map(|_| text)));
    });
    let read = result.recv_timeout(PATIENCE);
    // It has said what it had to say, or too little in too long.
    let _ = child.kill();
    let _ = child.wait();
    match read {
        Ok(Some(Ok(text))) => match text.rsplit_once('\0') {
            Some((_, json)) if !json.is_empty() => Ok(json.to_owned()),
            _ => Err("node could not load it, see above".to_owned()),
        },
        Ok(Some(Err(error))) => Err(format!("cannot read what it exports: {error}")),
        Ok(None) | Err(_) => Err(format!("it took longer than {} s", PATIENCE.as_secs())),
    }
}
