//! The control API: server, client, and the translation between core and wire.

pub(crate) mod convert;
pub(crate) mod names;
mod wording;
