//! The numbers that decisions depend on, already validated. Strings (commands, paths,
//! environments) stay in the shell.

use std::time::Duration;

/// What the core must know of one app's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Number of slots, at least 1.
    pub workers: u32,
    /// When a booting worker counts as ready.
    pub ready: ReadyRule,
    /// A booting worker that is not ready after this has failed.
    pub ready_timeout: Duration,
    /// In a reload: how long every new worker must live after it is ready, before the cut-over.
    pub min_uptime: Duration,
    /// How TCP connections reach workers.
    pub distribution: Distribution,
    /// A quieted worker goes on accepting for at least this long.
    pub settle: Duration,
    /// Nothing outlives this in a reload or a scale-down.
    pub drain_timeout: Duration,
    /// So many old generations may drain at once; beyond it the oldest is ended.
    pub drain_generations: u32,
    /// The same as `drain_timeout` for `stop`.
    pub stop_timeout: Duration,
    /// How long the app goes on serving after a stop was asked for.
    pub stop_delay: Duration,
    /// A worker that has been ready for so long is replaced.
    pub max_age: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub kill_after: Duration,
    /// Wait before the second respawn of a slot in a row; doubles up to `backoff_max`. The first is at once.
    pub backoff_min: Duration,
    /// Longest wait before a respawn; a worker that lived longer than this starts the row afresh.
    pub backoff_max: Duration,
    /// A slot that needs more respawns than `restarts` within `within` is given up.
    pub intensity: Intensity,
    /// What happens when every slot has been given up.
    pub give_up: GiveUp,
}

/// When a booting worker counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyRule {
    /// It listens: at least at one address in the first generation, wherever the serving generation does in later ones.
    Listening,
    /// It said `process.send('ready')`.
    Message,
    /// It runs. For apps without a port.
    Alive,
}

/// How TCP connections reach workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// A socket for each worker; the kernel picks one for each connection.
    Spread,
    /// One socket for a generation; whichever worker is idle takes the next connection.
    Shared,
}

/// Restart intensity: at most `restarts` respawns of one slot `within` a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    pub restarts: u32,
    pub within: Duration,
}

/// What happens when every slot has been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Stay, refuse connections, and try again at the next reload.
    Stay,
    /// Drain what is left and end with a failure.
    Exit,
}

impl Default for Settings {
    /// The defaults of the product, for two workers.
    fn default() -> Self {
        Self {
            workers: 2,
            ready: ReadyRule::Listening,
            ready_timeout: Duration::from_secs(30),
            min_uptime: Duration::from_secs(2),
            distribution: Distribution::Spread,
            settle: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(300),
            drain_generations: 3,
            stop_timeout: Duration::from_secs(25),
            stop_delay: Duration::ZERO,
            max_age: None,
            kill_after: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            intensity: Intensity {
                restarts: 10,
                within: Duration::from_secs(60),
            },
            give_up: GiveUp::Stay,
        }
    }
}
