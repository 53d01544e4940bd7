//! The settings of one app: one structure, and one table with the key, flag, unit, default and
//! meaning of each. Command-line flags are made from the table, so no key can lack its flag.
//!
//! It reads no file, environment or clock; paths are kept as written and resolved elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use segue_core::{Distribution, GiveUp, Intensity, MAX_WORKERS, ReadyRules, Settings};

use super::drain::{self, DrainSettings};
use super::quantity;

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
    pub(crate) ready: ReadyRules,
    pub(crate) ready_timeout: Duration,
    pub(crate) min_uptime: Duration,
    pub(crate) settle: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) drain_generations: u32,
    /// Bytes of resident memory.
    pub(crate) max_memory: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) stop_timeout: Duration,
    pub(crate) stop_delay: Duration,
    pub(crate) kill_after: Duration,
    pub(crate) drain: DrainSettings,
    /// Where workers' output goes instead of our stdout and stderr.
    pub(crate) log: Option<PathBuf>,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) intensity: Intensity,
    pub(crate) give_up: GiveUp,
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

/// One line of the table.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    /// Where it stands within `[app.NAME]` of the file.
    pub(crate) name: &'static str,
    pub(crate) flag: &'static str,
    pub(crate) short: Option<char>,
    /// What kind of value it takes, with its unit.
    pub(crate) value: &'static str,
    /// As a user would write it; `None` where leaving it out has a meaning of its own.
    pub(crate) default: Option<&'static str>,
    pub(crate) doc: &'static str,
    /// May be given several times.
    pub(crate) repeats: bool,
    set: fn(&mut AppSettings, &str) -> Result<(), String>,
}

