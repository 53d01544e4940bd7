//! The keys that PM2 knows: other names they go by, and those without a counterpart, each with the reason.

use crate::config::written::key;

/// Keys without a counterpart, and why.
const WITHOUT: &[(&str, &str)] = &[
    ("append_env_to_name", "name the app with segue run --name"),
    ("automation", MONITORING),
    ("deep_monitoring", MONITORING),
    (
        "deploy",
        "deploy with what you like, then segue reload; for git push there is segue hook install",
    ),
    (
        "disable_logs",
        "nothing is thrown away: without log.out, output goes to segue's stdout and stderr",
    ),
    ("disable_trace", MONITORING),
    (
        "error_file",
        "both streams go to one log; each line says which worker wrote it",
    ),
    ("event_loop_inspector", MONITORING),
    ("execute_command", "write the command itself"),
    (
        "filter_env",
        "workers get the environment that segue run was started in",
    ),
    ("force", "an app runs as often as it is started"),
    ("gid", ANOTHER_USER),
    (
        "ignore_watch",
        "only names and paths with stars can be left out, watch = [\"!uploads\", \"!*.tmp\"]; node_modules, hidden directories and the log are never watched",
    ),
    (
        "increment_var",
        "all workers have the value of the first and share its port, which is all that a proxy needs; SEGUE_SLOT tells them apart",
    ),
    ("install_url", "install what the app needs by yourself"),
    ("instance_var", SLOT),
    ("io", MONITORING),
    (
        "kill_retry_time",
        "the end of a worker is an event: nothing is tried again",
    ),
    ("log_file", "there is one log for all: log.out"),
    ("merge_logs", "all workers write to one log"),
    (
        "min_uptime",
        "restart.intensity counts respawns within a time instead",
    ),
    ("name_prefix", "write it into the name"),
    ("namespace", "there are no groups of apps"),
    ("pid_file", "segue run --pid-file writes the main process's"),
    ("pmx", MONITORING),
    ("post_update", "run it before segue reload"),
    (
        "stop_exit_codes",
        "a worker that ends is respawned, whatever its exit code",
    ),
    ("trace", MONITORING),
    ("treekill", "what a worker has started always ends with it"),
    ("uid", ANOTHER_USER),
    ("user", ANOTHER_USER),
    ("username", "PM2 notes who started it; it changes nothing"),
    ("v8", MONITORING),
    ("vizion", "segue status reads the commit by itself"),
    (
        "watch_delay",
        "changes are gathered until they cease for 0.3 s",
    ),
    (
        "watch_options",
        "segue is told of changes by the kernel, and looks for none by itself",
    ),
    ("windows_hide", "there is no window to hide on Linux"),
    ("write", "it is a switch of PM2's command line"),
];

const ANOTHER_USER: &str = "another user for workers is not in this release yet";
const MONITORING: &str = "it belongs to PM2's monitoring";
const SLOT: &str = "workers tell themselves apart by SEGUE_SLOT or NODE_APP_INSTANCE";

/// Where a later release has a key of its own, it is translated; until then it is in the table above.
const BY_NAME: &[(&str, &str)] = &[
    ("cron_restart", "restart.at"),
    ("gid", "group"),
    ("uid", "user"),
    ("user", "user"),
];

/// Other names of keys: PM2's own, and those of its dump.
const ALIASES: &[(&str, &str)] = &[
    ("cmd", "script"),
    ("combine_logs", "merge_logs"),
    ("command", "script"),
    ("cron", "cron_restart"),
    ("err", "error_file"),
    ("err_file", "error_file"),
    ("err_log", "error_file"),
    ("error", "error_file"),
    ("exec", "script"),
    ("exec_interpreter", "interpreter"),
    ("interpreter_args", "node_args"),
    ("log", "log_file"),
    ("node_arguments", "node_args"),
    ("out", "out_file"),
    ("out_log", "out_file"),
    ("output", "out_file"),
    ("pid", "pid_file"),
    ("pm_cwd", "cwd"),
    ("pm_exec_path", "script"),
];

/// What runs a script by its extension, where nothing else is said; node runs all others.
const INTERPRETERS: &[(&str, &str)] = &[
    ("coffee", "coffee"),
    ("ls", "lsc"),
    ("php", "php"),
    ("pl", "perl"),
    ("py", "python3"),
    ("rb", "ruby"),
    ("sh", "bash"),
];

/// The one name of a key: PM2 takes every one in camelCase, too.
pub(crate) fn name_of(written: &str) -> String {
    if written.starts_with("env_") {
        return written.to_owned();
    }
    let mut name = String::new();
    for letter in written.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    match ALIASES.iter().find(|(other, _)| *other == name) {
        Some((_, known)) => (*known).to_owned(),
        None => name,
    }
}

/// Why nothing becomes of a key.
pub(super) fn reason(name: &str) -> &'static str {
    let known = WITHOUT.iter().find(|(key, _)| *key == name);
    known.map_or("segue has no counterpart", |(_, reason)| reason)
}

/// Whether a key is known to have no counterpart.
pub(super) fn is_without(name: &str) -> bool {
    WITHOUT.iter().any(|(key, _)| *key == name)
}

/// The key of ours with the same meaning, if this release has it.
pub(super) fn counterpart(name: &str) -> Option<&'static str> {
    let (_, ours) = BY_NAME.iter().find(|(theirs, _)| *theirs == name)?;
    key(ours).map(|key| key.name)
}

pub(super) fn interpreter(extension: &str) -> &'static str {
    let known = INTERPRETERS.iter().find(|(known, _)| *known == extension);
    known.map_or("node", |(_, interpreter)| interpreter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (written, name) in [
            ("maxMemoryRestart", "max_memory_restart"),
            ("appendEnvToName", "append_env_to_name"),
            ("interpreterArgs", "node_args"),
            ("out", "out_file"),
            ("env_myStage", "env_myStage"),
            ("windowsHide", "windows_hide"),
            ("script", "script"),
        ] {
            assert_eq!(name_of(written), name, "{written}");
        }
    }
}
