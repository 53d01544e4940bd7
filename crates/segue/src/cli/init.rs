//! `segue init`: a commented `segue.toml` for the app in this directory. It asks nothing and replaces
//! nothing.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::args::InitArgs;
use super::check::here;
use super::error::Trouble;
use super::output::Output;
use crate::config::command::{Command, CommandLine, app_name};
use crate::config::file::NAME;
use crate::config::file::print;
use crate::config::package::Package;
use crate::config::written::Written;
use crate::exit::Exit;

/// What stands below the app, as comments: defaults, and what many change first.
const MORE: &str = r#"# workers = "auto"                      # one for each CPU; a number, or a share such as "50%"
# env = { NODE_ENV = "production" }     # ${NAME} is replaced from the environment of segue
# env_file = ".env"                     # read again at each reload, below cwd
# cwd = "."                             # a link such as "current" is followed again at each reload
# node = "node"                         # which node; node_args = ["--enable-source-maps"]

# [app.NAME.reload]
# ready = "listening"                   # or "message", "notify", "alive", { http = "/healthz" }
# ready_timeout = "30s"
# min_uptime = "2s"                     # new workers must live so long before they get traffic

# [app.NAME.drain]
# timeout = "5m"                        # how long old connections may take in a reload

# [app.NAME.stop]
# timeout = "25s"                       # the same when the app stops

# [app.NAME.limits]
# memory = "512MiB"                     # a larger worker is replaced first, then drained

# [app.NAME.log]
# out = "app.log"                       # instead of stdout and stderr
"#;

pub(super) async fn run(args: InitArgs, output: Output) -> Result<Exit, Trouble> {
    let here = here()?;
    let path = here.join(NAME);
    let cannot = |why: String, next: &str| {
        Trouble::new(
            format!("cannot write {}", path.display()),
            why,
            next,
            Exit::Failed,
        )
    };
    let text = content(&args, &here).map_err(|why| cannot(why, "see segue init --help"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => cannot(
                "there is one".to_owned(),
                "segue check says whether it is good",
            ),
            _ => cannot(error.to_string(), "check the directory"),
        })?;
    file.write_all(text.as_bytes())
        .map_err(|error| cannot(error.to_string(), "check the disk"))?;
    output.line(&format!("wrote {}", path.display()));
    output.line("next: segue check, then segue run");
    Ok(Exit::Done)
}

fn content(args: &InitArgs, here: &Path) -> Result<String, String> {
    let words = match args.command.as_slice() {
        [] => guess(here),
        words => words.to_vec(),
    };
    let line = CommandLine::read(&words, here).map_err(|error| error.to_string())?;
    let name = app_name(args.name.as_deref(), &line.command, here);
    let name = name.map_err(|error| error.to_string())?;
    let text = |word: &OsString| match word.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{} is not UTF-8", word.display())),
    };
    let command = match &line.command {
        Command::Script(script) => text(&script.clone().into_os_string())?,
        Command::Executable(program) => text(program)?,
    };
    let texts = |words: &[OsString]| words.iter().map(text).collect::<Result<Vec<_>, _>>();
    let (args, node_args) = (texts(&line.args)?, texts(&line.node_args)?);
    let mut settings = Written::default();
    if let Some(node) = line.node.as_ref().filter(|node| **node != "node") {
        settings.push("node", text(node)?);
    }
    for arg in node_args {
        settings.push("node_args", arg);
    }
    for (name, value) in &line.env {
        settings.push("env", format!("{}={}", text(name)?, text(value)?));
    }
    let mut content = "\
        # segue.toml: what segue run runs. segue check checks it; segue reload reads it again.\n\
        # Every key stands in the manual; what is commented out is the default, or an example.\n\n"
        .to_owned();
    content.push_str(&print::app(&name, &command, &args, &settings));
    content.push_str(&MORE.replace("app.NAME", &format!("app.{}", print::bare(&name))));
    Ok(content)
}

/// What runs here: the start script if it is a plain command, else the main script.
fn guess(here: &Path) -> Vec<OsString> {
    let package = Package::read(here).ok().flatten().unwrap_or_default();
    // Nothing written means the start script.
    let is_plain = |script: &String| CommandLine::from_script(script, here).is_ok();
    if package.scripts.get("start").is_some_and(is_plain) {
        return Vec::new();
    }
    let usual = ["server.js", "index.js", "app.js", "main.js"];
    let there = usual.iter().find(|name| here.join(name).is_file());
    let main = package.main.filter(|main| here.join(main).is_file());
    vec![
        main.unwrap_or_else(|| (*there.unwrap_or(&"server.js")).to_owned())
            .into(),
    ]
}
