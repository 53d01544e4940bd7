//! Signals, read as structures from a descriptor, with their origin. It gives them no meaning
//! beyond that; nothing here installs a handler.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub use rustix::process::Signal;

/// The signals that segue's own processes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    Hup,
    Usr1,
    Usr2,
    Term,
    Quit,
    Int,
    Winch,
    Ttin,
    Ttou,
    Chld,
    Pipe,
}

impl Handled {
    pub const ALL: [Self; 11] = [
        Self::Hup,
        Self::Usr1,
        Self::Usr2,
        Self::Term,
        Self::Quit,
        Self::Int,
        Self::Winch,
        Self::Ttin,
        Self::Ttou,
        Self::Chld,
        Self::Pipe,
    ];

    /// The number's owner, for sending.
    #[must_use]
    pub fn signal(self) -> Signal {
        match self {
            Self::Hup => Signal::HUP,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Term => Signal::TERM,
            Self::Quit => Signal::QUIT,
            Self::Int => Signal::INT,
            Self::Winch => Signal::WINCH,
            Self::Ttin => Signal::TTIN,
            Self::Ttou => Signal::TTOU,
            Self::Chld => Signal::CHILD,
            Self::Pipe => Signal::PIPE,
        }
    }

    /// `None` for a signal that is not one of these.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|handled| handled.signal().as_raw() == number)
    }
}

/// One signal as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: Handled,
    /// Sent by the kernel (a terminal's key, resize or hangup, a child's exit), not by `kill`.
    /// `si_code` is positive for these and only these (sigaction(2)).
    pub from_kernel: bool,
    /// The sender, where it is a process; 0 for the kernel's own and for senders outside
    /// this pid namespace.
    pub pid: u32,
    /// Its real user; of no meaning where there is no `pid`.
    pub uid: u32,
}

