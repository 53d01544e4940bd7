//! `segue logs`: what workers have printed to the log file, the files it was before included.

pub(super) mod files;

use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use segue_wire::control::App;
use serde_json::{Map, Value};

use self::files::{Follower, Last, last_lines};
use super::args::CommonArgs;
use super::error::Trouble;
use super::output::{Output, Tone};
use crate::config::quantity;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;
use crate::telemetry::terminal::{harmless, harmless_json, plain};

const WHAT: &str = "cannot show logs";
/// Of an app without one.
pub(super) const NO_FILE: &str =
    "no log file: its output goes to the supervisor's stdout and stderr, or to the journal";
/// So many lines if neither a number nor a time is given.
const LINES: usize = 10;

#[derive(clap::Args, Debug)]
pub(crate) struct LogsArgs {
    /// The app that is meant [default: all of the supervisor]
    pub(crate) app: Option<String>,
    /// So many lines, from as many rotated files as it takes [default: 10; with --since all]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<usize>,
    /// Go on with what comes, across rotations
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only lines since then: 10m ago, or a time (UTC unless it says otherwise)
    #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
    pub(crate) since: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

pub(super) async fn run(args: LogsArgs, output: Output) -> Result<Exit, Trouble> {
    let app = args.app.as_deref();
    let found = find(args.common.control.clone(), app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(WHAT, error))?;
    let apps = found.status.apps.into_iter();
    let apps: Vec<App> = apps
        .filter(|it| app.is_none_or(|app| it.name == app))
        .collect();
    let names: Vec<String> = apps.iter().map(|app| app.name.clone()).collect();
    let logs: Vec<Shown> = apps
        .into_iter()
        .filter_map(|app| Shown::of(app, &output))
        .collect();
    if logs.is_empty() {
        let why = match names.as_slice() {
            [] => "the supervisor has no app".to_owned(),
            names => format!("{} has {NO_FILE}", names.join(", ")),
        };
        return Err(Trouble::new(
            WHAT,
            why,
            "look there (journalctl -u UNIT, or -t APP with --log journald), or run it with --log FILE",
            Exit::Failed,
        ));
    }
    if let Some(blind) = logs.iter().find(|log| !log.form.tells_time())
        && args.since.is_some()
    {
        return Err(Trouble::new(
            WHAT,
            format!(
                "--since needs the time of each line, and the log of {} does not tell it",
                blind.form.app
            ),
            "run the app with --log-time on or --log-format json, or ask for a number of lines with -n",
            Exit::Usage,
        ));
    }
    show(&args, &logs).await.map_err(|(path, error)| {
        Trouble::new(
            WHAT,
            format!("{}: {error}", path.display()),
            "run the command as a user who may read it",
            Exit::Failed,
        )
    })
}

/// An app's log, and how it is shown.
struct Shown {
    path: PathBuf,
    form: Form,
}

impl Shown {
    fn of(app: App, output: &Output) -> Option<Self> {
        let log = app.log?;
        Some(Self {
            path: log.path.into(),
            form: Form {
                app: app.name,
                is_json: log.format == "json",
                has_time: log.time,
                is_terminal: io::stdout().is_terminal(),
                output: output.clone(),
            },
        })
    }

    fn last(&self, args: &LogsArgs) -> io::Result<Last> {
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
            if let Some(time) = self.form.time(line) {
                is_since = time >= since;
            }
            is_since
        };
        last_lines(&self.path, most, since.map(Timestamp::as_second), wanted)
    }
}

async fn show(args: &LogsArgs, logs: &[Shown]) -> Result<Exit, (PathBuf, io::Error)> {
    let mut ends = Vec::new();
    let mut lines = Vec::new();
    for log in logs {
        let mut last = log.last(args).map_err(|error| (log.path.clone(), error))?;
        let mut time = None;
        for line in std::mem::take(&mut last.lines) {
            time = log.form.time(&line).or(time);
            lines.push((time, &log.form, line));
        }
        ends.push((log, last));
    }
    // Of several logs that tell the time, in its order; else one after the other.
    if logs.iter().all(|log| log.form.tells_time()) {
        lines.sort_by_key(|(time, _, _)| *time);
    }
    for (_, form, line) in lines {
        form.show(&line);
    }
    if !args.follow {
        return Ok(Exit::Done);
    }
    let mut followers = Vec::new();
    for (log, last) in ends {
        let failed = |error| (log.path.clone(), error);
        followers.push((log, Follower::new(&log.path, last).map_err(failed)?));
    }
    let is_broken = || logs.iter().any(|log| log.form.output.is_broken());
    while !is_broken() {
        for (log, follower) in &mut followers {
            let failed = |error| (log.path.clone(), error);
            follower
                .read(&mut |line| log.form.show(&line))
                .map_err(failed)?;
        }
        any_changed(&followers).await?;
    }
    Ok(Exit::Done)
}

/// Waits until there may be more of one of them.
async fn any_changed(followers: &[(&Shown, Follower)]) -> Result<(), (PathBuf, io::Error)> {
    let mut changes: Vec<_> = followers
        .iter()
        .map(|(log, follower)| (log, Box::pin(follower.changed())))
        .collect();
    poll_fn(|context| {
        for (log, change) in &mut changes {
            if let Poll::Ready(changed) = change.as_mut().poll(context) {
                return Poll::Ready(changed.map_err(|error| (log.path.clone(), error)));
            }
        }
        Poll::Pending
    })
    .await
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
    const fn tells_time(&self) -> bool {
        self.is_json || self.has_time
    }

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
        match said(&self.app, line) {
            Some(text) => self.coloured(text.as_bytes()),
            None => self.coloured(line),
        }
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

/// An object of the log as a line of text, if it is one.
fn said(app: &str, line: &[u8]) -> Option<String> {
    let value = serde_json::from_slice::<Value>(line).ok()?;
    let word = |name: &str| value.get(name).and_then(Value::as_str);
    let (said, app) = (word("line")?, word("app").unwrap_or(app));
    Some(match value.get("slot").and_then(Value::as_u64) {
        Some(slot) => format!("{app}.{slot} | {said}"),
        None => format!("segue: {said}"),
    })
}

/// A line of an app's log as text that neither moves nor colours anything.
pub(super) fn plainly(app: &str, is_json: bool, line: &[u8]) -> String {
    match is_json.then(|| said(app, line)).flatten() {
        Some(text) => plain(text.as_bytes()),
        None => plain(line),
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