/// Every key, in the order of `--help`.
pub(crate) const KEYS: &[Key] = &[
    Key {
        short: Some('w'),
        ..key(
            "workers",
            "workers",
            "N|auto|P%",
            Some("auto"),
            |s, t| put(&mut s.workers, workers(t)),
            "Number of workers; auto is one for each CPU this process may use (affinity and cgroup quota), 50% half of that",
        )
    },
    key(
        "name",
        "name",
        "NAME",
        None,
        |s, t| put(&mut s.name, name(t).map(Some)),
        "Name of the app, and of its control socket [default: the name in package.json, else the script's]",
    ),
    repeated(
        "env",
        "env",
        "KEY=VALUE",
        |s, t| push(&mut s.env, variable(t)),
        "Set a variable in the app's environment; repeatable",
    ),
    repeated(
        "env_file",
        "env-file",
        "FILE",
        |s, t| push(&mut s.env_files, path(t)),
        "Read variables from a .env file, again at each reload; repeatable",
    ),
    key(
        "cwd",
        "cwd",
        "DIR",
        None,
        |s, t| put(&mut s.cwd, path(t).map(Some)),
        "Working directory; a symlink is followed again at each reload [default: the current directory]",
    ),
    key(
        "node",
        "node",
        "PATH",
        Some("node"),
        |s, t| put(&mut s.node, text(t)),
        "The node to run scripts with: a path, or a name looked up in PATH",
    ),
    repeated(
        "node_args",
        "node-arg",
        "ARG",
        |s, t| push(&mut s.node_args, text(t)),
        "Give node itself an argument, such as --node-arg=--enable-source-maps; repeatable",
    ),
    key(
        "distribution",
        "distribution",
        "spread|shared",
        Some("spread"),
        |s, t| put(&mut s.distribution, distribution(t)),
        "spread: a queue for each worker; shared: one queue, the idle worker takes the next (CPU-heavy handlers)",
    ),
    key(
        "reload.ready",
        "ready",
        "listening|message|alive",
        Some("listening"),
        |s, t| put(&mut s.ready, ready(t)),
        "When a worker is ready: it listens; it said process.send('ready'); it runs (for apps without a port)",
    ),
    key(
        "reload.ready_timeout",
        "ready-timeout",
        "DURATION",
        Some("30s"),
        |s, t| put(&mut s.ready_timeout, positive(t)),
        "A worker that is not ready after this has failed",
    ),
    key(
        "reload.min_uptime",
        "min-uptime",
        "DURATION",
        Some("2s"),
        |s, t| put(&mut s.min_uptime, quantity::duration(t)),
        "In a reload: how long new workers must live, ready but without traffic, before they get it",
    ),
    key(
        "drain.settle",
        "settle",
        "DURATION",
        Some("1s"),
        |s, t| put(&mut s.settle, quantity::duration(t)),
        "A worker that is to leave goes on accepting at least so long, for connections already on their way",
    ),
    key(
        "drain.timeout",
        "drain-timeout",
        "DURATION",
        Some("5m"),
        |s, t| put(&mut s.drain_timeout, quantity::duration(t)),
        "How long old connections may take to finish in a reload or a scale-down",
    ),
    key(
        "drain.generations",
        "drain-generations",
        "N",
        Some("3"),
        |s, t| put(&mut s.drain_generations, count(t)),
        "So many old generations may drain at once; beyond it the oldest is ended",
    ),
    key(
        "limits.memory",
        "memory",
        "SIZE",
        None,
        |s, t| put(&mut s.max_memory, size(t).map(Some)),
        "A worker that uses more resident memory than this is replaced first, then drained: 512MiB, 2GiB",
    ),
    key(
        "limits.max_age",
        "max-age",
        "DURATION",
        None,
        |s, t| put(&mut s.max_age, positive(t).map(Some)),
        "A worker that has served for so long is replaced first, then drained",
    ),
    key(
        "stop.delay",
        "stop-delay",
        "DURATION",
        Some("0s"),
        |s, t| put(&mut s.stop_delay, quantity::duration(t)),
        "Go on serving so long after a stop was asked for, for load balancers that are slow to notice",
    ),
    key(
        "stop.timeout",
        "stop-timeout",
        "DURATION",
        Some("25s"),
        |s, t| put(&mut s.stop_timeout, quantity::duration(t)),
        "The same when the app stops",
    ),
    key(
        "drain.kill_after",
        "kill-after",
        "DURATION",
        Some("5s"),
        |s, t| put(&mut s.kill_after, quantity::duration(t)),
        "Between SIGTERM and SIGKILL",
    ),
    key(
        "drain.preload",
        "preload",
        "on|off",
        Some("on"),
        |s, t| put(&mut s.drain.preload, drain::switch(t)),
        "Put the script into node workers that lets them drain without losing a connection",
    ),
    key(
        "drain.idle",
        "drain-idle",
        "migrate|close",
        Some("migrate"),
        |s, t| put(&mut s.drain.idle, drain::idle(t)),
        "Idle keep-alive connections of a leaving worker: handed to another one, or closed after an announced last response",
    ),
    key(
        "drain.stall",
        "drain-stall",
        "DURATION",
        Some("30s"),
        |s, t| put(&mut s.drain.stall, positive(t)),
        "A transfer of a leaving worker that moves no byte for so long is given up",
    ),
    key(
        "drain.websocket.close_after",
        "websocket-close-after",
        "DURATION",
        Some("30s"),
        |s, t| put(&mut s.drain.websocket_after, quantity::duration(t)),
        "WebSockets of a leaving worker are closed at random times within this",
    ),
    key(
        "drain.websocket.code",
        "websocket-code",
        "CODE",
        Some("1012"),
        |s, t| put(&mut s.drain.websocket_code, drain::close_code(t)),
        "The code in the close frame they get; 1012 is `service restart`",
    ),
    key(
        "stop.request",
        "stop-request",
        "SIGTERM|SIGINT|message:TEXT",
        Some("SIGTERM"),
        |s, t| put(&mut s.drain.request, drain::stop_request(t)),
        "How a worker is told to end once it has drained; with message:shutdown the app hears 'shutdown' in process.on('message')",
    ),
    key(
        "log.out",
        "log",
        "FILE",
        None,
        |s, t| put(&mut s.log, path(t).map(Some)),
        "Append what workers print to this file instead of stdout and stderr; USR1 opens it anew, for rotation",
    ),
    key(
        "restart.backoff.min",
        "backoff-min",
        "DURATION",
        Some("100ms"),
        |s, t| put(&mut s.backoff_min, quantity::duration(t)),
        "Wait before a worker's second respawn in a row; it doubles each time (the first is at once)",
    ),
    key(
        "restart.backoff.max",
        "backoff-max",
        "DURATION",
        Some("30s"),
        |s, t| put(&mut s.backoff_max, positive(t)),
        "Longest wait before a respawn",
    ),
    key(
        "restart.intensity",
        "intensity",
        "N/DURATION",
        Some("10/1m"),
        |s, t| put(&mut s.intensity, intensity(t)),
        "A worker that needs more respawns than N in that time is given up until the next reload",
    ),
    key(
        "restart.give_up",
        "give-up",
        "stay|exit",
        Some("stay"),
        |s, t| put(&mut s.give_up, give_up(t)),
        "When every worker has been given up: stay and refuse connections, or exit",
    ),
];

impl Key {
    /// Takes a value as written.
    ///
    /// # Errors
    /// What is wrong with it; a fragment that follows the value.
    pub(crate) fn set(&self, settings: &mut AppSettings, value: &str) -> Result<(), String> {
        (self.set)(settings, value)
    }

    /// Says whether a value would do.
    ///
    /// # Errors
    /// As [`Key::set`].
    pub(crate) fn check(&self, value: &str) -> Result<(), String> {
        self.set(&mut AppSettings::default(), value)
    }
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
            ready: core.ready,
            ready_timeout: core.ready_timeout,
            min_uptime: core.min_uptime,
            settle: core.settle,
            drain_timeout: core.drain_timeout,
            drain_generations: core.drain_generations,
            max_memory: None,
            max_age: core.max_age,
            stop_timeout: core.stop_timeout,
            stop_delay: core.stop_delay,
            kill_after: core.kill_after,
            drain: DrainSettings::default(),
            log: None,
            backoff_min: core.backoff_min,
            backoff_max: core.backoff_max,
            intensity: core.intensity,
            give_up: core.give_up,
        }
    }
}

