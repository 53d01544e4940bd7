//! `all` in the place of an app: every app of every supervisor, unless one is really called so.

use std::path::PathBuf;

use super::args::CommonArgs;
use super::error::Trouble;
use super::output::Output;
use crate::control::find::running;
use crate::control::runtime::Place;
use crate::exit::Exit;

const ALL: &str = "all";

/// Does it with the app that is named, or with each where `all` is meant: one that fails does not keep the
/// others from it.
pub(super) async fn each(
    common: &CommonArgs,
    app: Option<&str>,
    output: &Output,
    command: impl AsyncFn(CommonArgs, Option<String>) -> Result<Exit, Trouble>,
) -> Result<Exit, Trouble> {
    let meant = match app {
        Some(ALL) => everything(common.control.clone()).await,
        _ => None,
    };
    let Some(meant) = meant else {
        return command(common.clone(), app.map(str::to_owned)).await;
    };
    let mut exits = Vec::new();
    for (control, app) in meant {
        let common = CommonArgs {
            control: Some(control),
            ..common.clone()
        };
        let done = command(common, Some(app)).await;
        exits.push(done.unwrap_or_else(|trouble| {
            output.trouble(&trouble);
            trouble.exit
        }));
    }
    Ok(Exit::all(exits))
}

/// Every app and its supervisor's socket; nothing if an app has that name, or if there is none, which is
/// then told as for any other name.
async fn everything(control: Option<PathBuf>) -> Option<Vec<(PathBuf, String)>> {
    let found = running(control, &Place::of_this_process()).await.ok()?;
    let apps = found.iter().flat_map(|found| {
        let names = found.status.apps.iter().map(|app| app.name.clone());
        names.map(|name| (found.client.path().to_owned(), name))
    });
    let apps: Vec<(PathBuf, String)> = apps.collect();
    let is_name = apps.iter().any(|(_, name)| name == ALL);
    (!is_name && !apps.is_empty()).then_some(apps)
}
