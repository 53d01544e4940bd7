//! `segue reload`: asks for a new generation and follows it to its outcome.

use segue_wire::control::ReloadBody;

use super::args::{CommonArgs, ReloadArgs};
use super::error::Trouble;
use super::every::each;
use super::follow::{follow_apps, limited};
use super::output::Output;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

pub(super) async fn run(args: ReloadArgs, output: Output) -> Result<Exit, Trouble> {
    limited(
        args.timeout,
        "cannot wait for the reload",
        reload(&args, &output),
    )
    .await
}

async fn reload(args: &ReloadArgs, output: &Output) -> Result<Exit, Trouble> {
    let with = async |common: CommonArgs, app: Option<String>| {
        one(args, common, app.as_deref(), output).await
    };
    if args.apps.is_empty() {
        return with(args.common.clone(), None).await;
    }
    let mut exits = Vec::new();
    for app in &args.apps {
        // One that fails must not keep the others from being told.
        exits.push(
            each(&args.common, Some(app), output, with)
                .await
                .unwrap_or_else(|trouble| {
                    output.trouble(&trouble);
                    trouble.exit
                }),
        );
    }
    Ok(Exit::all(exits))
}

async fn one(
    args: &ReloadArgs,
    common: CommonArgs,
    app: Option<&str>,
    output: &Output,
) -> Result<Exit, Trouble> {
    let what = app.map_or_else(
        || "cannot reload".to_owned(),
        |app| format!("cannot reload {app}"),
    );
    let found = find(common.control, app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(&what, error))?;
    let body = ReloadBody {
        wait: args.wait,
        canary: args.canary.unwrap_or_default(),
    };
    let are_many = app.is_none() && found.status.apps.len() > 1;
    let ask = async || found.client.reload(app, body).await;
    follow_apps(ask, &what, output, are_many).await
}
