//! What a segue supervisor decides: who is spawned, who gets connections, who leaves and when.
//!
//! ```text
//!   facts (Event) ──▶ App::handle(now, event) ──▶ orders (Action) ──▶ the shell performs them
//!        ▲                     │                                            │
//!        │                     └── next_deadline(): wake me then            │
//!        └──────────────── what came of it ◀────────────────────────────────┘
//! ```
//!
//! The crate is pure: it knows no PID, signal number, path, socket or clock, and has no
//! dependencies. `clippy.toml` beside its manifest bans what would break that.

#![forbid(unsafe_code)]

mod action;
mod address;
mod app;
mod batch;
mod boot;
mod canary;
mod cause;
mod datum;
mod deadline;
mod event;
mod failure;
mod health;
mod ids;
mod leave;
mod notice;
mod pause;
mod probe;
mod reload;
mod replace;
mod request;
mod restart;
mod rollback;
mod serve;
mod settings;
mod slot;
mod snapshot;
mod start;
mod stop;
mod time;
mod view;
mod weigh;
mod worker;

pub use action::{Action, Finish, Outcome, Refusal, Signal, Tend};
pub use app::App;
pub use cause::{Cause, Failure, Leaving, ProbeFailure};
pub use datum::{Datum, Unreadable};
pub use event::{AddressKind, CanaryChoice, Event, ExitStatus, ProbeVerdict, Scale};
pub use ids::{
    AddressId, AskId, Generation, ReloadId, RequestId, SlotId, SocketIndex, SocketRef, WorkerId,
};
pub use notice::{Notice, ReloadStep};
pub use settings::{
    Canary, Distribution, GiveUp, HealthRule, Intensity, ProbeRule, ReadyRules, Settings, Surge,
};
pub use snapshot::{load_event, save_event};
pub use start::MAX_WORKERS;
pub use time::Time;
pub use view::{
    AddressView, AppPhase, AppView, CanaryView, ReloadView, SideView, SlotView, WorkerPhase,
    WorkerView,
};
