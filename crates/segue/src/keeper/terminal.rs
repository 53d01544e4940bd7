//! What a signal means, by the terminal it may come from.

use segue_sys::process;
use segue_sys::signal::{Handled, Received, is_ignored};

/// What a signal means for the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Forward {
    Nothing,
    Signal(Handled),
    TerminalGone,
}

/// The controlling terminal as it was at the start.
#[derive(Debug)]
pub(super) struct Terminal {
    had: bool,
    /// Started by `nohup` or its like: the terminal may go.
    may_go: bool,
    has: fn() -> bool,
}

impl Terminal {
    pub(super) fn at_start() -> Self {
        Self {
            had: process::has_controlling_terminal(),
            may_go: is_ignored(Handled::Hup),
            has: process::has_controlling_terminal,
        }
    }

    pub(super) fn judge(&self, received: Received) -> Forward {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(signal: Handled, from_kernel: bool, terminal: &Terminal) -> Forward {
        terminal.judge(Received {
            signal,
            from_kernel,
            pid: 0,
            uid: 0,
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
