//! `segue logs`: what workers have printed to the log file, the files it was before included.

mod files;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use segue_wire::control::Log;
use serde_json::{Map, Value};

use self::files::{Follower, last_lines};
use super::args::LogsArgs;
use super::error::Trouble;
use super::output::{Output, Tone};
use super::scale::only_app;
use crate::config::quantity;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;
use crate::telemetry::terminal::{harmless, harmless_json};

const WHAT: &str = "cannot show logs";
/// So many lines if neither a number nor a time is given.
const LINES: usize = 10;

pub(super) async fn run(args: LogsArgs, output: Output) -> Result<Exit, Trouble> {
    let app = args.app.as_deref();
    let found = find(args.common.control.clone(), app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(WHAT, error))?;
    let app = only_app(&found, app, WHAT)?;
    let shown = found
        .status
        .apps
        .into_iter()
        .find(|shown| shown.name == app);
    let Some(log) = shown.and_then(|shown| shown.log) else {
        return Err(Trouble::new(
            WHAT,
            format!("{app} has no log file: its output goes to the supervisor's stdout and stderr"),
            "look there (under systemd: journalctl -u UNIT), or run it with --log FILE",
            Exit::Failed,
        ));
    };
    let form = Form {
        app,
        is_json: log.format == "json",
        has_time: log.time,
        is_terminal: io::stdout().is_terminal(),
        output: output.clone(),
    };
    if args.since.is_some() && !form.is_json && !form.has_time {
        return Err(Trouble::new(
            WHAT,
            "--since needs the time of each line, and this log does not tell it",
            "run the app with --log-time on or --log-format json, or ask for a number of lines with -n",
            Exit::Usage,
        ));
    }
    show(&args, &log, &form).await.map_err(|error| {
        Trouble::new(
            WHAT,
            format!("{}: {error}", log.path),
            "run the command as a user who may read it",
            Exit::Failed,
        )
    })
}

async fn show(args: &LogsArgs, log: &Log, form: &Form) -> io::Result<Exit> {
    let path = Path::new(&log.path);
    let most = match (args.lines, args.since) {
        (Some(lines), _) => lines,
        (None, Some(_)) => usize::MAX,
        (None, None) => LINES,
    };
    let since = args.since;
    let mut is_since = false;
    let wanted = |line: &[u8]| {
        let Some(since) = since else { return true };
        // A line that tells no time belongs to the one before it.
        if let Some(time) = form.time(line) {
            is_since = time >= since;
        }
        is_since
    };
    let mut last = last_lines(path, most, since.map(Timestamp::as_second), wanted)?;
    for line in std::mem::take(&mut last.lines) {
        form.show(&line);
    }
    if !args.follow {
        return Ok(Exit::Done);
    }
    let mut follower = Follower::new(path, last)?;
    while !form.output.is_broken() {
        follower.read(&mut |line| form.show(&line))?;
        follower.changed().await?;
    }
    Ok(Exit::Done)
}

/// How lines are written in the file, and how they are shown.
struct Form {
    app: String,
    is_json: bool,
    has_time: bool,
    is_terminal: bool,
    output: Output,
}

impl Form {
    fn time(&self, line: &[u8]) -> Option<Timestamp> {
        let text = match self.is_json {
            true => {
                let value = serde_json::from_slice::<Value>(line).ok()?;
                value.get("time")?.as_str()?.to_owned()
            }
            false => {
                let line = line.get(..64.min(line.len()))?;
                String::from_utf8_lossy(line).split(' ').next()?.to_owned()
            }
        };
        text.parse().ok()
    }

    fn show(&self, line: &[u8]) {
        let shown = match (self.is_json, self.output.json) {
            (true, true) => line.to_vec(),
            (false, true) => self.object(line).into_bytes(),
            (true, false) => self.text(line),
            (false, false) => self.coloured(line),
        };
        match self.output.json && self.is_terminal {
            true => self.output.bytes(&harmless_json(&shown)),
            false => self.output.bytes(&shown),
        }
    }

    /// As it is, on a terminal without what would act on it.
    fn coloured(&self, line: &[u8]) -> Vec<u8> {
        if !self.is_terminal {
            return line.to_vec();
        }
        let safe = harmless(line);
        let text = String::from_utf8_lossy(&safe);
        match text.split_once(" | ") {
            Some((name, rest)) => {
                let tone = Tone::of_app(&self.app);
                let name = self.output.tone(&format!("{name} |"), tone);
                format!("{name} {rest}").into_bytes()
            }
            _ => safe.into_owned(),
        }
    }

