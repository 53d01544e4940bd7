//! Configuration: as written, and as meant.

pub(crate) mod accounts;
pub(crate) mod app;
pub(crate) mod change;
pub(crate) mod command;
pub(crate) mod confine;
pub(crate) mod drain;
pub(crate) mod env_file;
pub(crate) mod file;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod package;
pub(crate) mod pm2;
pub(crate) mod probe;
pub(crate) mod processors;
pub(crate) mod quantity;
pub(crate) mod revision;
pub(crate) mod schedule;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod values;
pub(crate) mod watch;
pub(crate) mod written;
