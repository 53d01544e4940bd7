//! Facts about this process and its descendants: subreaper, limits, processors, terminal,
//! inherited descriptors. It decides nothing about any of them.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, Resource, Signal};

use crate::spawn::Exit;

pub use rustix::process::Rlimit;

/// From now on orphaned descendants become children of this process. Survives exec, is not
/// inherited by children (PR_SET_CHILD_SUBREAPER(2const)).
///
/// # Errors
/// As prctl(2).
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Whether orphaned descendants come to this process.
///
/// # Errors
/// As prctl(2).
pub fn is_subreaper() -> io::Result<bool> {
    Ok(rustix::process::child_subreaper()?.is_some())
}

/// Whether this is the first process of its pid namespace: nobody else reaps there, and
/// signals without a handler are not delivered to it (pid_namespaces(7)).
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Sets the name that `ps -e` and `pgrep` show, 15 bytes at most.
///
/// # Errors
/// As prctl(2).
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// Collects the exit of one child, whichever has ended, without waiting. `None`: no child has
/// ended, or there is none.
///
/// # Errors
/// As waitid(2), except ECHILD.
pub fn reap_any() -> io::Result<Option<(u32, Exit)>> {
    loop {
        return match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
            Ok(Some((pid, status))) => {
                let code = status.exit_status().map(Exit::Code);
                let signal = status.terminating_signal().map(Exit::Signal);
                let exit = code.or(signal).unwrap_or(Exit::Unknown);
                Ok(Some((pid.as_raw_pid().unsigned_abs(), exit)))
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

/// A child that has ended and has not been collected, whichever it is. It stays as it is.
///
/// # Errors
/// As waitid(2), except ECHILD.
pub fn ended_child() -> io::Result<Option<u32>> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` has room for what the kernel writes. Zeroed, it says "nobody", which is what
        // the kernel leaves in it when nobody has ended.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
        if result == 0 {
            // SAFETY: zeros are a valid `siginfo_t`, and the kernel may have filled it in since.
            let info = unsafe { info.assume_init() };
            // SAFETY: of a SIGCHLD, or all zeros: in both the field is there.
            let pid = unsafe { info.si_pid() };
            return Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Collects the exit of a child that has ended.
///
/// # Errors
/// As waitid(2).
pub fn collect(pid: u32) -> io::Result<Exit> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    let waited = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG)?;
    Ok(waited.map_or(Exit::Unknown, |(_, status)| {
        let code = status.exit_status().map(Exit::Code);
        let signal = status.terminating_signal().map(Exit::Signal);
        code.or(signal).unwrap_or(Exit::Unknown)
    }))
}

/// The limit of open files, soft and hard.
#[must_use]
pub fn descriptor_limit() -> Rlimit {
    rustix::process::getrlimit(Resource::Nofile)
}

/// Raises the soft limit of open files to the hard one. Returns what it was before: programs we
/// start get that back, because some (those that use `select`, or close every possible
/// descriptor at start) break or crawl with a large one.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<Rlimit> {
    let before = descriptor_limit();
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)?;
    Ok(before)
}

/// Whether a limit of so many open files may be set. Nothing is changed by it.
///
/// # Errors
/// As setrlimit(2): `EPERM` above the hard limit without the right to raise it, or above what the
/// kernel allows anybody (fs.nr_open).
pub fn may_have_descriptors(count: u64) -> io::Result<()> {
    let before = descriptor_limit();
    let Some(hard) = before.maximum.filter(|hard| *hard < count) else {
        return Ok(());
    };
    // The hard one alone, and back at once: nothing can go beyond the soft one meanwhile.
    let tried = |maximum| Rlimit {
        maximum: Some(maximum),
        ..before
    };
    rustix::process::setrlimit(Resource::Nofile, tried(count))?;
    Ok(rustix::process::setrlimit(Resource::Nofile, tried(hard))?)
}

/// On how many processors this process may run (sched_getaffinity(2)). At least 1.
#[must_use]
pub fn usable_processors() -> u32 {
    let count = match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set.count(),
        // The kernel's mask is longer than rustix's; the standard library grows its own.
        Err(_) => std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
    };
    count.max(1)
}

/// Sets the mask of permissions that new files do not get, and returns the former one.
pub fn set_umask(mask: u32) -> u32 {
    let mask = rustix::fs::Mode::from_raw_mode(mask);
    rustix::process::umask(mask).as_raw_mode()
}

/// Ends this process after so many seconds by SIGALRM, through any exec, unless it is set again;
/// 0 takes it back (alarm(2)).
pub fn alarm(seconds: u32) {
    // SAFETY: always succeeds; the former alarm is of no interest.
    unsafe { libc::alarm(seconds) };
}

/// Whether this process has a controlling terminal. One that has hung up is no longer had.
#[must_use]
pub fn has_controlling_terminal() -> bool {
    use rustix::fs::{Mode, OFlags};
    // O_NONBLOCK: a line without carrier would make the open wait.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).is_ok()
}

/// A descriptor that our parent put at `number`: a duplicate that is ours. The original is made
/// close-on-exec and stays open as long as this process, since other code might use its number.
///
/// # Errors
/// `EBADF` if nothing is open there.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the borrow ends with this function, which does nothing else in between; a number
    // that is not open is refused by the first call.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    let ours = rustix::io::fcntl_dupfd_cloexec(original, 3)?;
    rustix::io::fcntl_setfd(original, rustix::io::FdFlags::CLOEXEC)?;
    Ok(ours)
}

/// A descriptor that this process had at `number` before it became this program, as ours: the number
/// itself is closed. For the start of a program only, when nothing else can own it.
///
/// # Errors
/// `EBADF` if nothing is open there.
pub fn adopt_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    let ours = inherited_descriptor(number)?;
    // SAFETY: the number is open, as has just been seen, and by contract no Rust object owns it.
    unsafe { libc::close(number) };
    Ok(ours)
}

/// One process as `/proc` showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// Clock ticks since boot: with the pid, the process's identity.
    pub started: u64,
}

impl Process {
    /// Reads `/proc/PID/stat`; `None` if there is no such process, or only its exit status.
    #[must_use]
    pub fn look_up(pid: u32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::from_stat(pid, &stat)
    }

    fn from_stat(pid: u32, stat: &[u8]) -> Option<Self> {
        // The name, in parentheses, may hold spaces and parentheses; numbers follow its last.
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = str::from_utf8(stat.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        // `starttime` is field 22 (proc_pid_stat(5)), the 18th after the parent, field 4.
        let started = fields.nth(17)?.parse().ok()?;
        (!matches!(state, "Z" | "X" | "x")).then_some(Self {
            pid,
            parent,
            started,
        })
    }

    /// Sends it a signal, unless it is gone: a process that got its number since is not hit.
    /// Says whether it was there.
    ///
    /// # Errors
    /// As pidfd_open(2) and pidfd_send_signal(2), except ESRCH.
    pub fn send_signal(self, signal: Signal) -> io::Result<bool> {
        use rustix::io::Errno;
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Ok(false) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        // The pidfd names whoever has the number now; look again whether that is still the one.
        if Self::look_up(self.pid).is_none_or(|now| now.started != self.started) {
            return Ok(false);
        }
        match rustix::process::pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Every living descendant of a process, parents before children, as one walk over `/proc`
/// finds them: one that is born meanwhile may be missing, so callers look again.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn descendants(root: u32) -> io::Result<Vec<Process>> {
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        others.extend(Process::look_up(pid));
    }
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let from = found.len();
        found.extend(others.extract_if(.., |process| process.parent == parent));
        parents.extend(found.iter().skip(from).map(|process| process.pid));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn reads_a_stat_line_with_an_awkward_name() {
        let stat = b"42 (a) Z 1 (b) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 991 0 0\n";
        let expected = Process {
            pid: 42,
            parent: 7,
            started: 991,
        };
        assert_eq!(Process::from_stat(42, stat), Some(expected));
        assert_eq!(Process::from_stat(42, b"42 (a) Z 7 42"), None);
        assert_eq!(Process::from_stat(42, b""), None);
    }

    #[test]
    fn finds_and_ends_children_and_grandchildren() {
        // The shell says when its own child is there, and does not end before that.
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        let mut stdout = shell.stdout.take().unwrap();
        stdout.read_exact(&mut line).unwrap();

        let below = descendants(std::process::id()).unwrap();
        let child = below.iter().find(|process| process.pid == shell.id());
        let grandchild = below.iter().find(|process| process.parent == shell.id());
        let (child, grandchild) = (*child.unwrap(), *grandchild.unwrap());
        let stranger = Process {
            started: grandchild.started + 1,
            ..grandchild
        };
        assert!(!stranger.send_signal(Signal::KILL).unwrap());
        assert!(child.send_signal(Signal::KILL).unwrap());
        assert!(grandchild.send_signal(Signal::KILL).unwrap());
        // End of file: both have let go of the pipe.
        assert_eq!(stdout.read(&mut line).unwrap(), 0);
        shell.wait().unwrap();
        assert!(!child.send_signal(Signal::KILL).unwrap());
    }

    #[test]
    fn counts_processors_like_the_standard_library_without_a_quota() {
        let count = usable_processors();
        let theirs = std::thread::available_parallelism().unwrap().get();
        assert!(count >= 1 && u32::try_from(theirs).unwrap() <= count);
    }

    #[test]
    fn a_child_that_has_ended_is_seen_and_then_collected() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        let ended = rustix::process::WaitIdOptions::EXITED;
        let options = ended | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        // Other tests have children, too.
        assert!(ended_child().unwrap().is_some());
        assert_eq!(collect(child.id()).unwrap(), Exit::Code(7));
        assert!(collect(child.id()).is_err());
        assert!(child.wait().is_err(), "it is gone");
    }

    #[test]
    fn takes_over_an_inherited_descriptor() {
        let (reader, writer) = io::pipe().unwrap();
        let ours = inherited_descriptor(reader.as_raw_fd()).unwrap();
        assert_ne!(ours.as_raw_fd(), reader.as_raw_fd());
        drop(writer);
        assert_eq!(fs::File::from(ours).read(&mut [0]).unwrap(), 0);
        assert_eq!(
            inherited_descriptor(-1).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert!(inherited_descriptor(987_654).is_err());
    }

    #[test]
    fn raising_the_limit_tells_the_former_one() {
        let before = raise_descriptor_limit().unwrap();
        assert_eq!(descriptor_limit().current, before.maximum);
    }
}
