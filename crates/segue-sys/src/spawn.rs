//! Starts a process with exactly the descriptors, environment, directory, limits and signal
//! state it is given, and holds it by a pidfd from its first moment. It chooses none of these.
//!
//! `clone` with CLONE_PIDFD makes process and pidfd in one step, so the pidfd can never name
//! another process. The old `clone` call is used and not `clone3`, because seccomp filters of
//! container runtimes refuse the latter. Between clone and exec the child makes system calls
//! only: memory for everything else is ready before, so other threads' locks do not matter.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Rlimit, WaitId, WaitIdOptions};

use crate::clone;
use crate::privileges::{self, Identity};

pub use rustix::process::Signal;

/// What to start. Of stdin, stdout and stderr, those without an entry in `descriptors` are
/// inherited.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The executable; a relative path is relative to `cwd`. No search is done.
    pub program: &'a Path,
    /// With the zeroth argument.
    pub argv: &'a [OsString],
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    pub cwd: &'a Path,
    /// Each goes to the number beside it. All others are closed by the exec.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
    /// `RLIMIT_NOFILE` of the process; ours if `None`.
    pub descriptor_limit: Option<Rlimit>,
    /// Priority for the processor; ours if `None`, or if it is refused.
    pub nice: Option<i32>,
    /// Who it is; as us if `None`. It enters its directory and starts its program as that user.
    pub identity: Option<&'a Identity>,
    /// Neither it nor what it starts can get more rights than it has at its start.
    pub no_new_privileges: bool,
    /// Which rights files that it makes do not get (umask(2)); ours if `None`.
    pub umask: Option<u32>,
    /// The directory of the cgroup that it begins in, if the kernel can do that; else in ours.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub mask: Mask,
}

/// Which signals are blocked in the new process. Dispositions are always reset to the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// None.
    Clear,
    /// Those that the spawning thread blocks: a program of ours, which will read them itself,
    /// can then not be killed by a signal before it has got that far.
    Inherit,
}

/// A process, leader of a process group of its own.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    /// Readable once the process has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Somebody else has reaped it.
    Unknown,
}

/// What could not be done on the way to the new program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Arguments,
    Descriptors,
    Clone,
    ProcessGroup,
    Directory,
    Limit,
    Identity,
    Exec,
}

/// Why there is no process. Nothing is left of it.
#[derive(Debug)]
pub struct SpawnError {
    pub step: Step,
    pub source: io::Error,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Arguments => "an argument or variable cannot be passed on",
            Step::Descriptors => "its descriptors could not be set up",
            Step::Clone => "no process could be made",
            Step::ProcessGroup => "its process group could not be made",
            Step::Directory => "its directory could not be entered",
            Step::Limit => "its limit of open files could not be set",
            Step::Identity => "it could not give up the rights of this user",
            Step::Exec => "its program could not be started",
        };
        write!(f, "{what}: {}", self.source)
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// A process that exists and waits to become the new program. It ends by itself when this is
/// dropped, and when this process ends: so it can be noted down before it runs.
#[derive(Debug)]
pub struct Held {
    /// None once it has been released.
    child: Option<Child>,
    /// A byte lets it go on; the end does not.
    go: Option<OwnedFd>,
    report: File,
}

impl Held {
    /// The process, unless it is gone.
    #[must_use]
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Lets it become the new program. Returns when it has, or with the step that failed.
    ///
    /// # Errors
    /// See [`Step`]; `source` is the kernel's error.
    pub fn release(mut self) -> Result<Child, SpawnError> {
        if let Some(go) = self.go.take() {
            // It fails only if the process has been killed meanwhile, which its report tells.
            let _ = rustix::io::write(&go, &[1]);
        }
        let mut report = [0; 8];
        match self.report.read_exact(&mut report) {
            Ok(()) => {
                let [step, _, _, _, errno @ ..] = report;
                Err(SpawnError {
                    step: Step::from_byte(step),
                    source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                })
            }
            // The exec has closed the other end without a word.
            Err(_) => self.child.take().ok_or_else(|| SpawnError {
                step: Step::Clone,
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.go.take());
        if let Some(child) = &self.child {
            // It is about to exit by itself; without this it would stay a zombie.
            let options = WaitIdOptions::EXITED;
            let _ = rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), options);
        }
    }
}