impl AppSettings {
    /// Refuses combinations that cannot be meant.
    ///
    /// # Errors
    /// Which keys are at odds, and what to write.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.backoff_min > self.backoff_max {
            return Err(format!(
                "backoff-min ({}) is longer than backoff-max ({}); swap them, or lower backoff-min",
                quantity::human(self.backoff_min),
                quantity::human(self.backoff_max),
            ));
        }
        Ok(())
    }

    /// What the core must know. `cpus` is how many this process may use.
    pub(crate) fn core(&self, cpus: u32) -> Settings {
        Settings {
            workers: self.workers.count(cpus),
            ready: self.ready,
            ready_timeout: self.ready_timeout,
            min_uptime: self.min_uptime,
            // issue5: shell: probe, max_surge, canary, probation, health.
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
            ..Settings::default()
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

type Set = fn(&mut AppSettings, &str) -> Result<(), String>;

const fn key(
    name: &'static str,
    flag: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    set: Set,
    doc: &'static str,
) -> Key {
    Key {
        name,
        flag,
        short: None,
        value,
        default,
        doc,
        repeats: false,
        set,
    }
}

const fn repeated(
    name: &'static str,
    flag: &'static str,
    value: &'static str,
    set: Set,
    doc: &'static str,
) -> Key {
    Key {
        repeats: true,
        ..key(name, flag, value, None, set, doc)
    }
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn push<T>(list: &mut Vec<T>, value: Result<T, String>) -> Result<(), String> {
    list.push(value?);
    Ok(())
}

fn workers(text: &str) -> Result<Workers, String> {
    let usage = || format!("write a number from 1 to {MAX_WORKERS}, auto, or a share such as 50%");
    if text == "auto" {
        return Ok(Workers::Auto);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent
            .parse()
            .ok()
            .filter(|percent| (1..=1000).contains(percent));
        return percent.map(Workers::Percent).ok_or_else(usage);
    }
    let count = text
        .parse()
        .ok()
        .filter(|count| (1..=MAX_WORKERS).contains(count));
    count.map(Workers::Count).ok_or_else(usage)
}

fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 64 || text.starts_with(['.', '-']) || !text.chars().all(fits)
    {
        return Err("a name is 1 to 64 letters, digits, '-', '_' or '.', and begins with none of '-' and '.'".to_owned());
    }
    Ok(text.to_owned())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("there is no '='; write KEY=VALUE")?;
    if key.is_empty() || text.contains('\0') {
        return Err("the variable has no name; write KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("the value is empty".to_owned());
    }
    Ok(text.to_owned())
}

fn path(value: &str) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

fn distribution(text: &str) -> Result<Distribution, String> {
    match text {
        "spread" => Ok(Distribution::Spread),
        "shared" => Ok(Distribution::Shared),
        _ => Err("write spread or shared".to_owned()),
    }
}

fn ready(text: &str) -> Result<ReadyRules, String> {
    match text {
        "listening" => Ok(ReadyRules::LISTENING),
        "message" => Ok(ReadyRules::MESSAGE),
        "alive" => Ok(ReadyRules::ALIVE),
        _ => Err("write listening, message or alive".to_owned()),
    }
}

fn count(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=100).contains(count))
        .ok_or_else(|| "write a number from 1 to 100".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let usage = || "write a size with its unit, such as 512MiB or 2GiB".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(usage)?);
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(usage()),
    };
    let number: u64 = number.parse().map_err(|_| usage())?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
        .ok_or_else(usage)
}

fn positive(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

fn intensity(text: &str) -> Result<Intensity, String> {
    let usage = "write a number and a duration, such as 10/1m";
    let (restarts, within) = text.split_once('/').ok_or(usage)?;
    let restarts = restarts.trim().parse().map_err(|_| usage)?;
    let within = positive(within)?;
    Ok(Intensity { restarts, within })
}

fn give_up(text: &str) -> Result<GiveUp, String> {
    match text {
        "stay" => Ok(GiveUp::Stay),
        "exit" => Ok(GiveUp::Exit),
        _ => Err("write stay or exit".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(written, AppSettings::default());
        assert_eq!(written.core(2), Settings::default());
        assert_eq!(written.check(), Ok(()));
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
        assert_eq!(set("ready", "message").unwrap().ready, ReadyRules::MESSAGE);
        assert_eq!(set("give-up", "exit").unwrap().give_up, GiveUp::Exit);
        let env = set("env", "A=b=c").unwrap().env;
        assert_eq!(env, [("A".to_owned(), "b=c".to_owned())]);
        for (flag, value) in [
            ("intensity", "10"),
            ("intensity", "10/0s"),
            ("intensity", "x/1m"),
            ("ready", "soon"),
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
                .contains("backoff-min (1 min)")
        );
    }
}
