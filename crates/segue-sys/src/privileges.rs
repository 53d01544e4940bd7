//! What a new process gives up before it becomes its program: another user's rights, and the way to
//! new ones. Everything here is for the time between clone and exec, where only system calls are
//! allowed: those of libc would try to reach threads that are not there (nptl(7)).

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// A user, with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    /// All of them, the supplementary ones.
    groups: Vec<Gid>,
}

/// `(uid_t) -1` says "leave it as it is" to the kernel.
const NOBODY_AT_ALL: u32 = u32::MAX;

impl Identity {
    /// `None` for a number that names nobody.
    #[must_use]
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Option<Self> {
        let is_one = |number: &u32| *number != NOBODY_AT_ALL;
        if !is_one(&uid) || !is_one(&gid) || !groups.iter().all(is_one) {
            return None;
        }
        Some(Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.iter().copied().map(Gid::from_raw).collect(),
        })
    }

    /// Makes it the owner of a descriptor's file.
    ///
    /// # Errors
    /// As fchown(2).
    pub fn own(&self, file: impl AsFd) -> io::Result<()> {
        Ok(rustix::fs::fchown(file, Some(self.uid), Some(self.gid))?)
    }

    /// Makes this process that user, for good. Groups go first: without root they cannot be set.
    pub(crate) fn assume(&self) -> Result<(), Errno> {
        rustix::thread::set_thread_groups(&self.groups)?;
        rustix::thread::set_thread_res_gid(self.gid, self.gid, self.gid)?;
        rustix::thread::set_thread_res_uid(self.uid, self.uid, self.uid)?;
        self.check()
    }

    /// Nothing of what was is left, and there is no way back.
    fn check(&self) -> Result<(), Errno> {
        let is_done = rustix::process::getuid() == self.uid
            && rustix::process::geteuid() == self.uid
            && rustix::process::getgid() == self.gid
            && rustix::process::getegid() == self.gid;
        if !is_done {
            return Err(Errno::PERM);
        }
        if self.uid.is_root() {
            return Ok(());
        }
        let root = Uid::ROOT;
        match rustix::thread::set_thread_res_uid(root, root, root) {
            Err(_) => Ok(()),
            Ok(()) => Err(Errno::PERM),
        }
    }
}

/// Becomes that user, and forgoes every way to more rights (prctl(2), PR_SET_NO_NEW_PRIVS).
pub(crate) fn give_up(identity: Option<&Identity>, new_privileges: bool) -> Result<(), Errno> {
    if let Some(identity) = identity {
        identity.assume()?;
    }
    match new_privileges {
        true => rustix::thread::set_no_new_privs(true),
        false => Ok(()),
    }
}
