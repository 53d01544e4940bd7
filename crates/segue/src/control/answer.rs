//! One request, one answer: reads the body, hands a command to the supervisor loop, and turns what
//! it says into a response. Everything waited for here has a limit.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use segue_wire::control::{self as wire, OutcomeKind, Problem, ProblemBody, ProblemCode, Progress};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::command::{Caller, Command, Peer};
use super::metrics;

/// How long a body may take to arrive, once the head is there.
const BODY_WAIT: Duration = Duration::from_secs(5);
/// How long the supervisor loop may take to answer. It never works for long at a time.
const LOOP_WAIT: Duration = Duration::from_secs(5);

/// The longest key of a request, in bytes.
const LONGEST_KEY: usize = 64;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The request has not arrived.
    Waiting,
    /// The supervisor has it.
    Working,
    /// A whole answer is being sent.
    Answering,
    /// A stream is being sent.
    Streaming,
}

/// Answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Answerer {
    commands: mpsc::Sender<Command>,
    streams: Arc<Semaphore>,
    peer: Peer,
    forbidden: bool,
}

/// The body of a response.
pub(super) enum AnswerBody {
    Whole(Option<Bytes>),
    Stream {
        events: mpsc::Receiver<Progress>,
        _place: OwnedSemaphorePermit,
    },
}

impl Answerer {
    pub(super) const fn new(commands: mpsc::Sender<Command>, streams: Arc<Semaphore>) -> Self {
        Self {
            commands,
            streams,
            peer: Peer {
                uid: 0,
                pid: None,
                is_command: false,
            },
            forbidden: false,
        }
    }

    /// Says who calls.
    pub(super) fn of(self, peer: Peer) -> Self {
        Self { peer, ..self }
    }

    /// The caller may not ask anything.
    pub(super) fn forbid(self) -> Self {
        Self {
            forbidden: true,
            ..self
        }
    }

    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        stage: &watch::Sender<Stage>,
    ) -> Response<AnswerBody> {
        let response = match self.attempt(request, stage).await {
            Ok(response) => response,
            Err(problem) => refusal(problem),
        };
        stage.send_replace(match response.body() {
            AnswerBody::Whole(_) => Stage::Answering,
            AnswerBody::Stream { .. } => Stage::Streaming,
        });
        response
    }

    async fn attempt(
        &self,
        request: Request<Incoming>,
        stage: &watch::Sender<Stage>,
    ) -> Result<Response<AnswerBody>, Problem> {
        if self.forbidden {
            return Err(Problem::new(
                ProblemCode::Forbidden,
                "only the supervisor's own user and root may use this socket",
                "run the command as that user",
            ));
        }
        let (head, body) = request.into_parts();
        let key = key_of(&head)?;
        let peer = Peer {
            is_command: is_command(&head),
            ..self.peer
        };
        let caller = (key.clone(), peer);
        let body = read(body).await?;
        stage.send_replace(Stage::Working);
        match wire::parse(head.method.as_str(), head.uri.path(), &body)? {
            wire::Request::Status => {
                let (reply, answer) = oneshot::channel();
                self.send(Command::Status { reply }).await?;
                Ok(json(StatusCode::OK, &within(answer).await?))
            }
            wire::Request::Metrics => {
                let (reply, answer) = oneshot::channel();
                self.send(Command::Status { reply }).await?;
                let text = metrics::render(within(answer).await?);
                Ok(whole(StatusCode::OK, metrics::TYPE, text.into()))
            }
            wire::Request::OpenApi => {
                let document = Bytes::from_static(wire::OPENAPI.as_bytes());
                Ok(whole(StatusCode::OK, wire::JSON, document))
            }
            wire::Request::Scale { app, scale } => {
                let (reply, answer) = oneshot::channel();
                self.send(Command::Scale {
                    app,
                    scale,
                    key,
                    reply,
                })
                .await?;
                let outcome = within(answer).await??;
                match outcome.kind {
                    OutcomeKind::Refused => Err(refused(outcome)),
                    _ => Ok(json(StatusCode::OK, &outcome)),
                }
            }
            wire::Request::ReopenLogs => {
                let (reply, answer) = oneshot::channel();
                self.send(Command::ReopenLogs { reply }).await?;
                Ok(json(StatusCode::OK, &within(answer).await??))
            }
            wire::Request::Why { app } => {
                let (reply, answer) = oneshot::channel();
                self.send(Command::Why { app, reply }).await?;
                Ok(json(StatusCode::OK, &within(answer).await??))
            }
            wire::Request::Start { definition } => {
                self.stream(caller, |caller| Command::Start { definition, caller })
                    .await
            }
            wire::Request::StartAgain { app } => {
                self.stream(caller, |caller| Command::StartAgain { app, caller })
                    .await
            }
            wire::Request::Delete { app } => {
                self.stream(caller, |caller| Command::Delete { app, caller })
                    .await
            }
            wire::Request::Apply(body) if body.dry_run => {
                let (reply, answer) = oneshot::channel();
                self.send(Command::Compare { body, reply }).await?;
                Ok(json(StatusCode::OK, &within(answer).await??))
            }
            wire::Request::Apply(body) => {
                self.stream(caller, |caller| Command::Apply { body, caller })
                    .await
            }
            wire::Request::Reload { app, wait, canary } => {
                self.stream(caller, |caller| Command::Reload {
                    app,
                    wait,
                    canary,
                    caller,
                })
                .await
            }
            wire::Request::Promote { app } => {
                self.stream(caller, |caller| Command::Promote { app, caller })
                    .await
            }
            wire::Request::Rollback { app } => {
                self.stream(caller, |caller| Command::Rollback { app, caller })
                    .await
            }
            wire::Request::Restart { app } => {
                self.stream(caller, |caller| Command::Restart { app, caller })
                    .await
            }
            wire::Request::Stop { app } => {
                self.stream(caller, |caller| Command::Stop { app, caller })
                    .await
            }
            wire::Request::Upgrade { binary } => {
                let binary = binary.map(Into::into);
                self.stream(caller, |caller| Command::Upgrade { binary, caller })
                    .await
            }
            wire::Request::Shutdown => {
                self.stream(caller, |caller| Command::Shutdown { caller })
                    .await
            }
            wire::Request::Events => {
                self.stream((None, peer), |caller| Command::Events { caller })
                    .await
            }
        }
    }

    async fn stream(
        &self,
        (key, peer): (Option<String>, Peer),
        command: impl FnOnce(Caller) -> Command,
    ) -> Result<Response<AnswerBody>, Problem> {
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Problem::new(
                ProblemCode::Busy,
                "too many streams are open",
                "close some, or ask again later",
            )
        })?;
        let (caller, begun) = Caller::new(key, peer);
        self.send(command(caller)).await?;
        let events = within(begun).await??;
        let mut response = Response::new(AnswerBody::Stream {
            events,
            _place: place,
        });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::EVENT_STREAM));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn send(&self, command: Command) -> Result<(), Problem> {
        match timeout(LOOP_WAIT, self.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ending()),
            Err(_) => Err(busy()),
        }
    }
}

