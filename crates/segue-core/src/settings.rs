//! The numbers that decisions depend on, already validated. Strings (commands, paths,
//! environments) stay in the shell.

use std::time::Duration;

use crate::datum::portable_record;

/// What the core must know of one app's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Number of slots, at least 1.
    pub workers: u32,
    /// When a booting worker counts as ready.
    pub ready: ReadyRules,
    /// How it is probed, where that is a rule.
    pub probe: ProbeRule,
    /// A booting worker that is not ready after this has failed.
    pub ready_timeout: Duration,
    /// In a reload: how long every new worker must live after it is ready, before the cut-over.
    pub min_uptime: Duration,
    /// In a reload: how many new workers there may be beside the old ones.
    pub max_surge: Surge,
    /// In a reload: a share of the connections first, if so.
    pub canary: Option<Canary>,
    /// In a reload: how long after the cut-over the old generation is kept to take over again.
    pub probation: Duration,
    /// How workers are watched once they are ready.
    pub health: HealthRule,
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

/// When a booting worker counts as ready: all that are set must hold. With none it is enough that
/// it runs, for apps without a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyRules {
    /// It listens: at least at one address in the first generation, wherever the serving generation does in later
    /// ones, and in any wherever it is [to](crate::Event::Prepared).
    pub listening: bool,
    /// It said `process.send('ready')`.
    pub message: bool,
    /// It sent `READY=1` to its notify socket.
    pub notify: bool,
    /// It listens, and passed its probe.
    pub probe: bool,
}

impl ReadyRules {
    pub const ALIVE: Self = Self {
        listening: false,
        message: false,
        notify: false,
        probe: false,
    };
    pub const LISTENING: Self = Self {
        listening: true,
        ..Self::ALIVE
    };
    pub const MESSAGE: Self = Self {
        message: true,
        ..Self::ALIVE
    };
    pub const NOTIFY: Self = Self {
        notify: true,
        ..Self::ALIVE
    };
    pub const PROBE: Self = Self {
        probe: true,
        ..Self::ALIVE
    };

    /// Whoever listens is ready, or may be taken for it in the first generation.
    pub(crate) const fn is_listening_enough(self) -> bool {
        !self.message && !self.notify && !self.probe
    }
}

/// How a booting worker is probed. The shell knows what is asked and what counts as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRule {
    /// Between two probes.
    pub interval: Duration,
    /// So many must pass in a row, at least 1.
    pub successes: u32,
}

/// How ready workers are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRule {
    /// They are probed again and again, with so long between; only with a probe.
    pub interval: Option<Duration>,
    /// So many failures in a row make a worker unhealthy, at least 1.
    pub failures: u32,
    /// A worker whose event loop has been blocked for so long is replaced.
    pub unresponsive: Option<Duration>,
}

/// A new generation gets a share of the connections before it gets all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// 1 to 99.
    pub percent: u8,
    pub lasts: Duration,
    /// By so many in a thousand answers its rate of errors may be above the old generation's.
    pub max_errors: u32,
}

impl Canary {
    /// What `max_errors` is if nothing is said: 1 %.
    pub const MAX_ERRORS: u32 = 10;
}

/// How many workers a reload, or a look after health, may have on top. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surge {
    /// Of the number of slots, rounded up.
    Percent(u8),
    Workers(u32),
}

impl Surge {
    pub(crate) fn resolve(self, slots: usize) -> usize {
        let workers = match self {
            Self::Percent(percent) => (slots * usize::from(percent)).div_ceil(100),
            Self::Workers(workers) => usize::try_from(workers).unwrap_or(slots),
        };
        workers.clamp(1, slots.max(1))
    }
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
            ready: ReadyRules::LISTENING,
            probe: ProbeRule {
                interval: Duration::from_millis(250),
                successes: 1,
            },
            ready_timeout: Duration::from_secs(30),
            min_uptime: Duration::from_secs(2),
            max_surge: Surge::Percent(100),
            canary: None,
            probation: Duration::ZERO,
            health: HealthRule {
                interval: None,
                failures: 3,
                unresponsive: None,
            },
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

portable_record!(Canary {
    percent,
    lasts,
    max_errors,
});
