//! One worker process: how it is launched, its channel, its output.

mod archive;
mod bounded;
pub(crate) mod bounds;
pub(crate) mod channel;
pub(crate) mod compile_cache;
mod journald;
pub(crate) mod launch;
pub(crate) mod layout;
pub(crate) mod log;
pub(crate) mod output;
pub(crate) mod preload;
pub(crate) mod probe;
pub(crate) mod pulse;
mod queue;
mod reader;
mod rolling;
mod sink;
pub(crate) mod wrapper;
pub(crate) mod writer;
