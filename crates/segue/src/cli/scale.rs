//! `segue scale`: changes the number of workers.

use segue_wire::control::{Level, ScaleBody};

use super::args::{CommonArgs, ScaleArgs};
use super::error::Trouble;
use super::every::each;
use super::follow::exit_of;
use super::output::Output;
use crate::control::find::{Found, find};
use crate::control::runtime::Place;
use crate::exit::Exit;

pub(super) async fn run(args: ScaleArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot scale";
    let (app, scale) = args
        .parse()
        .map_err(|reason| Trouble::new(what, reason, "see segue scale --help", Exit::Usage))?;
    let one = async |common: CommonArgs, app: Option<String>| {
        scale_one(common, app.as_deref(), scale, &output).await
    };
    each(&args.common, app, &output, one).await
}

async fn scale_one(
    common: CommonArgs,
    app: Option<&str>,
    scale: ScaleBody,
    output: &Output,
) -> Result<Exit, Trouble> {
    let what = "cannot scale";
    let found = find(common.control, app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(what, error))?;
    let app = only_app(&found, app, what)?;
    let outcome = found.client.scale(&app, scale).await;
    let outcome = outcome.map_err(|error| Trouble::talking(what, error))?;
    if output.json {
        // Strings and numbers always have a JSON form.
        output.line(&serde_json::to_string(&outcome).unwrap_or_default());
    } else if output.verbosity.shows(Level::Info) {
        output.line(&outcome.text);
    }
    Ok(exit_of(&outcome))
}

/// The app that is named, or the only one.
pub(super) fn only_app(found: &Found, app: Option<&str>, what: &str) -> Result<String, Trouble> {
    if let Some(app) = app {
        return Ok(app.to_owned());
    }
    match found.status.apps.as_slice() {
        [app] => Ok(app.name.clone()),
        [] => Err(Trouble::new(
            what,
            "the supervisor has no app",
            "start one",
            Exit::NotFound,
        )),
        apps => {
            let names: Vec<&str> = apps.iter().map(|app| app.name.as_str()).collect();
            let why = format!("the supervisor has several apps: {}", names.join(", "));
            Err(Trouble::new(what, why, "name one of them", Exit::Usage))
        }
    }
}
