//! JSON bodies of the `/v1/` control API: what is asked, what is answered, what is streamed.
//!
//! The bodies are tolerant in both directions, so that a client and a supervisor of different
//! releases understand each other: unknown fields are ignored, missing ones have a default, and
//! an unknown word in an enumeration reads as `Unknown`. `docs/control-protocol.md` describes the
//! same shapes for people; a change here is a change there. Nothing here knows the core or HTTP
//! beyond a method, a path and a body.

mod body;
mod event;
mod problem;
mod record;
mod request;
mod sse;
mod status;

pub use body::{
    ApplyBody, Canary, CanaryWish, Difference, Differences, KeyChange, ReloadBody, ScaleBody,
    StartBody, UpgradeBody, Wait,
};
pub use event::{Failure, Level, Missed, Notice, Outcome, OutcomeKind, Progress};
pub use problem::{Problem, ProblemBody, ProblemCode};
pub use record::{Asked, ReloadOutcome, ReloadRecord, RestartRecord, Revision, Step, Story};
pub use request::{MAX_BODY, Request, apps_path, parse, percent_decode, percent_encode};
pub use sse::{Decoder, Frame, MAX_FRAME, SseError, encode};
pub use status::{
    Address, Answers, App, AppPhase, CanaryProgress, Drain, Draining, Log, Reload, RestartCount,
    Slot, Status, Stragglers, Supervisor, Trouble, Worker, WorkerPhase,
};

/// What is asked and answered at every path, as an OpenAPI 3.1 document: for programs what
/// `docs/control-protocol.md` is for people.
pub const OPENAPI: &str = include_str!("openapi.json");
/// The header by which a request is known when it is made again: it is carried out once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// What the `User-Agent` of segue's own commands begins with.
pub const AGENT: &str = "segue/";
/// The media type of every body that is not a stream.
pub const JSON: &str = "application/json";
/// The media type of a stream of progress.
pub const EVENT_STREAM: &str = "text/event-stream";
