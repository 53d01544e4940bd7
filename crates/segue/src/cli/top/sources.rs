//! Where the view's news come from: tasks that ask the supervisor, listen to it, and read a log file.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use segue_wire::control::{Log, Outcome, Progress, ReloadBody};
use tokio::sync::mpsc::Sender;
use tokio::task::{AbortHandle, spawn, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::state::{Event, KEPT};
use crate::cli::connections;
use crate::cli::follow::{TAKE_OVER, is_broken};
use crate::cli::logs::files::{Follower, last_lines};
use crate::cli::logs::plainly;
use crate::control::client::{Client, ClientError, Stream};

/// Before the supervisor, or what takes over from it, is asked again for its news.
const PAUSE: Duration = Duration::from_millis(500);
/// A log that is written faster than this is shown in pieces.
const LOG_PAUSE: Duration = Duration::from_millis(100);

/// All of them. They end with the view.
#[derive(Debug)]
pub(super) struct Sources {
    client: Client,
    news: Sender<Event>,
    log: Option<AbortHandle>,
}

impl Sources {
    /// Starts to ask, so often, and to listen.
    pub(super) fn new(client: Client, often: Duration, news: Sender<Event>) -> Self {
        spawn(ask(client.clone(), often, news.clone()));
        spawn(listen(client.clone(), news.clone()));
        Self {
            client,
            news,
            log: None,
        }
    }

    pub(super) fn reload(&self, app: String) {
        // Each request has a key of its own: this one is not the one before, made again.
        let client = Client::new(self.client.path());
        let news = self.news.clone();
        spawn(async move {
            let ended = reload(&client, &app).await;
            let ended = ended.map(Box::new);
            let ended = ended.map_err(|error| format!("cannot reload {app}: {error}"));
            let _ = news.send(Event::Reloaded(ended)).await;
        });
    }

    /// This log from now on, or none.
    pub(super) fn follow(&mut self, log: Option<(String, Log)>) {
        if let Some(before) = self.log.take() {
            before.abort();
        }
        let news = self.news.clone();
        self.log = log.map(|(app, log)| {
            let task = spawn(async move {
                if let Err(error) = tail(&app, &log, &news).await {
                    let why = format!("cannot show {}: {error}", log.path);
                    let _ = news.send(Event::LogFailed { app, why }).await;
                }
            });
            task.abort_handle()
        });
    }
}

async fn ask(client: Client, often: Duration, news: Sender<Event>) {
    loop {
        let began = Instant::now();
        let event = match client.status().await {
            Ok(mut status) => {
                connections::count(&mut status);
                Event::Answered(Box::new(status))
            }
            Err(error) => Event::Unanswered(error.to_string()),
        };
        if news.send(event).await.is_err() {
            return;
        }
        sleep_until(began + often).await;
    }
}

async fn listen(client: Client, news: Sender<Event>) {
    loop {
        if let Ok(mut stream) = client.events().await {
            // Its end is seen by whoever asks for the status.
            while let Ok(Some(progress)) = stream.next().await {
                if news.send(Event::Told(progress)).await.is_err() {
                    return;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

/// To its outcome, also across supervisors: made again, it does nothing twice.
async fn reload(client: &Client, app: &str) -> Result<Outcome, ClientError> {
    let mut until = Instant::now() + TAKE_OVER;
    loop {
        let error = match client.reload(Some(app), ReloadBody::default()).await {
            Ok(mut stream) => {
                until = Instant::now() + TAKE_OVER;
                match outcome(&mut stream).await {
                    Ok(Some(outcome)) => return Ok(outcome),
                    Ok(None) => None,
                    Err(error) => Some(error),
                }
            }
            Err(error) => Some(error),
        };
        match error {
            Some(error) if !is_broken(&error) || Instant::now() > until => return Err(error),
            Some(_) | None => sleep(PAUSE).await,
        }
    }
}

async fn outcome(stream: &mut Stream) -> Result<Option<Outcome>, ClientError> {
    loop {
        match stream.next().await? {
            Some(Progress::Outcome(outcome)) => return Ok(Some(*outcome)),
            Some(Progress::Notice(_) | Progress::Missed(_)) => {}
            None => return Ok(None),
        }
    }
}

async fn tail(app: &str, log: &Log, news: &Sender<Event>) -> io::Result<()> {
    let is_json = log.format == "json";
    let path = std::path::PathBuf::from(&log.path);
    let opened = path.clone();
    // A large file takes its time.
    let last = spawn_blocking(move || last_lines(&opened, KEPT, None, |_| true)).await;
    let mut last = last.map_err(io::Error::other)??;
    let mut lines: VecDeque<Vec<u8>> = std::mem::take(&mut last.lines).into();
    let mut follower = Follower::new(&path, last)?;
    loop {
        follower.read(&mut |line| {
            lines.push_back(line);
            if lines.len() > KEPT {
                lines.pop_front();
            }
        })?;
        let plain = lines.drain(..).map(|line| plainly(app, is_json, &line));
        let lines = plain.collect::<Vec<_>>();
        if !lines.is_empty() {
            let app = app.to_owned();
            if news.send(Event::Logged { app, lines }).await.is_err() {
                return Ok(());
            }
            sleep(LOG_PAUSE).await;
        }
        follower.changed().await?;
    }
}
