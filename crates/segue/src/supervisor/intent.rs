//! What a signal means: the core sees requests, never signals.

use segue_sys::signal::{Handled, Received};

/// What the sender of a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// Read everything afresh and replace every worker.
    Reload,
    /// Drain, then end. Asked again, hurry.
    Stop,
    /// Open log files anew.
    Reopen,
    /// Become the binary that is at the place of the present one.
    Upgrade,
    /// One worker more.
    Grow,
    /// One worker fewer.
    Shrink,
    /// Drain every worker; clients wait for the next reload.
    Pause,
    /// Nothing to do: sent by the kernel about a terminal, or internal.
    Nothing,
}

/// The signal table of the manual.
pub(super) fn of(received: Received) -> Intent {
    let from_kernel = received.from_kernel;
    match received.signal {
        // The controlling terminal has gone: nobody is left to watch a foreground run.
        Handled::Hup if from_kernel => Intent::Stop,
        Handled::Hup => Intent::Reload,
        Handled::Term | Handled::Quit | Handled::Int => Intent::Stop,
        Handled::Winch | Handled::Ttin | Handled::Ttou if from_kernel => Intent::Nothing,
        Handled::Ttin => Intent::Grow,
        Handled::Ttou => Intent::Shrink,
        Handled::Usr1 => Intent::Reopen,
        Handled::Usr2 => Intent::Upgrade,
        Handled::Winch => Intent::Pause,
        Handled::Chld | Handled::Pipe => Intent::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_the_manual_says() {
        let sent = |signal, from_kernel| {
            of(Received {
                signal,
                from_kernel,
                pid: 1,
                uid: 0,
            })
        };
        assert_eq!(sent(Handled::Hup, false), Intent::Reload);
        assert_eq!(sent(Handled::Hup, true), Intent::Stop);
        assert_eq!(sent(Handled::Int, true), Intent::Stop);
        assert_eq!(sent(Handled::Ttin, false), Intent::Grow);
        for signal in [Handled::Ttin, Handled::Ttou, Handled::Winch] {
            assert_eq!(
                sent(signal, true),
                Intent::Nothing,
                "{signal:?} from a terminal"
            );
        }
        assert_eq!(sent(Handled::Usr1, false), Intent::Reopen);
        assert_eq!(sent(Handled::Usr2, false), Intent::Upgrade);
        assert_eq!(sent(Handled::Winch, false), Intent::Pause);
    }
}
