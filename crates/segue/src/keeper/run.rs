//! The keeper's life: one supervisor, from its start to its exit code.
//!
//! Of the two only the keeper is in the terminal's foreground group. So ^C reaches the supervisor
//! once, by way of the keeper, and ^Z stops the keeper alone while the app goes on serving.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use segue_sys::process;
use segue_sys::signal::{Handled, Received, Signals, is_ignored};
use segue_sys::spawn::{Child, Exit, Mask, Spawn, send_signal};

use super::aftermath::end_descendants;
use super::link::{KEEPER_FD, LINK_NUMBER, TERMINAL_GONE};

/// First argument of the process that is to be the supervisor.
pub(crate) const SUPERVISOR_ARGUMENT: &str = "__supervisor";

/// Rust's exit code of a panic in `main`: an end that nobody planned, like a signal.
const PANICKED: i32 = 101;

/// What the keeper starts.
#[derive(Debug)]
pub(crate) struct Keeper {
    program: PathBuf,
    argv: Vec<OsString>,
}

impl Keeper {
    /// Keeps a supervisor made from this same program: it gets [`SUPERVISOR_ARGUMENT`], then
    /// `args`, the command line without its zeroth argument.
    pub(crate) fn new(name: OsString, args: impl IntoIterator<Item = OsString>) -> Self {
        let mut argv = vec![name, SUPERVISOR_ARGUMENT.into()];
        argv.extend(args);
        Self {
            // Not the path of the file: that may hold another version by now.
            program: "/proc/self/exe".into(),
            argv,
        }
    }

    /// Starts the supervisor and stays until it has ended. Returns the exit code of the whole:
    /// the supervisor's own, or 1 with a message on stderr if it could not be started or crashed.
    ///
    /// Must be called before the first thread is started.
    pub(crate) fn run(self) -> u8 {
        match self.start() {
            Ok(mut kept) => kept.stay(),
            Err(error) => {
                say(&format!(
                    "cannot start the supervisor: {error}; nothing has been started"
                ));
                1
            }
        }
    }

    fn start(self) -> io::Result<Kept> {
        // In this order: a child that ends, or an operator's signal, must find us prepared.
        let signals = Signals::block()?;
        process::become_subreaper()?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut env: Vec<_> = std::env::vars_os()
            .filter(|(name, _)| name != KEEPER_FD)
            .collect();
        env.push((KEEPER_FD.into(), LINK_NUMBER.to_string().into()));
        let child = Spawn {
            program: &self.program,
            argv: &self.argv,
            env: &env,
            cwd: Path::new("."),
            descriptors: vec![(theirs, LINK_NUMBER)],
            descriptor_limit: None,
            // A signal that comes before the supervisor reads its own waits for it.
            mask: Mask::Inherit,
        }
        .start()?;
        Ok(Kept {
            signals,
            link: ours,
            child,
            terminal: Terminal::at_start(),
        })
    }
}

/// A keeper with its supervisor.
struct Kept {
    signals: Signals,
    link: OwnedFd,
    child: Child,
    terminal: Terminal,
}

impl Kept {
    fn stay(&mut self) -> u8 {
        loop {
            let received = match self.signals.wait(None) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(error) => {
                    // Without signals there is nothing left to do but to hurry the end along.
                    say(&format!("cannot read signals: {error}; stopping"));
                    let _ = send_signal(&self.child.pidfd, Handled::Term.signal());
                    return 1;
                }
            };
            if received.signal == Handled::Chld {
                if let Some(exit) = self.reap() {
                    return self.conclude(exit);
                }
            } else {
                self.forward(received);
            }
        }
    }

    /// Collects whoever has ended, orphans of the app included; the supervisor's exit, if it
    /// was among them.
    fn reap(&self) -> Option<Exit> {
        let mut ours = None;
        while let Ok(Some((pid, exit))) = process::reap_any() {
            if pid == self.child.pid {
                ours = Some(exit);
            }
        }
        ours
    }

    fn forward(&mut self, received: Received) {
        match self.terminal.judge(received) {
            Forward::Nothing => {}
            Forward::Signal(signal) => {
                // It fails only when the supervisor has ended, which SIGCHLD tells next.
                let _ = send_signal(&self.child.pidfd, signal.signal());
            }
            Forward::TerminalGone => {
                let _ = rustix::net::send(
                    &self.link,
                    &[TERMINAL_GONE],
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                );
            }
        }
    }

    fn conclude(&self, exit: Exit) -> u8 {
        let how = match exit {
            Exit::Code(code) if code != PANICKED => {
                // What the app started for itself must not outlive it: it could hold the port.
                if let Ok(ended) = end_descendants(&self.signals)
                    && ended.killed > 0
                {
                    say(&format!(
                        "{} processes that the app had left behind were ended, {} of them by SIGKILL",
                        ended.all, ended.killed
                    ));
                }
                return u8::try_from(code).unwrap_or(1);
            }
            Exit::Code(_) => "panicked, which is a bug in segue".to_owned(),
            Exit::Signal(number) => format!("was killed by signal {number}"),
            Exit::Unknown => "ended in an unknown way".to_owned(),
        };
        say(&format!(
            "the supervisor (pid {}) {how}: the app has nobody to look after it, so what is left of it is ended now; start it again with the same command",
            self.child.pid
        ));
        match end_descendants(&self.signals) {
            Ok(ended) => say(&format!(
                "{} processes ended, {} of them by SIGKILL",
                ended.all, ended.killed
            )),
            Err(error) => say(&format!(
                "cannot find all processes of the app: {error}; look for them with `ps -ef`"
            )),
        }
        1
    }
}