/// The handled signals, blocked, as a readable descriptor (signalfd(2)).
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the handled signals for this thread and every thread it starts from now on, and
    /// opens the descriptor, close-on-exec and non-blocking. To be called before the first
    /// thread is started: a thread that does not block them would be interrupted, or killed.
    /// SIGCHLD is set to its default as well: whoever started us may have ignored it, and then
    /// children would end unheard and their exit codes be lost (wait(2)).
    ///
    /// # Errors
    /// As sigprocmask and signalfd.
    pub fn block() -> io::Result<Self> {
        // SAFETY: sets no handler, only the default disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let set = set_of(&Handled::ALL.map(Handled::signal));
        mask(libc::SIG_BLOCK, &set)?;
        Ok(Self { fd: open(&set)? })
    }

    /// The next pending signal, or `None` if there is none now.
    ///
    /// # Errors
    /// As read(2), except EAGAIN and EINTR.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        while let Some(info) = read(&self.fd)? {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            let Some(signal) = Handled::from_number(number) else {
                continue;
            };
            let from_kernel = info.ssi_code > 0;
            return Ok(Some(Received {
                signal,
                from_kernel,
                pid: if from_kernel { 0 } else { info.ssi_pid },
                uid: if from_kernel { 0 } else { info.ssi_uid },
            }));
        }
        Ok(None)
    }

    /// Waits for the next signal, however long it takes or until `limit` has passed.
    ///
    /// # Errors
    /// As poll(2) and [`Signals::receive`].
    pub fn wait(&self, limit: Option<std::time::Duration>) -> io::Result<Option<Received>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let until = limit.map(|limit| std::time::Instant::now() + limit);
        loop {
            if let Some(received) = self.receive()? {
                return Ok(Some(received));
            }
            let left = match until {
                None => None,
                Some(until) => {
                    let left = until.saturating_duration_since(std::time::Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    Some(Timespec::try_from(left).map_err(io::Error::other)?)
                }
            };
            let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut ready, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Some signals, blocked, as a readable descriptor: for a command that has something to put in order
/// before any of them acts.
#[derive(Debug)]
pub struct Chosen {
    fd: OwnedFd,
}

impl Chosen {
    /// Blocks these signals for this thread and every thread it starts from now on. To be called
    /// before the first thread is started, as [`Signals::block`].
    ///
    /// # Errors
    /// As sigprocmask and signalfd.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set = set_of(signals);
        mask(libc::SIG_BLOCK, &set)?;
        Ok(Self { fd: open(&set)? })
    }

    /// The next pending one, or `None` if there is none now.
    ///
    /// # Errors
    /// As read(2), except EAGAIN and EINTR.
    pub fn receive(&self) -> io::Result<Option<Signal>> {
        while let Some(info) = read(&self.fd)? {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Some(signal) = Signal::from_named_raw(number) {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    /// Lets one of them act on the whole process group, as if nobody had blocked it: the kernel knows
    /// whether a group that stops would ever be continued, and by whom. Returns when this process goes on.
    ///
    /// # Errors
    /// As sigprocmask and kill(2).
    pub fn act(&self, signal: Signal) -> io::Result<()> {
        let set = set_of(&[signal]);
        rustix::process::kill_current_process_group(signal)?;
        // Here it acts.
        mask(libc::SIG_UNBLOCK, &set)?;
        mask(libc::SIG_BLOCK, &set)
    }
}

impl AsFd for Chosen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Chosen {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether this process was started with the signal ignored, as `nohup` does for HUP. A blocked
/// signal is still delivered to a [`Signals`] then, so its reader has to ask.
#[must_use]
pub fn is_ignored(signal: Handled) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is set; the old one is written to `action`.
    let result = unsafe {
        libc::sigaction(
            signal.signal().as_raw(),
            std::ptr::null(),
            action.as_mut_ptr(),
        )
    };
    // SAFETY: zeroed bytes are a valid `sigaction`, and the kernel may have filled it in since.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is initialised and the number is a valid signal's.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}

fn mask(how: i32, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialised and lives through the call; the old set is not asked for.
    let errno = unsafe { libc::pthread_sigmask(how, &raw const *set, std::ptr::null_mut()) };
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn open(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const *set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next structure of a signalfd, if there is one now.
fn read(fd: &OwnedFd) -> io::Result<Option<libc::signalfd_siginfo>> {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    loop {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        // SAFETY: the kernel writes at most SIZE bytes into `info`.
        let read = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), SIZE) };
        if read < 0 {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            }
        }
        if usize::try_from(read) != Ok(SIZE) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a signalfd gives whole structures only, and this one is whole.
        return Ok(Some(unsafe { info.assume_init() }));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Chosen, Handled, Received, Signal, Signals, is_ignored};

    // Sent to this thread alone: the harness's other threads do not block anything.
    fn send_to_this_thread(signal: Handled) {
        // SAFETY: always succeeds.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: this thread lives through the call.
        let result = unsafe { libc::pthread_kill(thread, signal.signal().as_raw()) };
        assert_eq!(result, 0);
    }

    // Children of other tests end meanwhile.
    fn next(signals: &Signals, limit: Option<Duration>) -> Option<Received> {
        loop {
            let received = signals.wait(limit).unwrap();
            if received.is_none_or(|received| !received.from_kernel) {
                return received;
            }
        }
    }

    #[test]
    fn every_handled_signal_arrives_with_its_sender() {
        let signals = Signals::block().unwrap();
        for signal in Handled::ALL {
            send_to_this_thread(signal);
            let expected = Received {
                signal,
                from_kernel: false,
                pid: std::process::id(),
                uid: rustix::process::getuid().as_raw(),
            };
            assert_eq!(next(&signals, None), Some(expected));
        }
    }

    #[test]
    fn chosen_ones_arrive_and_others_are_none_of_theirs() {
        let chosen = Chosen::block(&[Signal::TERM, Signal::WINCH]).unwrap();
        assert_eq!(chosen.receive().unwrap(), None);
        send_to_this_thread(Handled::Winch);
        assert_eq!(chosen.receive().unwrap(), Some(Signal::WINCH));
        send_to_this_thread(Handled::Term);
        assert_eq!(chosen.receive().unwrap(), Some(Signal::TERM));
        assert_eq!(chosen.receive().unwrap(), None);
    }

    #[test]
    fn waiting_ends_at_the_limit() {
        let signals = Signals::block().unwrap();
        let limit = Duration::from_millis(20);
        let began = std::time::Instant::now();
        assert_eq!(next(&signals, Some(limit)), None);
        assert!(began.elapsed() >= limit);
    }

    #[test]
    fn knows_what_is_ignored() {
        // The standard library ignores SIGPIPE before `main`.
        assert!(is_ignored(Handled::Pipe));
        assert!(!is_ignored(Handled::Usr2));
    }
}
