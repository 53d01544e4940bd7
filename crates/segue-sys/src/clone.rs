//! A copy of this process, held by a pidfd from its first moment.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// CLONE_INTO_CGROUP: not of the width that the flags of the old call have.
const INTO_CGROUP: u64 = 1 << 33;

/// Makes a process; `None` in it, its number and its pidfd in this one. It begins in the cgroup whose
/// directory is given, where the kernel can do that, else where this process is: moving it there
/// later would hold up every fork and exit of the system for a while.
///
/// # Errors
/// As clone(2).
///
/// # Safety
/// The new process has one thread and a copy of all memory, the locks of other threads included:
/// it may only make system calls, and must not return from where it came.
pub(crate) unsafe fn clone(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<(u32, OwnedFd)>> {
    let mut pidfd: libc::c_int = -1;
    let in_cgroup = cgroup.and_then(|cgroup| {
        // SAFETY: as of this function.
        let pid = unsafe { clone_into(cgroup, &mut pidfd) };
        (pid >= 0).then_some(pid)
    });
    let pid = match in_cgroup {
        Some(pid) => pid,
        None => {
            let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
            // Without CLONE_VM this is fork(2), less the handlers that libc would run for its locks. A
            // stack of 0 keeps the current one. CLONE_PIDFD writes to the third argument, which is in
            // the same place on x86-64 and arm64, unlike the last two, which are not used (clone(2)).
            // SAFETY: as of this function.
            unsafe {
                libc::syscall(
                    libc::SYS_clone,
                    libc::c_ulong::from(flags.unsigned_abs()),
                    0 as libc::c_ulong,
                    &raw mut pidfd,
                    0 as libc::c_ulong,
                    0 as libc::c_ulong,
                )
            }
        }
    };
    match pid {
        0 => Ok(None),
        1.. => {
            // SAFETY: the kernel has made this descriptor for us in the clone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some((u32::try_from(pid).unwrap_or(0), pidfd)))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same by `clone3`, which filters of container runtimes may refuse.
///
/// # Safety
/// As [`clone`].
unsafe fn clone_into(cgroup: BorrowedFd<'_>, pidfd: &mut libc::c_int) -> libc::c_long {
    /// `struct clone_args` of Linux 5.7.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        tids: [u64; 2],
        exit_signal: u64,
        stack: [u64; 2],
        tls: u64,
        set_tid: [u64; 2],
        cgroup: u64,
    }
    let mut arguments = Arguments {
        flags: u64::from(libc::CLONE_PIDFD.unsigned_abs()) | INTO_CGROUP,
        pidfd: (&raw mut *pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
        ..Arguments::default()
    };
    let size = size_of::<Arguments>();
    // SAFETY: the structure is of that size, and `pidfd` lives as long as the call; the rest as of
    // this function.
    unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) }
}
