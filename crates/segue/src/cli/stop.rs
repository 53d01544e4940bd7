//! `segue stop` and `segue shutdown`: graceful ends, followed until nothing is left.

use super::args::{CommonArgs, ShutdownArgs, StopArgs};
use super::error::Trouble;
use super::every::each;
use super::follow::{follow, follow_apps, limited};
use super::output::Output;
use super::scale::only_app;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

pub(super) async fn run(args: StopArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot stop";
    let one = async |common: CommonArgs, app: Option<String>| {
        let app = app.as_deref();
        let found = find(common.control, app, &Place::of_this_process()).await;
        let found = found.map_err(|error| Trouble::finding(what, error))?;
        let app = only_app(&found, app, what)?;
        follow(
            async || found.client.order(&app, "stop").await,
            what,
            &output,
        )
        .await
    };
    let stopped = each(&args.common, args.app.as_deref(), &output, one);
    limited(args.timeout, "cannot wait for the stop", stopped).await
}

pub(super) async fn shutdown(args: ShutdownArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot shut down";
    let ended = async {
        let found = find(args.common.control.clone(), None, &Place::of_this_process()).await;
        let found = found.map_err(|error| Trouble::finding(what, error))?;
        let are_many = found.status.apps.len() > 1;
        let ask = async || found.client.shutdown().await;
        follow_apps(ask, what, &output, are_many).await
    };
    limited(args.timeout, "cannot wait for the shutdown", ended).await
}