impl Spawn<'_> {
    /// Starts it. Returns when the new program runs, or with the step that failed.
    ///
    /// # Errors
    /// See [`Step`]; `source` is the kernel's error, with a NUL byte in a string as
    /// `InvalidInput`.
    pub fn start(self) -> Result<Child, SpawnError> {
        self.hold()?.release()
    }

    /// Makes the process, which does not become the new program yet.
    ///
    /// # Errors
    /// As [`Spawn::start`], for the steps up to [`Step::Clone`].
    pub fn hold(self) -> Result<Held, SpawnError> {
        let program = c_string(self.program.as_os_str())?;
        let cwd = c_string(self.cwd.as_os_str())?;
        let argv = CStrings::new(self.argv.iter().map(|arg| c_string(arg)))?;
        let env = CStrings::new(self.env.iter().map(|(key, value)| {
            let mut pair = key.clone();
            pair.push("=");
            pair.push(value);
            c_string(&pair)
        }))?;

        // Sources must lie above every target, or placing one could overwrite another.
        let above = self.descriptors.iter().map(|(_, to)| to + 1).max();
        let above = above.unwrap_or(0).max(3);
        let mut descriptors = Vec::with_capacity(self.descriptors.len());
        for (from, to) in self.descriptors {
            descriptors.push((lift(from, above)?, to));
        }
        let (report, errors) = pipe()?;
        let errors = lift(errors, above)?;
        let (wait, go) = pipe()?;
        let (wait, go) = (lift(wait, above)?, lift(go, above)?);
        let moves: Vec<(RawFd, RawFd)> = descriptors
            .iter()
            .map(|(from, to)| (from.as_raw_fd(), *to))
            .collect();

        let plan = Plan {
            program: &program,
            argv: argv.pointers.as_ptr(),
            env: env.pointers.as_ptr(),
            cwd: &cwd,
            moves: &moves,
            limit: self.descriptor_limit,
            nice: self.nice,
            identity: self.identity,
            no_new_privileges: self.no_new_privileges,
            umask: self.umask,
            cgroup: self.cgroup,
            errors: errors.as_raw_fd(),
            wait: wait.as_raw_fd(),
            go: go.as_raw_fd(),
        };
        // No handler of ours may run in the child, where half of this process is missing.
        let blocked = BlockedSignals::all();
        let mask = match self.mask {
            Mask::Clear => empty_set(),
            Mask::Inherit => blocked.before,
        };
        let child = plan.clone_and_run(&mask)?;
        drop(blocked);
        Ok(Held {
            child: Some(child),
            go: Some(go),
            report: File::from(report),
        })
    }
}

impl Step {
    fn from_byte(byte: u8) -> Self {
        [
            Self::Descriptors,
            Self::ProcessGroup,
            Self::Directory,
            Self::Limit,
            Self::Identity,
        ]
        .into_iter()
        .find(|step| *step as u8 == byte)
        .unwrap_or(Self::Exec)
    }
}

/// Everything the child needs, in memory that exists before it does.
struct Plan<'a> {
    program: &'a CString,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    cwd: &'a CString,
    moves: &'a [(RawFd, RawFd)],
    limit: Option<Rlimit>,
    nice: Option<i32>,
    identity: Option<&'a Identity>,
    no_new_privileges: bool,
    umask: Option<u32>,
    cgroup: Option<BorrowedFd<'a>>,
    errors: RawFd,
    /// Where it waits for a byte, and the other end, which is to be closed first.
    wait: RawFd,
    go: RawFd,
}

