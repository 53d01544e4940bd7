//! A terminal for one process under test: what it shows, byte by byte.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// A terminal, and what has come to it so far.
#[derive(Debug)]
pub(crate) struct Terminal {
    theirs: OwnedFd,
    shown: Arc<(Mutex<Vec<u8>>, Condvar)>,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("open a terminal");
        grantpt(&ours).expect("open a terminal");
        unlockpt(&ours).expect("open a terminal");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("open it");
        // What is written is what is shown.
        let mut settings = tcgetattr(&theirs).expect("it is a terminal");
        settings.make_raw();
        tcsetattr(&theirs, OptionalActions::Now, &settings).expect("it is a terminal");
        let shown: Arc<(Mutex<Vec<u8>>, Condvar)> = Arc::default();
        let theirs_shown = Arc::clone(&shown);
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
        Self { theirs, shown }
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
