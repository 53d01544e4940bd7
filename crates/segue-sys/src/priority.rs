//! Priority for the processor (nice, sched(7)), of whole process groups. Lowering it is always allowed,
//! raising it again is not.

use std::io;

use rustix::process::Pid;

/// The priority of this thread: 0 as a rule, at most 19, which is the lowest.
///
/// # Errors
/// As getpriority(2).
pub fn own() -> io::Result<i32> {
    Ok(rustix::process::getpriority_process(None)?)
}

/// Gives every thread of every process of the group this priority. No thread that is being made
/// meanwhile is left out (`sys_setpriority` holds the lock that a clone needs).
///
/// # Errors
/// `EACCES` where it may not be raised, `EPERM` for a process of another user, `ESRCH`.
pub fn set_group(leader: u32, nice: i32) -> io::Result<()> {
    let leader = i32::try_from(leader).ok().and_then(Pid::from_raw);
    let leader = leader.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::setpriority_pgrp(Some(leader), nice)?)
}

/// Whether what has been lowered can be raised again to what this process has: it has
/// CAP_SYS_NICE, or its RLIMIT_NICE reaches so far. Tried with a thread, because a capability of a user
/// namespace does not count, and a sandbox may refuse the call.
#[must_use]
pub fn can_be_raised() -> bool {
    let tried = || -> io::Result<()> {
        let before = own()?;
        rustix::process::setpriority_process(None, before + 1)?;
        Ok(rustix::process::setpriority_process(None, before)?)
    };
    let own = own().unwrap_or(0);
    own < 19
        && std::thread::Builder::new()
            .spawn(tried)
            .is_ok_and(|thread| thread.join().is_ok_and(|tried| tried.is_ok()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spawn::{Mask, Signal, Spawn, reap_killed, send_group};

    fn of_threads(pid: u32) -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks
            .map(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                let (_, rest) = stat.rsplit_once(')').unwrap();
                rest.split_whitespace().nth(16).unwrap().parse().unwrap()
            })
            .collect()
    }

    #[test]
    fn a_process_begins_low_and_is_raised_with_all_its_threads() {
        let before = own().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let child = Spawn {
            program: Path::new("/bin/sh"),
            argv: &["sh".into(), "-c".into(), "sleep 1000 & echo; wait".into()],
            env: &[("PATH".into(), "/bin:/usr/bin".into())],
            cwd: Path::new("/"),
            descriptors: vec![(writer, 1)],
            descriptor_limit: None,
            nice: Some(before + 7),
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: None,
            mask: Mask::Clear,
        }
        .start()
        .unwrap();
        // By now it has a child.
        rustix::io::read(&reader, &mut [0; 1]).unwrap();
        let below =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.pid)).unwrap();
        let below: u32 = below.trim().parse().unwrap();
        for pid in [child.pid, below] {
            assert_eq!(of_threads(pid), [before + 7]);
        }
        match can_be_raised() {
            true => {
                set_group(child.pid, before).unwrap();
                for pid in [child.pid, below] {
                    assert_eq!(of_threads(pid), [before]);
                }
            }
            false => assert!(set_group(child.pid, before).is_err()),
        }
        assert_eq!(own().unwrap(), before, "the try has left nothing behind");
        send_group(child.pid, Signal::KILL).unwrap();
        reap_killed(child.pidfd).unwrap();
    }
}
