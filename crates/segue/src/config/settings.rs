//! The settings of one app: one structure, which the table of keys fills.
//!
//! It reads no file, environment or clock; paths are kept as written and resolved elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use segue_core::{
    Canary, Distribution, GiveUp, HealthRule, Intensity, MAX_WORKERS, ProbeRule, Settings, Surge,
};

use super::confine::Confinement;
use super::drain::DrainSettings;
use super::log::LogSettings;
use super::probe::{self, ProbeSettings, ReadyWord};
use super::quantity;
use super::schedule::Schedule;
use super::watch::Watch;

/// What a user can say about one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppSettings {
    pub(crate) name: Option<String>,
    pub(crate) workers: Workers,
    /// In the order given; a later one of the same name wins.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) env_files: Vec<PathBuf>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) node: String,
    pub(crate) node_args: Vec<String>,
    pub(crate) distribution: Distribution,
    /// All that are given must hold; none stands for `listening`.
    pub(crate) ready: Vec<ReadyWord>,
    pub(crate) probe: ProbeSettings,
    pub(crate) ready_timeout: Duration,
    pub(crate) min_uptime: Duration,
    pub(crate) max_surge: Surge,
    pub(crate) canary: Option<Canary>,
    pub(crate) probation: Duration,
    pub(crate) health: HealthRule,
    pub(crate) settle: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) drain_generations: u32,
    /// Bytes of resident memory.
    pub(crate) max_memory: Option<u64>,
    /// Bytes that the kernel lets a worker and its helpers have: above the first it takes them back, above
    /// the second it kills.
    pub(crate) memory_high: Option<u64>,
    pub(crate) memory_max: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) confinement: Confinement,
    pub(crate) stop_timeout: Duration,
    pub(crate) stop_delay: Duration,
    pub(crate) kill_after: Duration,
    pub(crate) drain: DrainSettings,
    /// Where workers' output goes instead of our stdout and stderr.
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_settings: LogSettings,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) intensity: Intensity,
    pub(crate) give_up: GiveUp,
    /// Whose change brings a reload.
    pub(crate) watch: Watch,
    /// When there is a reload besides.
    pub(crate) restart_at: Option<Schedule>,
}

/// Settings that are good one by one and cannot be meant together; as text, in the words of flags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Odd {
    #[error(
        "backoff-min ({min}) is longer than backoff-max ({max}); swap them, or lower backoff-min"
    )]
    Backoff { min: String, max: String },
    #[error("health-interval needs a probe to repeat; add --ready http=/PATH")]
    NoProbe,
    #[error("there is one HTTP probe; give --ready http=/PATH once")]
    SeveralProbes,
    #[error(
        "log-rotate-size is larger than log-rotate-total; one file would be too much: raise log-rotate-total, or lower log-rotate-size"
    )]
    Rotation,
    #[error(
        "{lower} is not below {upper}; a worker would never get from the one to the other: lower {lower}, or raise {upper}"
    )]
    Memory {
        key: &'static str,
        lower: &'static str,
        upper: &'static str,
    },
}

/// How many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// One for each CPU that the process may use.
    Auto,
    Count(u32),
    /// That share of the CPUs, rounded up.
    Percent(u32),
}

impl Default for AppSettings {
    fn default() -> Self {
        let core = Settings::default();
        Self {
            name: None,
            workers: Workers::Auto,
            env: Vec::new(),
            env_files: Vec::new(),
            cwd: None,
            node: "node".to_owned(),
            node_args: Vec::new(),
            distribution: core.distribution,
            ready: Vec::new(),
            probe: ProbeSettings::default(),
            ready_timeout: core.ready_timeout,
            min_uptime: core.min_uptime,
            max_surge: core.max_surge,
            canary: core.canary,
            probation: core.probation,
            health: core.health,
            settle: core.settle,
            drain_timeout: core.drain_timeout,
            drain_generations: core.drain_generations,
            max_memory: None,
            memory_high: None,
            memory_max: None,
            max_age: core.max_age,
            confinement: Confinement::default(),
            stop_timeout: core.stop_timeout,
            stop_delay: core.stop_delay,
            kill_after: core.kill_after,
            drain: DrainSettings::default(),
            log: None,
            log_settings: LogSettings::default(),
            backoff_min: core.backoff_min,
            backoff_max: core.backoff_max,
            intensity: core.intensity,
            give_up: core.give_up,
            watch: Watch::default(),
            restart_at: None,
        }
    }
}