/// What makes a request known when it is made again: the caller's own word, and what it asks for.
fn key_of(head: &Parts) -> Result<Option<String>, Problem> {
    let Some(key) = head.headers.get(wire::IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = key.to_str().ok().filter(|key| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(is_plain)
    });
    let key = key.ok_or_else(|| {
        Problem::new(
            ProblemCode::BadRequest,
            format!(
                "the header {} is not 1 to {LONGEST_KEY} letters, digits, dashes, dots or underscores",
                wire::IDEMPOTENCY_KEY
            ),
            "send another one, or none",
        )
    })?;
    Ok(Some(format!("{key} {} {}", head.method, head.uri.path())))
}

/// Our own client says so.
fn is_command(head: &Parts) -> bool {
    let agent = head.headers.get(USER_AGENT);
    agent.is_some_and(|agent| agent.as_bytes().starts_with(wire::AGENT.as_bytes()))
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let limited = Limited::new(body, wire::MAX_BODY);
    match timeout(BODY_WAIT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
            ProblemCode::TooLarge,
            format!("the body is longer than {} bytes", wire::MAX_BODY),
            "send only the fields of the request",
        )),
        Ok(Err(error)) => Err(Problem::new(
            ProblemCode::BadRequest,
            format!("the body did not arrive whole: {error}"),
            "send it again",
        )),
        Err(_) => Err(Problem::new(
            ProblemCode::TooSlow,
            "the body did not arrive in time",
            "send it again",
        )),
    }
}

async fn within<T>(answer: oneshot::Receiver<T>) -> Result<T, Problem> {
    match timeout(LOOP_WAIT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(ending()),
        Err(_) => Err(busy()),
    }
}

fn ending() -> Problem {
    Problem::new(
        ProblemCode::Ending,
        "the supervisor is ending",
        "start it again with segue run",
    )
}

fn busy() -> Problem {
    Problem::new(
        ProblemCode::Busy,
        "the supervisor did not answer in time",
        "ask again; if it stays so, its own log says more",
    )
}

fn refused(outcome: wire::Outcome) -> Problem {
    let code = match outcome.refusal.as_deref() {
        Some("no_workers" | "too_many") => ProblemCode::BadRequest,
        _ => ProblemCode::Conflict,
    };
    Problem::new(code, outcome.text, outcome.next)
}

fn refusal(problem: Problem) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(problem.code.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &ProblemBody { error: problem })
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<AnswerBody> {
    // Strings, numbers and lists of them always have a JSON form.
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    whole(status, wire::JSON, text.into())
}

fn whole(status: StatusCode, kind: &'static str, body: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(Some(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { events, .. } => events
                .poll_recv(context)
                .map(|event| event.map(|event| Ok(Frame::data(Bytes::from(event.encode()))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Whole(None) => SizeHint::with_exact(0),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
