//! The words that say what the stand-in does. Owns no behaviour itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// A place it listens at.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Port(u16),
    Path(String),
}

/// What it was told; times in words are milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// `port=N`, `path=FILE`: may be repeated. None given: it never asks.
    pub(crate) places: Vec<Place>,
    /// `boot=MS`: waits so long between `online` and its first question.
    pub(crate) boot: Duration,
    /// `stderr=TEXT`: printed first; underscores are spaces.
    pub(crate) stderr: Vec<String>,
    /// `exit-at-boot=CODE`: before it says that it is online.
    pub(crate) exit_at_boot: Option<u8>,
    /// `spin`: computes for ever before it says anything.
    pub(crate) spin: bool,
    /// `exit-after=MS` and `code=N`: ends by itself so long after its boot.
    pub(crate) exit_after: Option<Duration>,
    pub(crate) exit_code: u8,
    /// `ready-message=MS`: says `"ready"` so long after its boot.
    pub(crate) ready_message: Option<Duration>,
    /// `notify=MS`: sends `READY=1` to its notify socket so long after its boot.
    pub(crate) notify: Option<Duration>,
    /// `ignore-term`.
    pub(crate) ignore_term: bool,
    /// `ignore-disconnect`: goes on serving.
    pub(crate) ignore_disconnect: bool,
    /// `never-read`: leaves its channel unread after its questions.
    pub(crate) never_read: bool,
    /// `never-acknowledge`: takes handles without saying so.
    pub(crate) never_acknowledge: bool,
    /// `flood=N`: so many messages at once when it listens.
    pub(crate) flood: u32,
    /// `garble`: two lines that are no JSON, when it listens.
    pub(crate) garble: bool,
    /// `unfinished`: a line that never ends, when it listens.
    pub(crate) unfinished: bool,
    /// `disconnect`: closes its channel when it listens, and goes on serving.
    pub(crate) disconnect: bool,
    /// `die-on-newconn`: is gone as soon as a connection is handed to it, before it accepts.
    pub(crate) die_on_newconn: bool,
    /// `refuse-newconn`: answers that it does not accept.
    pub(crate) refuse_newconn: bool,
    /// The release: the file `VERSION` in the working directory.
    pub(crate) version: String,
}

impl Behaviour {
    /// Reads the arguments and the files of the working directory.
    pub(crate) fn read() -> Result<Self, String> {
        let file = |name: &str| std::fs::read_to_string(PathBuf::from(name)).unwrap_or_default();
        let written = file("behaviour");
        let mut behaviour = Self {
            version: file("VERSION").trim().to_owned(),
            ..Self::default()
        };
        for word in std::env::args()
            .skip(1)
            .chain(written.split_whitespace().map(str::to_owned))
        {
            behaviour.learn(&word)?;
        }
        Ok(behaviour)
    }

    fn learn(&mut self, word: &str) -> Result<(), String> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || {
            value
                .parse::<u32>()
                .map_err(|error| format!("{word}: {error}"))
        };
        let small = || {
            value
                .parse::<u8>()
                .map_err(|error| format!("{word}: {error}"))
        };
        let time = || number().map(|ms| Duration::from_millis(u64::from(ms)));
        match name {
            "port" => {
                let port = value.parse().map_err(|error| format!("{word}: {error}"))?;
                self.places.push(Place::Port(port));
            }
            "path" => self.places.push(Place::Path(value.to_owned())),
            "never-ask" => self.places.clear(),
            "boot" => self.boot = time()?,
            "stderr" => self.stderr.push(value.replace('_', " ")),
            "exit-at-boot" => self.exit_at_boot = Some(small()?),
            "spin" => self.spin = true,
            "exit-after" => self.exit_after = Some(time()?),
            "code" => self.exit_code = small()?,
            "ready-message" => self.ready_message = Some(time()?),
            "notify" => self.notify = Some(time()?),
            "ignore-term" => self.ignore_term = true,
            "ignore-disconnect" => self.ignore_disconnect = true,
            "never-read" => self.never_read = true,
            "never-acknowledge" => self.never_acknowledge = true,
            "flood" => self.flood = number()?,
            "garble" => self.garble = true,
            "unfinished" => self.unfinished = true,
            "disconnect" => self.disconnect = true,
            "die-on-newconn" => self.die_on_newconn = true,
            "refuse-newconn" => self.refuse_newconn = true,
            _ => return Err(format!("no such behaviour: {word}")),
        }
        Ok(())
    }
}

/// Goes on as the same process with SIGTERM ignored: an ignored signal stays ignored over exec,
/// and a shell can set that without unsafe code here.
pub(crate) fn ignore_term() -> io::Result<()> {
    const DONE: &str = "STANDIN_IGNORES_TERM";
    if std::env::var_os(DONE).is_some() {
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let script = "trap '' TERM; exec \"$@\"";
    Err(Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(DONE, "1")
        .exec())
}

/// Ends the process now, as `process.exit` does.
#[expect(
    clippy::exit,
    reason = "the stand-in plays programs that exit in the middle of things"
)]
pub(crate) fn leave(code: i32) -> ! {
    std::process::exit(code)
}

/// Ends the process as `kill -9` does: nothing is flushed, nobody is told.
pub(crate) fn die() -> ! {
    // A process may always signal itself.
    let _ = kill_process(getpid(), Signal::KILL);
    leave(1)
}
