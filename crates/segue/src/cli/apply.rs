//! `segue apply`: what a file says, made what runs. The difference is printed first.

use std::path::Path;

use segue_wire::control::{ApplyBody, Difference};

use super::args::ApplyArgs;
use super::error::Trouble;
use super::follow::{follow_apps, limited};
use super::output::Output;
use super::prepared::{here, shown, umask};
use super::start::background;
use crate::config::file::File;
use crate::config::file::app::whole;
use crate::config::written::Written;
use crate::control::client::{Client, definition};
use crate::control::runtime::Place;
use crate::exit::Exit;

const WHAT: &str = "cannot apply";

pub(super) async fn run(args: ApplyArgs, output: Output) -> Result<Exit, Trouble> {
    let applied = apply(&args, &output);
    limited(args.timeout, "cannot wait for the apply", applied).await
}

async fn apply(args: &ApplyArgs, output: &Output) -> Result<Exit, Trouble> {
    let usage = |why: String| Trouble::new(WHAT, why, "", Exit::Usage);
    let here = here().map_err(usage)?;
    let path = match &args.config {
        Some(path) => here.join(path),
        None => File::of_directory(&here).ok_or_else(|| {
            Trouble::new(
                WHAT,
                format!("there is no segue.toml in {}", here.display()),
                "write one with segue init, or name a file with -c",
                Exit::Usage,
            )
        })?,
    };
    let file = File::read(&path, &|name| std::env::var(name).ok());
    let file = file.map_err(|error| usage(shown(&error)))?;
    let env: Vec<_> = std::env::vars_os().collect();
    let apps = whole(&file, &Written::default(), &here, &env);
    let mut apps = apps.map_err(|error| usage(shown(&error)))?;
    let umask = umask();
    for app in &mut apps {
        app.umask = umask;
    }
    let definitions = apps.iter().map(definition).collect::<Result<Vec<_>, _>>();
    let definitions = definitions.map_err(|error| Trouble::talking(WHAT, error))?;
    let mut body = ApplyBody {
        source: path.display().to_string(),
        definitions,
        dry_run: true,
    };
    let client = supervisor(args, &path).await?;
    let found = client.compare(&body).await;
    let found = found.map_err(|error| Trouble::talking(WHAT, error))?;
    if args.common.json && args.dry_run {
        output.line(&serde_json::to_string_pretty(&found).unwrap_or_default());
        return Ok(Exit::Done);
    }
    for difference in &found.differences {
        for line in lines(difference) {
            output.line(&line);
        }
    }
    if args.dry_run {
        return Ok(Exit::Done);
    }
    body.dry_run = false;
    follow_apps(async || client.apply(&body).await, WHAT, output, true).await
}

/// The one that has apps of the file, else the one in the background.
async fn supervisor(args: &ApplyArgs, file: &Path) -> Result<Client, Trouble> {
    if args.common.control.is_none() {
        let (sockets, _) = Place::of_this_process().sockets();
        for socket in sockets {
            let client = Client::new(socket);
            let Ok(status) = client.status().await else {
                continue;
            };
            let is_its = |source: &String| Path::new(source) == file;
            if (status.apps.iter()).any(|app| app.source.as_ref().is_some_and(is_its)) {
                return Ok(client);
            }
        }
    }
    background(args.common.control.clone()).await
}

/// A difference for people.
fn lines(difference: &Difference) -> Vec<String> {
    let Difference { app, change, keys } = difference;
    let what = match change.as_str() {
        "same" => format!("  {app}: as the file says"),
        "start" => format!("+ {app}: is started"),
        "delete" => format!("- {app}: drains and is deleted"),
        "reload" => format!("~ {app}: is reloaded"),
        "scale" => format!("~ {app}: is scaled"),
        "adjust" => format!("~ {app}: is adjusted, with no restart"),
        other => format!("~ {app}: {other}"),
    };
    let keys = keys.iter().map(|key| {
        let when = match key.effect.as_str() {
            "live" => " (at once)",
            "next" => " (with the next workers)",
            "start" => " (after segue stop and start)",
            _ => "",
        };
        match key.from.is_empty() {
            true => format!("    {}: {}{when}", key.key, key.to),
            false => format!("    {}: {} -> {}{when}", key.key, key.from, key.to),
        }
    });
    std::iter::once(what).chain(keys).collect()
}