impl AppSettings {
    /// Refuses combinations that cannot be meant.
    ///
    /// # Errors
    /// Which keys are at odds.
    pub(crate) fn check(&self) -> Result<(), Odd> {
        self.log_settings.rotation.check()?;
        let limits = [
            ("limits.memory", "memory", self.max_memory),
            ("limits.memory_high", "memory-high", self.memory_high),
            ("limits.memory_max", "memory-max", self.memory_max),
        ];
        let limits = limits.map(|(key, flag, limit)| Some((key, flag, limit?)));
        let given: Vec<_> = limits.into_iter().flatten().collect();
        for pair in given.windows(2) {
            if let [(key, lower, low), (_, upper, high)] = pair
                && low >= high
            {
                return Err(Odd::Memory { key, lower, upper });
            }
        }
        if self.backoff_min > self.backoff_max {
            return Err(Odd::Backoff {
                min: quantity::human(self.backoff_min),
                max: quantity::human(self.backoff_max),
            });
        }
        let paths = self.ready.iter().filter_map(|word| match word {
            ReadyWord::Http(path) => Some(path),
            ReadyWord::Listening | ReadyWord::Alive | ReadyWord::Message | ReadyWord::Notify => {
                None
            }
        });
        match (paths.count(), self.health.interval) {
            (0, Some(_)) => Err(Odd::NoProbe),
            (2.., _) => Err(Odd::SeveralProbes),
            _ => Ok(()),
        }
    }

    /// The path of the HTTP probe, if there is one.
    pub(crate) fn probe_path(&self) -> Option<&str> {
        self.ready.iter().find_map(|word| match word {
            ReadyWord::Http(path) => Some(path.as_str()),
            ReadyWord::Listening | ReadyWord::Alive | ReadyWord::Message | ReadyWord::Notify => {
                None
            }
        })
    }

    /// What the core must know. `cpus` is how many this process may use.
    pub(crate) fn core(&self, cpus: u32) -> Settings {
        Settings {
            workers: self.workers.count(cpus),
            ready: probe::rules(&self.ready),
            probe: ProbeRule {
                interval: self.probe.interval,
                successes: self.probe.successes,
            },
            ready_timeout: self.ready_timeout,
            min_uptime: self.min_uptime,
            max_surge: self.max_surge,
            canary: self.canary,
            probation: self.probation,
            health: self.health,
            distribution: self.distribution,
            settle: self.settle,
            drain_timeout: self.drain_timeout,
            drain_generations: self.drain_generations,
            max_age: self.max_age,
            stop_timeout: self.stop_timeout,
            stop_delay: self.stop_delay,
            kill_after: self.kill_after,
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
            intensity: self.intensity,
            give_up: self.give_up,
        }
    }
}

impl Odd {
    /// The key that is most likely wrong.
    pub(crate) const fn key(&self) -> &'static str {
        match self {
            Self::Backoff { .. } => "restart.backoff.min",
            Self::NoProbe => "health.interval",
            Self::SeveralProbes => "reload.ready",
            Self::Rotation => "log.rotate.size",
            Self::Memory { key, .. } => key,
        }
    }
}

impl Workers {
    /// The number for so many CPUs: at least 1, at most [`MAX_WORKERS`].
    pub(crate) fn count(self, cpus: u32) -> u32 {
        let count = match self {
            Self::Auto => cpus,
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let share = u64::from(cpus) * u64::from(percent);
                u32::try_from(share.div_ceil(100)).unwrap_or(u32::MAX)
            }
        };
        count.clamp(1, MAX_WORKERS)
    }
}

#[cfg(test)]
mod tests {
    use segue_core::ReadyRules;

    use super::*;
    use crate::config::keys::KEYS;

    fn set(flag: &str, value: &str) -> Result<AppSettings, String> {
        let key = KEYS.iter().find(|key| key.flag == flag).unwrap();
        let mut settings = AppSettings::default();
        key.set(&mut settings, value).map(|()| settings)
    }

