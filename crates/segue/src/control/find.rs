//! Which supervisor a command talks to: the one that is named, the only one, or the one that has the app.

use std::path::PathBuf;

use segue_wire::control::Status;
use thiserror::Error;
use tokio::task::JoinSet;

use super::client::{Client, ClientError};
use super::runtime::{Place, RuntimeError};

/// Why it is not clear whom to talk to.
#[derive(Debug, Error)]
pub(crate) enum FindError {
    /// Nobody listens anywhere.
    #[error("no supervisor is running{}", also(.distrusted))]
    None { distrusted: Vec<RuntimeError> },
    /// Some run, but none has the app; names of those that they have.
    #[error("no supervisor has an app named {app:?}; running: {}", .known.join(", "))]
    NoSuchApp { app: String, known: Vec<String> },
    /// Several could be meant.
    #[error("several supervisors are running: {}", .0.join(", "))]
    Several(Vec<String>),
    /// One was named, or the only one failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A supervisor, and what it said of itself.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) client: Client,
    pub(crate) status: Status,
}

/// Looks for the supervisor that is meant. `app` is the app that the command is about, if it names one.
///
/// # Errors
/// See [`FindError`].
pub(crate) async fn find(
    control: Option<PathBuf>,
    app: Option<&str>,
    place: &Place,
) -> Result<Found, FindError> {
    belongs(running(control, place).await?, app)
}

/// Every supervisor that may be meant, one at least.
///
/// # Errors
/// See [`FindError`].
pub(crate) async fn running(
    control: Option<PathBuf>,
    place: &Place,
) -> Result<Vec<Found>, FindError> {
    if let Some(path) = control {
        let client = Client::new(path);
        let status = client.status().await?;
        return Ok(vec![Found { client, status }]);
    }
    let (sockets, distrusted) = place.sockets();
    let mut asked = JoinSet::new();
    for path in sockets {
        asked.spawn(async move {
            let client = Client::new(path);
            let status = client.status().await;
            (client, status)
        });
    }
    let mut found = Vec::new();
    let mut failed = None;
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((client, Ok(status))) => found.push(Found { client, status }),
            // Left behind by one that has gone.
            Ok((_, Err(ClientError::NotRunning { .. }))) | Err(_) => {}
            Ok((_, Err(error))) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error.into()),
        _ if found.is_empty() => Err(FindError::None { distrusted }),
        _ => {
            found.sort_by(|a, b| a.client.path().cmp(b.client.path()));
            Ok(found)
        }
    }
}

fn belongs(running: Vec<Found>, app: Option<&str>) -> Result<Found, FindError> {
    let names = |found: &Found| -> Vec<String> {
        found
            .status
            .apps
            .iter()
            .map(|app| app.name.clone())
            .collect()
    };
    let described = running.iter().map(|found| {
        format!(
            "{} ({})",
            found.client.path().display(),
            names(found).join(", ")
        )
    });
    let described: Vec<String> = described.collect();
    let known: Vec<String> = running.iter().flat_map(names).collect();
    let mut meant: Vec<Found> = match app {
        None => running,
        Some(app) => running
            .into_iter()
            .filter(|found| found.status.apps.iter().any(|known| known.name == app))
            .collect(),
    };
    match (meant.pop(), app) {
        (Some(found), _) if meant.is_empty() => Ok(found),
        (None, Some(app)) => Err(FindError::NoSuchApp {
            app: app.to_owned(),
            known,
        }),
        (None, None) => Err(FindError::None {
            distrusted: Vec::new(),
        }),
        (Some(_), _) => Err(FindError::Several(described)),
    }
}

fn also(distrusted: &[RuntimeError]) -> String {
    distrusted
        .iter()
        .map(|reason| format!(" ({reason})"))
        .collect()
}
