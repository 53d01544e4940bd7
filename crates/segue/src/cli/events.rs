//! `segue events`: the supervisor's news as they come, until it ends or the user has seen enough.

use segue_wire::control::Progress;

use super::args::EventsArgs;
use super::error::Trouble;
use super::follow::{begun, show};
use super::output::Output;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

pub(super) async fn run(args: EventsArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot show events";
    let found = find(args.common.control.clone(), None, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(what, error))?;
    let mut stream = begun(what, found.client.events().await)?;
    while let Some(progress) = stream
        .next()
        .await
        .map_err(|error| Trouble::talking(what, error))?
    {
        if let Progress::Notice(_) | Progress::Missed(_) = progress {
            show(&progress, &output);
        }
        if output.is_broken() {
            break;
        }
    }
    Ok(Exit::Done)
}