    #[test]
    fn written_defaults_are_the_defaults() {
        let mut written = AppSettings::default();
        for key in KEYS {
            if let Some(default) = key.default {
                key.set(&mut written, default).unwrap();
            }
        }
        // The one that repeats: none is the same as the one that is written.
        assert_eq!(written.ready, [ReadyWord::Listening]);
        assert_eq!(written.core(2).ready, AppSettings::default().core(2).ready);
        written.ready.clear();
        assert_eq!(written, AppSettings::default());
        assert_eq!(written.core(2), Settings::default());
        assert_eq!(written.check(), Ok(()));
    }

    #[test]
    fn limits_of_memory_come_one_after_the_other() {
        for (memory, high, max, expected) in [
            (Some(1), Some(2), Some(3), None),
            (Some(1), None, Some(3), None),
            (None, None, Some(3), None),
            (Some(2), Some(2), None, Some(("memory", "memory-high"))),
            (Some(3), None, Some(2), Some(("memory", "memory-max"))),
            (None, Some(3), Some(2), Some(("memory-high", "memory-max"))),
        ] {
            let settings = AppSettings {
                max_memory: memory,
                memory_high: high,
                memory_max: max,
                ..AppSettings::default()
            };
            let found = settings.check().err();
            let found = found.map(|odd| match odd {
                Odd::Memory { lower, upper, .. } => (lower, upper),
                other => panic!("{other}"),
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn keys_and_flags_are_unique() {
        for (index, key) in KEYS.iter().enumerate() {
            for other in &KEYS[index + 1..] {
                assert_ne!(key.name, other.name);
                assert_ne!(key.flag, other.flag);
            }
        }
    }

    #[test]
    fn worker_counts() {
        for (text, cpus, expected) in [
            ("auto", 8, 8),
            ("auto", 0, 1),
            ("3", 8, 3),
            ("50%", 8, 4),
            ("50%", 3, 2),
            ("1%", 4, 1),
            ("200%", 4, 8),
            ("1000%", 4000, MAX_WORKERS),
        ] {
            let settings = set("workers", text).unwrap();
            assert_eq!(settings.workers.count(cpus), expected, "{text} of {cpus}");
        }
        for text in ["", "0", "-1", "0%", "%", "1025", "Auto", "2.5"] {
            assert!(set("workers", text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_other_values() {
        let settings = set("intensity", "3/90s").unwrap();
        let within = Duration::from_secs(90);
        assert_eq!(
            settings.intensity,
            Intensity {
                restarts: 3,
                within
            }
        );
        assert_eq!(
            set("unresponsive", "10s").unwrap().health.unresponsive,
            Some(Duration::from_secs(10))
        );
        let rules = |flags: &[&str]| {
            let mut settings = AppSettings::default();
            for flag in flags {
                settings.ready.push(probe::ready(flag).unwrap());
            }
            settings.core(2).ready
        };
        assert_eq!(rules(&["message"]), ReadyRules::MESSAGE);
        assert_eq!(rules(&["alive"]), ReadyRules::ALIVE);
        assert_eq!(
            rules(&["http=/", "notify"]),
            ReadyRules {
                notify: true,
                ..ReadyRules::PROBE
            }
        );
        assert_eq!(set("give-up", "exit").unwrap().give_up, GiveUp::Exit);
        let env = set("env", "A=b=c").unwrap().env;
        assert_eq!(env, [("A".to_owned(), "b=c".to_owned())]);
        for (flag, value) in [
            ("intensity", "10"),
            ("intensity", "10/0s"),
            ("intensity", "x/1m"),
            ("ready", "soon"),
            ("unresponsive", "1s"),
            ("ready-timeout", "0s"),
            ("env", "A"),
            ("env", "=b"),
            ("name", "../web"),
            ("name", "a b"),
            ("node", ""),
        ] {
            assert!(set(flag, value).is_err(), "{flag} {value}");
        }
    }

    #[test]
    fn odd_combinations_are_refused() {
        let settings = set("backoff-min", "1m").unwrap();
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("backoff-min (1 min)")
        );
        let mut settings = set("health-interval", "10s").unwrap();
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("--ready http=")
        );
        settings.ready.push(ReadyWord::Http("/a".into()));
        assert_eq!(
            (settings.check(), settings.probe_path()),
            (Ok(()), Some("/a"))
        );
        settings.ready.push(ReadyWord::Http("/b".into()));
        assert!(settings.check().is_err());
    }
}
