//! The service manager, systemd or whoever speaks as it does: what it is told of the app, and what it
//! passes on to us.
//!
//! ```text
//!   told        what is to be said, and when     ─▶ notifier   says it, sooner or later
//!   line        the app in one line
//!   activation  descriptors that it has left for us
//!   unit        how it is to run us
//! ```
//!
//! Without a service manager nothing of this does anything. With one, nothing of it can fail or
//! delay the app.

pub(crate) mod activation;
mod line;
mod notifier;
mod told;
pub(crate) mod unit;

pub(crate) use line::{is_up, line};
pub(crate) use notifier::Notifier;
pub(crate) use told::{Phase, Told, Watchdog};