    /// An object as a line of text.
    fn text(&self, line: &[u8]) -> Vec<u8> {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            return self.coloured(line);
        };
        let word = |name: &str| value.get(name).and_then(Value::as_str);
        let Some(said) = word("line") else {
            return self.coloured(line);
        };
        let app = word("app").unwrap_or(&self.app);
        let text = match value.get("slot").and_then(Value::as_u64) {
            Some(slot) => format!("{app}.{slot} | {said}"),
            None => format!("segue: {said}"),
        };
        self.coloured(text.as_bytes())
    }

    /// A line of text as an object, as far as it tells what belongs into it.
    fn object(&self, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line);
        let mut members = Map::new();
        let mut rest = &*text;
        if self.has_time
            && let Some((time, after)) = rest.split_once(' ')
            && time.parse::<Timestamp>().is_ok()
        {
            members.insert("time".to_owned(), time.into());
            rest = after;
        }
        members.insert("app".to_owned(), self.app.clone().into());
        if let Some((slot, generation, said)) = self.name(rest) {
            members.insert("slot".to_owned(), slot.into());
            if let Some(generation) = generation {
                members.insert("generation".to_owned(), generation.into());
            }
            rest = said;
        }
        members.insert("line".to_owned(), rest.into());
        Value::from(members).to_string()
    }

    /// Slot, generation and the rest of `web.1 g7 | hello`.
    fn name<'a>(&self, line: &'a str) -> Option<(u32, Option<u32>, &'a str)> {
        let (name, said) = line.split_once(" | ")?;
        let (name, generation) = match name.split_once(" g") {
            Some((name, generation)) => (name, Some(generation.parse().ok()?)),
            None => (name, None),
        };
        let slot = name.strip_prefix(&self.app)?.strip_prefix('.')?;
        Some((slot.parse().ok()?, generation, said))
    }
}

/// `10m` ago, or a time: with its offset, else UTC.
pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    let ago = |ago: Duration| {
        let then = SystemTime::now().checked_sub(ago)?;
        Timestamp::try_from(then).ok()
    };
    let usage = "write a duration such as 10m, or a time such as 2026-03-01T12:00:00Z";
    if let Some(then) = quantity::duration(text).ok().and_then(ago) {
        return Ok(then);
    }
    text.parse()
        .or_else(|_| {
            let time = text.parse::<DateTime>()?;
            TimeZone::UTC.to_timestamp(time)
        })
        .map_err(|_| usage.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::Verbosity;

    fn form(is_json: bool, has_time: bool, json: bool) -> Form {
        Form {
            app: "web".to_owned(),
            is_json,
            has_time,
            is_terminal: false,
            output: Output::of_this_process(json, Verbosity::Normal),
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("2026-03-01T12:00:00Z", Some(1_772_366_400)),
            ("2026-03-01T13:00:00+01:00", Some(1_772_366_400)),
            ("2026-03-01T12:00:00", Some(1_772_366_400)),
            ("2026-03-01", Some(1_772_323_200)),
            ("yesterday", None),
            ("10", None),
        ] {
            let time = since(text).ok().map(Timestamp::as_second);
            assert_eq!(time, expected, "{text}");
        }
        let ago = Timestamp::now().as_second() - since("10m").unwrap().as_second();
        assert!((599..=601).contains(&ago), "{ago}");
    }

    #[test]
    fn forms() {
        let object = br#"{"time":"2026-03-01T12:00:00.000Z","app":"web","worker":3,"slot":1,"generation":2,"stream":"stdout","line":"hi"}"#;
        assert_eq!(form(true, false, false).text(object), b"web.1 | hi");
        let note =
            br#"{"time":"2026-03-01T12:00:00.000Z","app":"web","stream":"segue","line":"lost"}"#;
        assert_eq!(form(true, false, false).text(note), b"segue: lost");
        assert_eq!(form(true, false, false).text(b"no json"), b"no json");
        for (has_time, line, expected) in [
            (false, "web.1 | hi", r#"{"app":"web","line":"hi","slot":1}"#),
            (
                false,
                "web.1 g7 | a | b",
                r#"{"app":"web","generation":7,"line":"a | b","slot":1}"#,
            ),
            (false, "other | x", r#"{"app":"web","line":"other | x"}"#),
            (
                true,
                "2026-03-01T12:00:00.000Z web.0 | hi",
                r#"{"app":"web","line":"hi","slot":0,"time":"2026-03-01T12:00:00.000Z"}"#,
            ),
        ] {
            let shown = form(false, has_time, true).object(line.as_bytes());
            let shown: Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(shown, serde_json::from_str::<Value>(expected).unwrap());
        }
    }
}