impl Plan<'_> {
    /// Makes the process, in which nothing but `run` happens.
    fn clone_and_run(&self, mask: &libc::sigset_t) -> Result<Child, SpawnError> {
        // SAFETY: in the child there is only `run`, which keeps to system calls and does not return.
        match unsafe { clone::clone(self.cgroup) } {
            Ok(None) => self.run(mask),
            Ok(Some((pid, pidfd))) => Ok(Child { pid, pidfd }),
            Err(source) => Err(SpawnError {
                step: Step::Clone,
                source,
            }),
        }
    }

    /// The child's whole life in our program. Must not allocate, lock or unwind.
    fn run(&self, mask: &libc::sigset_t) -> ! {
        if !self.may_go() {
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        let (step, errno) = self.become_program(mask);
        let mut report = [0; 8];
        report[0] = step as u8;
        report[4..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: the buffer is ours and 8 bytes long. A pipe takes so few at once.
        unsafe { libc::write(self.errors, report.as_ptr().cast(), report.len()) };
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(127) }
    }

    /// Waits for the parent's word; false if the parent is gone or has changed its mind.
    fn may_go(&self) -> bool {
        // SAFETY: closes this process's copy of a number that no Rust object here owns any more:
        // without that its end would never come.
        unsafe { libc::close(self.go) };
        let mut word = 0_u8;
        loop {
            // SAFETY: one byte, into a variable of ours.
            let read = unsafe { libc::read(self.wait, (&raw mut word).cast(), 1) };
            if read < 0 && last_errno() == libc::EINTR {
                continue;
            }
            return read == 1;
        }
    }

    /// Returns only on failure.
    fn become_program(&self, mask: &libc::sigset_t) -> (Step, i32) {
        if let Err(errno) = rustix::process::setpgid(None, None) {
            return (Step::ProcessGroup, errno.raw_os_error());
        }
        // Ignored signals stay ignored over an exec; Rust's start-up ignores SIGPIPE. The
        // kernel is asked directly, because libc refuses the two signals it keeps for itself.
        for number in 1..=64 {
            let default = [0_u64; 4];
            // SAFETY: zeros are a kernel `sigaction` with SIG_DFL, of at most this size; 8 is
            // the size of its mask. SIGKILL and SIGSTOP are refused, and are never ignored.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    number,
                    default.as_ptr(),
                    std::ptr::null_mut::<u64>(),
                    8_usize,
                )
            };
        }
        // Everything of ours is close-on-exec already; this also stops descriptors that we
        // inherited ourselves. Before Linux 5.11 the flag is refused, and those pass.
        // SAFETY: marks descriptors of this process only, which owns no Rust object any more.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        for &(from, to) in self.moves {
            // SAFETY: `from` is open; what `to` was belongs to nobody in this process.
            if unsafe { libc::dup2(from, to) } < 0 {
                return (Step::Descriptors, last_errno());
            }
        }
        if let Some(limit) = self.limit
            && let Err(errno) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        {
            return (Step::Limit, errno.raw_os_error());
        }
        if let Some(nice) = self.nice {
            let _ = rustix::process::setpriority_process(None, nice);
        }
        if let Some(umask) = self.umask {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask & 0o777));
        }
        // Only now: what comes before may take the rights that end here.
        if let Err(errno) = privileges::give_up(self.identity, self.no_new_privileges) {
            return (Step::Identity, errno.raw_os_error());
        }
        if let Err(errno) = rustix::process::chdir(self.cwd.as_c_str()) {
            return (Step::Directory, errno.raw_os_error());
        }
        // SAFETY: `mask` is initialised; the old set is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
        // SAFETY: all three are NUL-terminated and, the lists, NULL-terminated; they live in the
        // parent's frame, of which this process has a copy.
        unsafe { libc::execve(self.program.as_ptr(), self.argv, self.env) };
        (Step::Exec, last_errno())
    }
}

/// Blocks every signal of this thread until dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> Self {
        let mut full = empty_set();
        // SAFETY: the set is initialised.
        unsafe { libc::sigfillset(&raw mut full) };
        let mut before = empty_set();
        // SAFETY: both sets are initialised. With these arguments the call cannot fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const full, &raw mut before) };
        Self { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores a set that the kernel gave us.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            )
        };
    }
}

/// Strings as exec wants them: a list of pointers, ended by a null one.
struct CStrings {
    pointers: Vec<*const libc::c_char>,
    _owned: Vec<CString>,
}

