//! The control client: one request per connection, over the supervisor's Unix socket.
//!
//! Connecting and short answers have deadlines. A stream is as long as what it tells of: its end
//! is the supervisor's, and whoever reads it may stop at any time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use segue_wire::control::{
    self as wire, ApplyBody, Decoder, Differences, Outcome, Problem, ProblemBody, ProblemCode,
    Progress, ReloadBody, ScaleBody, StartBody, Status, Story, UpgradeBody,
};
use serde::Serialize;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Between two tries while the supervisor's queue is full.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long a short answer, or the beginning of a stream, may take. Longer than the server's own limits.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// The longest short answer that is read, in bytes: a status of many workers.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why a request brought nothing.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("no supervisor listens at {}: {source}", path.display())]
    NotRunning { path: PathBuf, source: io::Error },
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the supervisor at {} did not answer within {} s", path.display(), limit.as_secs())]
    TimedOut { path: PathBuf, limit: Duration },
    #[error("{0}")]
    Refused(Problem),
    #[error("the answer of the supervisor cannot be understood: {0}")]
    Garbled(String),
    #[error("the connection to the supervisor broke: {0}")]
    Broken(#[from] hyper::Error),
}

/// A supervisor to talk to.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    path: PathBuf,
    /// Tells this client's requests from everybody else's when they are made again.
    key: String,
}

/// Progress of what was asked for.
#[derive(Debug)]
pub(crate) struct Stream {
    body: Incoming,
    decoder: Decoder,
    decoded: std::vec::IntoIter<wire::Frame>,
    /// Drives the connection as long as the stream is read.
    _connection: Connection,
}

/// An app as it goes over the socket.
///
/// # Errors
/// It has no JSON form.
pub(crate) fn definition(app: &impl Serialize) -> Result<serde_json::Value, ClientError> {
    serde_json::to_value(app).map_err(|error| ClientError::Garbled(error.to_string()))
}

impl Client {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self {
            path: path.into(),
            key: format!("{:016x}{:016x}", random(), random()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn status(&self) -> Result<Status, ClientError> {
        self.short("GET", "/v1/status", Bytes::new()).await
    }

    pub(crate) async fn scale(&self, app: &str, scale: ScaleBody) -> Result<Outcome, ClientError> {
        self.short("POST", &wire::apps_path(app, "scale"), json(&scale))
            .await
    }

    /// Without `app`, every app.
    pub(crate) async fn reload(
        &self,
        app: Option<&str>,
        body: ReloadBody,
    ) -> Result<Stream, ClientError> {
        let path = app.map_or_else(
            || "/v1/reload".to_owned(),
            |app| wire::apps_path(app, "reload"),
        );
        self.stream("POST", &path, json(&body)).await
    }

    /// One of the verbs that need no more words: `promote`, `rollback`, `restart`, `stop`.
    pub(crate) async fn order(&self, app: &str, verb: &str) -> Result<Stream, ClientError> {
        self.stream("POST", &wire::apps_path(app, verb), Bytes::new())
            .await
    }

    /// An app that is new there.
    pub(crate) async fn start(&self, app: &impl Serialize) -> Result<Stream, ClientError> {
        let body = StartBody {
            definition: definition(app)?,
        };
        self.stream("POST", "/v1/apps", json(&body)).await
    }

    pub(crate) async fn delete(&self, app: &str) -> Result<Stream, ClientError> {
        let path = format!("/v1/apps/{}", wire::percent_encode(app));
        self.stream("DELETE", &path, Bytes::new()).await
    }

    /// What an apply would do.
    pub(crate) async fn compare(&self, body: &ApplyBody) -> Result<Differences, ClientError> {
        self.short("POST", "/v1/apply", json(body)).await
    }

    pub(crate) async fn apply(&self, body: &ApplyBody) -> Result<Stream, ClientError> {
        self.stream("POST", "/v1/apply", json(body)).await
    }

    pub(crate) async fn why(&self, app: &str) -> Result<Story, ClientError> {
        self.short("GET", &wire::apps_path(app, "why"), Bytes::new())
            .await
    }

    /// As USR1 does.
    pub(crate) async fn reopen_logs(&self) -> Result<Outcome, ClientError> {
        self.short("POST", "/v1/logs/reopen", Bytes::new()).await
    }

    pub(crate) async fn shutdown(&self) -> Result<Stream, ClientError> {
        self.stream("POST", "/v1/shutdown", Bytes::new()).await
    }

    /// Without `binary`, whatever is at the place of the supervisor's own.
    pub(crate) async fn upgrade(&self, binary: Option<&str>) -> Result<Stream, ClientError> {
        let binary = binary.map(str::to_owned);
        self.stream("POST", "/v1/upgrade", json(&UpgradeBody { binary }))
            .await
    }

    pub(crate) async fn events(&self) -> Result<Stream, ClientError> {
        self.stream("GET", "/v1/events", Bytes::new()).await
    }

    async fn short<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let exchange = async {
            loop {
                match self.short_once(method, path, body.clone()).await {
                    // Another supervisor takes over: asked again, it does nothing twice.
                    Err(ClientError::Broken(_)) => sleep(CONNECT_PAUSE).await,
                    answer => return answer,
                }
            }
        };
        self.limited(exchange).await
    }

