//! `segue upgrade`: the supervisor becomes another binary, in place.

use std::path::PathBuf;
use std::time::Duration;

use super::args::CommonArgs;
use super::error::Trouble;
use super::follow::{follow, limited};
use super::output::Output;
use crate::config::quantity;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

#[derive(clap::Args, Debug)]
pub(crate) struct UpgradeArgs {
    /// The new binary [default: the file at the path of the running one]
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    /// Wait no longer than this, with exit code 124; the upgrade itself goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

pub(super) async fn run(args: UpgradeArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot upgrade";
    let binary = match &args.binary {
        Some(path) => {
            let absolute = std::path::absolute(path).map_err(|error| {
                Trouble::new(
                    what,
                    error,
                    "name the binary by its absolute path",
                    Exit::Usage,
                )
            })?;
            let text = absolute.into_os_string().into_string();
            Some(text.map_err(|path| {
                let why = format!("{} is not UTF-8", path.display());
                Trouble::new(what, why, "give the binary another name", Exit::Usage)
            })?)
        }
        None => None,
    };
    let upgraded = async {
        let found = find(args.common.control.clone(), None, &Place::of_this_process()).await;
        let found = found.map_err(|error| Trouble::finding(what, error))?;
        let ask = async || found.client.upgrade(binary.as_deref()).await;
        follow(ask, what, &output).await
    };
    limited(args.timeout, "cannot wait for the upgrade", upgraded).await
}
