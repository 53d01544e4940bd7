//! A terminal for one process under test: what it shows, byte by byte or as a screen, and what is typed at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use super::screen::Screen;

/// A terminal, and what has come to it so far.
#[derive(Debug)]
pub(crate) struct Terminal {
    ours: OwnedFd,
    theirs: OwnedFd,
    shown: Arc<(Mutex<Vec<u8>>, Condvar)>,
}

impl Terminal {
    /// What is written is what is shown.
    pub(crate) fn open() -> Self {
        let terminal = Self::usual(80, 24);
        let mut settings = tcgetattr(&terminal.theirs).expect("it is a terminal");
        settings.make_raw();
        tcsetattr(&terminal.theirs, OptionalActions::Now, &settings).expect("it is a terminal");
        terminal
    }

    /// As a login gives it.
    pub(crate) fn usual(columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("open a terminal");
        grantpt(&ours).expect("open a terminal");
        unlockpt(&ours).expect("open a terminal");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("open it");
        let shown: Arc<(Mutex<Vec<u8>>, Condvar)> = Arc::default();
        let theirs_shown = Arc::clone(&shown);
        let keys = ours.try_clone().expect("clone a descriptor");
        std::thread::spawn(move || {
            let mut ours = File::from(ours);
            let mut block = [0; 4096];
            // EIO: nobody has it open any more.
            while let Ok(count @ 1..) = ours.read(&mut block) {
                let (shown, changed) = &*theirs_shown;
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&block[..count]);
                changed.notify_all();
            }
        });
        let terminal = Self {
            ours: keys,
            theirs,
            shown,
        };
        terminal.resize(columns, rows);
        terminal
    }

    /// Whoever runs on it is told.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.ours, size).expect("it is a terminal");
    }

    pub(crate) fn press(&self, keys: &str) {
        let mut ours = File::from(self.ours.try_clone().expect("clone a descriptor"));
        ours.write_all(keys.as_bytes()).expect("type");
    }

    /// How it treats what is typed and printed.
    pub(crate) fn modes(&self) -> String {
        let modes = tcgetattr(&self.theirs).expect("it is a terminal");
        format!(
            "{:?} {:?} {:?}",
            modes.input_modes, modes.output_modes, modes.local_modes
        )
    }

    fn end(&self) -> Stdio {
        self.theirs.try_clone().expect("clone a descriptor").into()
    }

    /// Starts a program whose stdout and stderr it is.
    pub(crate) fn start(&self, command: &mut Command) -> Child {
        command
            .stdin(Stdio::null())
            .stdout(self.end())
            .stderr(self.end())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .spawn()
            .expect("start it")
    }

    /// Starts a program that has it for its own, keys and all: the leader of a session.
    pub(crate) fn start_session(&self, program: &Command) -> Child {
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program());
        command.args(program.get_args());
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command
            .stdin(self.end())
            .stdout(self.end())
            .stderr(self.end())
            .spawn()
            .expect("start it")
    }

    /// Waits until the screen is as it is wanted, and gives it.
    #[track_caller]
    pub(crate) fn wait_for_screen(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Screen) -> bool,
    ) -> Screen {
        let (shown, changed) = &*self.shown;
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let lacks = |shown: &mut Vec<u8>| !wanted(&Screen::of(shown));
        let waited = changed.wait_timeout_while(shown, limit, lacks);
        let (shown, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        let screen = Screen::of(&shown);
        assert!(
            !waited.timed_out(),
            "the screen is not as it should be within {limit:?}: {what}\n{screen}"
        );
        assert!(
            screen.strange.is_empty(),
            "it was told what a terminal should not be told: {:?}",
            screen.strange
        );
        screen
    }

    /// Waits until it shows this; gives all that it shows by then.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str, limit: Duration) -> String {
        let (shown, changed) = &*self.shown;
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let lacks = |shown: &mut Vec<u8>| !String::from_utf8_lossy(shown).contains(text);
        let waited = changed.wait_timeout_while(shown, limit, lacks);
        let (shown, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(
            !waited.timed_out(),
            "the terminal does not show {text:?} within {limit:?}:\n{shown:?}"
        );
        shown
    }
}