/// What a signal means for the supervisor.
#[derive(Debug, PartialEq, Eq)]
enum Forward {
    Nothing,
    Signal(Handled),
    TerminalGone,
}

/// The controlling terminal as it was at the start.
struct Terminal {
    had: bool,
    /// Started by `nohup` or its like: the terminal may go.
    may_go: bool,
    has: fn() -> bool,
}

impl Terminal {
    fn at_start() -> Self {
        Self {
            had: process::has_controlling_terminal(),
            may_go: is_ignored(Handled::Hup),
            has: process::has_controlling_terminal,
        }
    }

    fn judge(&self, received: Received) -> Forward {
        match received.signal {
            // A shell whose terminal goes passes the HUP on to its jobs by itself, so that it
            // looks like an operator's. The terminal tells them apart.
            Handled::Hup => match received.from_kernel || (self.had && !(self.has)()) {
                true if self.may_go => Forward::Nothing,
                true => Forward::TerminalGone,
                false => Forward::Signal(Handled::Hup),
            },
            // A resized or backgrounded terminal.
            Handled::Winch | Handled::Ttin | Handled::Ttou if received.from_kernel => {
                Forward::Nothing
            }
            Handled::Chld | Handled::Pipe => Forward::Nothing,
            Handled::Usr1
            | Handled::Usr2
            | Handled::Term
            | Handled::Quit
            | Handled::Int
            | Handled::Winch
            | Handled::Ttin
            | Handled::Ttou => Forward::Signal(received.signal),
        }
    }
}

fn say(text: &str) {
    // A stderr that cannot be written to must not keep us from the rest.
    let _ = writeln!(io::stderr(), "segue: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(signal: Handled, from_kernel: bool, terminal: &Terminal) -> Forward {
        terminal.judge(Received {
            signal,
            from_kernel,
            pid: 0,
        })
    }

    const HAS: Terminal = Terminal {
        had: true,
        may_go: false,
        has: || true,
    };

    #[test]
    fn what_operators_send_is_forwarded() {
        for signal in Handled::ALL {
            let expected = match signal {
                Handled::Chld | Handled::Pipe => Forward::Nothing,
                _ => Forward::Signal(signal),
            };
            assert_eq!(judge(signal, false, &HAS), expected);
        }
    }

    #[test]
    fn of_what_a_terminal_sends_only_keys_are() {
        for signal in [Handled::Int, Handled::Quit] {
            assert_eq!(judge(signal, true, &HAS), Forward::Signal(signal));
        }
        for signal in [Handled::Winch, Handled::Ttin, Handled::Ttou] {
            assert_eq!(judge(signal, true, &HAS), Forward::Nothing);
        }
        assert_eq!(judge(Handled::Hup, true, &HAS), Forward::TerminalGone);
    }

    #[test]
    fn a_shell_that_passes_on_its_hangup_is_no_operator() {
        let gone = Terminal {
            has: || false,
            ..HAS
        };
        assert_eq!(judge(Handled::Hup, false, &gone), Forward::TerminalGone);
        let never_had = Terminal { had: false, ..gone };
        let hup = Forward::Signal(Handled::Hup);
        assert_eq!(judge(Handled::Hup, false, &never_had), hup);
        let nohup = Terminal {
            may_go: true,
            ..gone
        };
        assert_eq!(judge(Handled::Hup, false, &nohup), Forward::Nothing);
        assert_eq!(judge(Handled::Hup, true, &nohup), Forward::Nothing);
    }
}
