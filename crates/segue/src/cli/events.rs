//! `segue events`: the supervisor's news as they come, until it ends or the user has seen enough.

use segue_wire::control::Progress;

use super::args::EventsArgs;
use super::error::Trouble;
use super::follow::{again, show};
use super::output::Output;
use crate::control::client::ClientError;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;

pub(super) async fn run(args: EventsArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot show events";
    let found = find(args.common.control.clone(), None, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(what, error))?;
    let are_many = found.status.apps.len() != 1;
    let ask = async || found.client.events().await;
    let talking = |error| Trouble::talking(what, error);
    let mut stream = ask().await.map_err(talking)?;
    while !output.is_broken() {
        match stream.next().await {
            Ok(Some(progress @ (Progress::Notice(_) | Progress::Missed(_)))) => {
                show(&progress, &output, are_many);
            }
            Ok(Some(Progress::Outcome(_))) => {}
            // It has ended, or another one takes over.
            Ok(None) | Err(ClientError::Broken(_)) => match again(&ask).await {
                Ok(next) => stream = next,
                Err(_) => break,
            },
            Err(error) => return Err(talking(error)),
        }
    }
    Ok(Exit::Done)
}
