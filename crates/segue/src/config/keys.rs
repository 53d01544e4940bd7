//! The table of settings: the key, flag, unit, default and meaning of each. Command-line flags are made
//! from it, so no key can lack its flag.

use super::settings::AppSettings;
use super::values::{
    count, distribution, give_up, intensity, name, path, positive, size, text, unresponsive,
    variable, workers,
};
use super::{confine, drain, log, probe, quantity, schedule};

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
        "user",
        "user",
        "NAME|UID",
        None,
        |s, t| put(&mut s.confinement.user, confine::account(t).map(Some)),
        "Run workers as this user, with its groups and its HOME; only where segue itself is root",
    ),
    key(
        "group",
        "group",
        "NAME|GID",
        None,
        |s, t| put(&mut s.confinement.group, confine::account(t).map(Some)),
        "Run workers in this group [default: the user's]",
    ),
    repeated(
        "listen",
        "listen",
        "PORT|HOST:PORT|PATH",
        |s, t| push(&mut s.confinement.listen, confine::listen(t)),
        "Workers may listen here and nowhere else, and are ready when they do; repeatable [default: wherever they want]",
    ),
    key(
        "no_new_privs",
        "no-new-privs",
        "on|off",
        Some("on"),
        |s, t| put(&mut s.confinement.no_new_privs, drain::switch(t)),
        "Neither workers nor what they start gain rights by set-user-ID programs (sudo, ping) or file capabilities",
    ),
    key(
        "distribution",
        "distribution",
        "spread|shared",
        Some("spread"),
        |s, t| put(&mut s.distribution, distribution(t)),
        "spread: a queue for each worker; shared: one queue, the idle worker takes the next (CPU-heavy handlers)",
    ),
    Key {
        default: Some("off"),
        ..repeated(
            "watch",
            "watch",
            "on|off|PATH|!PATTERN",
            |s, t| s.watch.add(t),
            "Reload by itself when files below the working directory change: all, or those of a PATH there, but not those of a !PATTERN: a name, or a path, with *; repeatable",
        )
    },
    Key {
        default: Some("listening"),
        ..repeated(
            "reload.ready",
            "ready",
            "listening|alive|message|notify|http=/PATH",
            |s, t| push(&mut s.ready, probe::ready(t)),
            "When a worker is ready: it listens; it runs (for apps without a port); it said process.send('ready'); it sent READY=1 to NOTIFY_SOCKET; it answers a GET of that path. Repeatable: all must hold",
        )
    },
    key(
        "reload.probe.status",
        "probe-status",
        "CODES",
        Some("2xx"),
        |s, t| put(&mut s.probe.status, probe::statuses(t)),
        "Which answers to the HTTP probe are good: 200, 2xx, 200-399, or several with commas",
    ),
    key(
        "reload.probe.timeout",
        "probe-timeout",
        "DURATION",
        Some("5s"),
        |s, t| put(&mut s.probe.timeout, positive(t)),
        "How long one HTTP probe may take, from the connection to the end of the answer",
    ),
    key(
        "reload.probe.interval",
        "probe-interval",
        "DURATION",
        Some("250ms"),
        |s, t| put(&mut s.probe.interval, positive(t)),
        "While a worker starts: between two HTTP probes",
    ),
    key(
        "reload.probe.successes",
        "probe-successes",
        "N",
        Some("1"),
        |s, t| put(&mut s.probe.successes, count(t)),
        "So many HTTP probes in a row must be answered well before a worker is ready",
    ),
    repeated(
        "reload.probe.headers",
        "probe-header",
        "NAME:VALUE",
        |s, t| push(&mut s.probe.headers, probe::header(t)),
        "Send this header with the HTTP probe; repeatable",
    ),
    key(
        "reload.probe.host",
        "probe-host",
        "HOST",
        None,
        |s, t| put(&mut s.probe.host, probe::host(t).map(Some)),
        "The Host header of the HTTP probe, and the name it asks a TLS server for [default: where it connects]",
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
        "reload.max_surge",
        "max-surge",
        "P%|N",
        Some("100%"),
        |s, t| put(&mut s.max_surge, probe::surge(t)),
        "So many new workers at once beside the old ones, at least one; below 100% old ones leave as new ones come",
    ),
    key(
        "reload.canary",
        "canary",
        "P%:DURATION[:P%]",
        None,
        |s, t| put(&mut s.canary, probe::canary(t).map(Some)),
        "In a reload: that share of new connections goes to the new release first, for so long; given up if its rate of errors is above the old one's by the last share [default: 1%]",
    ),
    key(
        "reload.probation",
        "probation",
        "DURATION",
        Some("0s"),
        |s, t| put(&mut s.probation, quantity::duration(t)),
        "In a reload: how long after the flip the old workers are kept, to take over again at once if a new one fails",
    ),
    key(
        "health.interval",
        "health-interval",
        "DURATION",
        None,
        |s, t| put(&mut s.health.interval, positive(t).map(Some)),
        "Repeat the HTTP probe of --ready at each ready worker so often",
    ),
    key(
        "health.failures",
        "health-failures",
        "N",
        Some("3"),
        |s, t| put(&mut s.health.failures, count(t)),
        "A worker that fails so many of these in a row is replaced first, then drained",
    ),
    key(
        "health.unresponsive",
        "unresponsive",
        "DURATION",
        None,
        |s, t| put(&mut s.health.unresponsive, unresponsive(t).map(Some)),
        "A worker whose event loop is blocked gets no new connection from 1s on; after this long it is replaced",
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
        "How long open requests may take to finish in a reload or a scale-down",
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
        "limits.memory_high",
        "memory-high",
        "SIZE",
        None,
        |s, t| put(&mut s.memory_high, size(t).map(Some)),
        "The kernel slows a worker and its helpers down above this and takes memory back from them (memory.high); needs a cgroup of version 2 that segue may write to",
    ),
    key(
        "limits.memory_max",
        "memory-max",
        "SIZE",
        None,
        |s, t| put(&mut s.memory_max, size(t).map(Some)),
        "The kernel kills a worker, or a helper of it, that needs more memory than this (memory.max); needs the same",
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
        "limits.nofile",
        "nofile",
        "N",
        None,
        |s, t| put(&mut s.confinement.nofile, confine::nofile(t).map(Some)),
        "A worker may have so many open files and connections [default: what segue was started with]",
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
        "How long open requests may take to finish when the app stops",
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
        "FILE|stdout|journald",
        None,
        |s, t| put(&mut s.log, path(t).map(Some)),
        "Append what workers print to this file instead of stdout and stderr; USR1 opens it anew, for rotation by others. journald: systemd's journal, with the app's name",
    ),
    key(
        "log.format",
        "log-format",
        "text|json",
        Some("text"),
        |s, t| put(&mut s.log_settings.format, log::format(t)),
        "The form of workers' lines; json is an object a line with time, app, worker, slot, generation, stream and the line",
    ),
    key(
        "log.time",
        "log-time",
        "on|off",
        Some("off"),
        |s, t| put(&mut s.log_settings.time, log::on_off(t)),
        "Begin workers' lines with the time (UTC); json always tells it",
    ),
    key(
        "log.rotate.size",
        "log-rotate-size",
        "SIZE|off",
        Some("50MiB"),
        |s, t| put(&mut s.log_settings.rotation.size, log::limit(t)),
        "Rotate the log file before it is larger than this: FILE.1 is the newest old one, the others are compressed",
    ),
    key(
        "log.rotate.age",
        "log-rotate-age",
        "DURATION|off",
        Some("off"),
        |s, t| put(&mut s.log_settings.rotation.age, log::age(t)),
        "Rotate it too when its first line is older than this",
    ),
    key(
        "log.rotate.keep",
        "log-rotate-keep",
        "N",
        Some("10"),
        |s, t| put(&mut s.log_settings.rotation.keep, count(t)),
        "Keep so many rotated log files; older ones are removed",
    ),
    key(
        "log.rotate.total",
        "log-rotate-total",
        "SIZE|off",
        Some("1GiB"),
        |s, t| put(&mut s.log_settings.rotation.total, log::limit(t)),
        "Remove the oldest rotated ones where all log files of the app together are larger than this",
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
        "The longest wait before a respawn",
    ),
    key(
        "restart.intensity",
        "intensity",
        "N/DURATION",
        Some("10/1m"),
        |s, t| put(&mut s.intensity, intensity(t)),
        "A worker that needs more respawns than N in that time is given up until the next reload or restart",
    ),
    key(
        "restart.give_up",
        "give-up",
        "stay|exit",
        Some("stay"),
        |s, t| put(&mut s.give_up, give_up(t)),
        "When every worker has been given up: stay and refuse connections, or exit",
    ),
    key(
        "restart.at",
        "restart-at",
        "CRON",
        None,
        |s, t| put(&mut s.restart_at, schedule::schedule(t).map(Some)),
        "Reload by itself at such times, by the local clock: minute, hour, day, month and weekday as cron has them, \"0 4 * * *\"",
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
