//! `segue promote`, `segue rollback` and `segue restart`: one word to one app, followed to its outcome.

use super::args::{AppArgs, CommonArgs};
use super::error::Trouble;
use super::every::each;
use super::follow::{follow, limited};
use super::output::Output;
use super::scale::only_app;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

pub(super) async fn promote(args: AppArgs, output: Output) -> Result<Exit, Trouble> {
    order(args, "promote", "cannot promote", &output).await
}

pub(super) async fn rollback(args: AppArgs, output: Output) -> Result<Exit, Trouble> {
    order(args, "rollback", "cannot roll back", &output).await
}

pub(super) async fn restart(args: AppArgs, output: Output) -> Result<Exit, Trouble> {
    order(args, "restart", "cannot restart", &output).await
}

async fn order(args: AppArgs, verb: &str, what: &str, output: &Output) -> Result<Exit, Trouble> {
    let one = async |common: CommonArgs, app: Option<String>| {
        let app = app.as_deref();
        let found = find(common.control, app, &Place::of_this_process()).await;
        let found = found.map_err(|error| Trouble::finding(what, error))?;
        let app = only_app(&found, app, what)?;
        let ask = async || found.client.order(&app, verb).await;
        follow(ask, what, output).await
    };
    let done = each(&args.common, args.app.as_deref(), output, one);
    limited(args.timeout, &format!("cannot wait for the {verb}"), done).await
}