    async fn short_once<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (response, _connection) = self.exchange(method, path, body).await?;
        let body = collect(response.into_body()).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Garbled(error.to_string()))
    }

    async fn stream(&self, method: &str, path: &str, body: Bytes) -> Result<Stream, ClientError> {
        let (response, connection) = self.limited(self.exchange(method, path, body)).await?;
        Ok(Stream {
            body: response.into_body(),
            decoder: Decoder::new(),
            decoded: Vec::new().into_iter(),
            _connection: connection,
        })
    }

    async fn limited<T>(
        &self,
        exchange: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        timeout(ANSWER_WAIT, exchange)
            .await
            .unwrap_or_else(|_| Err(self.timed_out(ANSWER_WAIT)))
    }

    /// A response that is a success, and the connection that its body comes over.
    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its error is seen by the sender or by the body's reader.
        let task = tokio::spawn(async { connection.await.unwrap_or_default() });
        let connection = Connection {
            task: task.abort_handle(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "segue")
            .header(USER_AGENT, concat!("segue/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, wire::JSON)
            .header(wire::IDEMPOTENCY_KEY, &self.key)
            .body(Full::new(body))
            .map_err(|error| ClientError::Garbled(error.to_string()))?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status();
        let body = collect(response.into_body()).await?;
        let problem = serde_json::from_slice::<ProblemBody>(&body).map_or_else(
            |_| {
                Problem::new(
                    ProblemCode::Unknown,
                    format!("the supervisor answered {status}"),
                    "",
                )
            },
            |body| body.error,
        );
        Err(ClientError::Refused(problem))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let deadline = Instant::now() + CONNECT_WAIT;
        loop {
            let connected = timeout_at(deadline, UnixStream::connect(&self.path)).await;
            let source = match connected {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => source,
                Err(_) => return Err(self.timed_out(CONNECT_WAIT)),
            };
            let path = self.path.clone();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    return Err(ClientError::NotRunning { path, source });
                }
                // The queue of a Unix socket is full; there is no waiting for it in the kernel
                // for a non-blocking socket (connect(2), EAGAIN).
                io::ErrorKind::WouldBlock if Instant::now() < deadline => {
                    sleep(CONNECT_PAUSE).await
                }
                io::ErrorKind::WouldBlock => return Err(self.timed_out(CONNECT_WAIT)),
                _ => return Err(ClientError::Connect { path, source }),
            }
        }
    }

    fn timed_out(&self, limit: Duration) -> ClientError {
        ClientError::TimedOut {
            path: self.path.clone(),
            limit,
        }
    }
}

impl Stream {
    /// The next event; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Progress>, ClientError> {
        loop {
            for frame in self.decoded.by_ref() {
                let progress = Progress::decode(&frame)
                    .map_err(|error| ClientError::Garbled(error.to_string()))?;
                if progress.is_some() {
                    return Ok(progress);
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let Ok(chunk) = frame?.into_data() else {
                continue;
            };
            let frames = self.decoder.feed(&chunk);
            let frames = frames.map_err(|error| ClientError::Garbled(error.to_string()))?;
            self.decoded = frames.into_iter();
        }
    }
}

/// A connection's task, which ends with whoever reads from it.
#[derive(Debug)]
struct Connection {
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let limited = Limited::new(body, MAX_ANSWER);
    let body = limited.collect().await;
    Ok(body
        .map_err(|error| ClientError::Garbled(error.to_string()))?
        .to_bytes())
}

fn json(body: &impl Serialize) -> Bytes {
    // Strings and numbers always have a JSON form.
    serde_json::to_vec(body).unwrap_or_default().into()
}