impl CStrings {
    fn new(strings: impl Iterator<Item = Result<CString, SpawnError>>) -> Result<Self, SpawnError> {
        let owned: Vec<CString> = strings.collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = owned.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Ok(Self {
            pointers,
            _owned: owned,
        })
    }
}

/// Sends a signal to the process that the pidfd names, and to no other.
///
/// # Errors
/// `ESRCH` if it has been reaped, else as pidfd_send_signal(2).
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::pidfd_send_signal(pidfd, signal)?)
}

/// Sends a signal to every process of the group that a spawned process leads. Only sound while
/// the leader has not been reaped: until then its number names no other group.
///
/// # Errors
/// `ESRCH` if nobody is left in it, else as kill(2).
pub fn send_group(leader: u32, signal: Signal) -> io::Result<()> {
    let group = i32::try_from(leader).ok().and_then(Pid::from_raw);
    let group = group.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process_group(group, signal)?)
}

/// Waits for the end of a child that was killed, for ten seconds at most, and collects it.
///
/// # Errors
/// As poll(2) and [`reap`].
pub fn reap_killed(pidfd: impl AsFd) -> io::Result<Option<Exit>> {
    let limit = rustix::time::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut polled = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut polled, Some(&limit))?;
    reap(&pidfd)
}

/// Whether the process is a child of this one, so that its exit can be collected.
#[must_use]
pub fn is_child(pidfd: impl AsFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options),
        Err(Errno::CHILD)
    )
}

/// How a process ended that somebody else collects, or has collected, while its pidfd is held.
/// `None` where the kernel does not tell: before Linux 6.15, or while it runs (PIDFD_GET_INFO,
/// `include/uapi/linux/pidfd.h`).
#[must_use]
pub fn exit_of(pidfd: impl AsFd) -> Option<Exit> {
    /// PIDFD_INFO_EXIT.
    const EXIT: u64 = 1 << 3;
    // The first version of `struct pidfd_info`: mask, cgroup id, then numbers of 32 bits, of which
    // the last is the exit status.
    let mut info = [0_u64; 8];
    info[0] = EXIT;
    // _IOWR(0xff, 11, 64 bytes).
    let request = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    // SAFETY: the kernel reads and writes as many bytes as the request says, which `info` has.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), request, info.as_mut_ptr()) };
    if result != 0 || info[0] & EXIT == 0 {
        return None;
    }
    let status = i32::from_ne_bytes(info[7].to_ne_bytes()[4..].try_into().ok()?);
    match status {
        status if libc::WIFEXITED(status) => Some(Exit::Code(libc::WEXITSTATUS(status))),
        status if libc::WIFSIGNALED(status) => Some(Exit::Signal(libc::WTERMSIG(status))),
        _ => Some(Exit::Unknown),
    }
}

/// Collects the exit of a child, if it has ended. Never waits: the caller waits until the pidfd
/// is readable.
///
/// # Errors
/// As waitid(2); that the process is no child of ours any more is [`Exit::Unknown`].
pub fn reap(pidfd: impl AsFd) -> io::Result<Option<Exit>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    loop {
        return match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(status) => Ok(status.map(|status| {
                let code = status.exit_status().map(Exit::Code);
                let signal = status.terminating_signal().map(Exit::Signal);
                code.or(signal).unwrap_or(Exit::Unknown)
            })),
            Err(Errno::CHILD) => Ok(Some(Exit::Unknown)),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

fn c_string(string: &OsStr) -> Result<CString, SpawnError> {
    CString::new(string.as_bytes()).map_err(|nul| SpawnError {
        step: Step::Arguments,
        source: io::Error::new(io::ErrorKind::InvalidInput, nul),
    })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| failed(Step::Descriptors, errno))
}

fn lift(fd: OwnedFd, above: RawFd) -> Result<OwnedFd, SpawnError> {
    if fd.as_raw_fd() >= above {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, above).map_err(|errno| failed(Step::Descriptors, errno))
}

fn failed(step: Step, errno: Errno) -> SpawnError {
    SpawnError {
        step,
        source: errno.into(),
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    unsafe { set.assume_init() }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
