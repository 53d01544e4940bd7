//! The keys of a file beside the table of settings: how each is written in TOML, which ones a later
//! release will know, and what somebody may have meant.

use super::super::keys::KEYS;

/// How the value of a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    /// A whole number, or a text that is one.
    Number,
    /// A number, or a text with a unit or a word.
    Amount,
    /// `true`, `false`, `"on"`, `"off"`.
    Switch,
    /// The same, a text, or several.
    Watch,
    /// A text or several.
    Texts,
    /// `{ NAME = "value" }`.
    Variables,
    /// `{ Name = "value" }`, or texts as in a request.
    Headers,
    Ready,
    Canary,
    Intensity,
    Request,
}

/// The app's own keys that are no settings.
pub(super) const COMMAND: &str = "command";
pub(super) const ARGS: &str = "args";

/// Those of `[supervisor]`.
pub(super) const SUPERVISOR: [&str; 2] = ["control", "metrics"];

pub(super) fn shape(name: &str) -> Shape {
    match name {
        "workers" | "reload.max_surge" => Shape::Amount,
        "env" => Shape::Variables,
        "env_file" | "node_args" | "listen" => Shape::Texts,
        "reload.ready" => Shape::Ready,
        "reload.probe.successes"
        | "health.failures"
        | "drain.generations"
        | "drain.websocket.code"
        | "limits.nofile"
        | "log.rotate.keep" => Shape::Number,
        "reload.probe.headers" => Shape::Headers,
        "reload.canary" => Shape::Canary,
        "restart.intensity" => Shape::Intensity,
        "drain.preload" | "log.time" | "no_new_privs" => Shape::Switch,
        "stop.request" => Shape::Request,
        "watch" => Shape::Watch,
        _ => Shape::Text,
    }
}

/// The names that may stand in a table of an app; `within` is empty or ends with a dot.
pub(super) fn names_within(within: &str) -> Vec<&'static str> {
    let settings = KEYS.iter().map(|key| key.name);
    let all = settings
        .filter(|name| *name != "name")
        .chain([COMMAND, ARGS]);
    let mut names: Vec<&str> = all
        .filter_map(|name| name.strip_prefix(within)?.split('.').next())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether there are keys below that name.
pub(super) fn is_table(name: &str) -> bool {
    let mut names = KEYS.iter().map(|key| key.name);
    names.any(|key| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// What may have been meant: the nearest of these, if it is near.
pub(super) fn nearest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = written.replace('-', "_").to_ascii_lowercase();
    let far = 1 + plain.chars().count() / 3;
    let distances = names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&plain, name), name));
    distances
        .filter(|(distance, _)| *distance <= far.min(3))
        .min()
        .map(|(_, name)| name)
}

/// What to write in place of a key of an app that there is none of.
pub(super) fn suggestion(app: &str, within: &str, written: &str) -> String {
    // It may be a flag, or a key of another table.
    let plain = written.replace('-', "_");
    let elsewhere = KEYS.iter().find(|key| {
        let last = key.name.rsplit('.').next();
        key.flag.replace('-', "_") == plain || last == Some(&plain)
    });
    match elsewhere.map(|key| key.name) {
        Some("name") => return format!("the name of an app is that of its table, [app.{app}]"),
        Some(name) => {
            return match name.rsplit_once('.') {
                Some((table, key)) => format!("did you mean `{key}` in [app.{app}.{table}]?"),
                None if within.is_empty() => format!("did you mean `{name}`?"),
                None => format!("did you mean `{name}` in [app.{app}]?"),
            };
        }
        None => {}
    }
    let names = names_within(within);
    match nearest(written, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("there are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        for (within, written, expected) in [
            ("", "wrokers", "did you mean `workers`?"),
            ("", "env-file", "did you mean `env_file`?"),
            (
                "",
                "drain_timeout",
                "did you mean `timeout` in [app.web.drain]?",
            ),
            ("", "ready", "did you mean `ready` in [app.web.reload]?"),
            (
                "",
                "script",
                "there are args, command, cwd, distribution, drain, env, env_file, group, health, limits, listen, log, no_new_privs, node, node_args, reload, restart, stop, user, watch, workers",
            ),
            ("drain.", "stal", "did you mean `stall`?"),
            ("drain.websocket.", "cod", "did you mean `code`?"),
            (
                "",
                "name",
                "the name of an app is that of its table, [app.web]",
            ),
        ] {
            assert_eq!(suggestion("web", within, written), expected, "{written}");
        }
    }
}
