//! Groups of processes below this process's own, in version 2 of cgroups(7): who is put into one
//! stays in it with everything that it starts, and all of it can be killed at once. Whether that is
//! wanted is the caller's business; that it cannot be had is no error.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What systemd leaves at a group whose inside is not its own business.
const DELEGATED: [&CStr; 2] = [c"trusted.delegate", c"user.delegate"];

/// Where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    own: PathBuf,
}

/// A group that was made, or may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    directory: PathBuf,
}

impl Tree {
    /// Below the group of this process. `None` where there is no version 2, where its inside is
    /// somebody else's, where nothing may be written, or where memory is limited: node makes its heap
    /// as large as the limit of its very group says, and one without a limit would hide those above.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let group = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let (mount, path) = locate(&group, &mounts)?;
        let own = mount.join(&path);
        let is_managed = path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            [".service", ".scope", ".slice"]
                .iter()
                .any(|kind| name.ends_with(kind))
        });
        if (is_managed && !is_delegated(&own)) || is_limited(&own, &mount) {
            return None;
        }
        let tree = Self::at(&own);
        tree.is_usable().then_some(tree)
    }

    /// Below a directory that is given.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self {
            own: directory.to_owned(),
        }
    }

    /// Groups can be made, processes moved into them, and killed there (since Linux 5.14).
    fn is_usable(&self) -> bool {
        let probe = self.group(&Self::new_name("probe"));
        if fs::create_dir(&probe.directory).is_err() {
            return false;
        }
        let is_usable = probe.directory.join("cgroup.kill").exists()
            && rustix::fs::access(self.own.join("cgroup.procs"), rustix::fs::Access::WRITE_OK)
                .is_ok();
        let _ = probe.remove();
        is_usable
    }

    /// A name for a group of this process's.
    #[must_use]
    pub fn new_name(label: &str) -> String {
        format!("segue-{}-{label}", std::process::id())
    }

    /// The group of that name, whether it is there or not.
    #[must_use]
    pub fn group(&self, name: &str) -> Group {
        Group {
            directory: self.own.join(name),
        }
    }

    /// Removes groups in which nobody is any more: this process's, and those whose maker is gone. Of
    /// others an empty one may be about to be used.
    pub fn sweep(&self) {
        let entries = fs::read_dir(&self.own).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            if maker(&name.to_string_lossy()).is_some_and(is_gone_or_us) {
                // Refused while there is somebody.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Group {
    /// Makes it, with nobody in it.
    ///
    /// # Errors
    /// There is one of that name, or the kernel refuses.
    pub fn make(&self) -> io::Result<()> {
        fs::create_dir(&self.directory)
    }

    /// Its directory: processes can be [made in it](crate::spawn::Spawn).
    ///
    /// # Errors
    /// It is not there; `EMFILE`.
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(fs::File::open(&self.directory)?.into())
    }

    /// Who is in it; nobody if it is not there.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let listed = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    #[must_use]
    pub fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Kills everybody in it, those included who are just being started.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill(&self) -> io::Result<()> {
        // Never makes a file where there is no such group.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(self.directory.join("cgroup.kill"))?;
        io::Write::write_all(&mut file, b"1")
    }

    /// # Errors
    /// `EBUSY` while there is somebody in it.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.directory)
    }
}

/// Who has made a group of that name.
fn maker(name: &str) -> Option<u32> {
    let (maker, _) = name.strip_prefix("segue-")?.split_once('-')?;
    maker.parse().ok()
}

fn is_gone_or_us(pid: u32) -> bool {
    pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists()
}

/// Where version 2 is mounted, and this process's group below it.
fn locate(group: &str, mounts: &str) -> Option<(PathBuf, PathBuf)> {
    let path = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Of another namespace: nothing below it is ours.
    if path.starts_with("..") {
        return None;
    }
    // proc_pid_mountinfo(5): the root that is mounted is the fourth field, the place the fifth.
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (after.split(' ').next()? == "cgroup2" && root == "/" && !place.contains('\\'))
            .then_some(place)
    })?;
    Some((mount.into(), path.into()))
}

fn is_delegated(directory: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0_u8; 8];
        let read = rustix::fs::getxattr(directory, *name, &mut value[..]);
        read.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

fn is_limited(own: &Path, mount: &Path) -> bool {
    let within = own
        .ancestors()
        .take_while(|directory| directory.starts_with(mount));
    let mut limits = within.flat_map(|directory| {
        ["memory.max", "memory.high"].map(|limit| fs::read_to_string(directory.join(limit)))
    });
    limits.any(|limit| limit.is_ok_and(|limit| limit.trim() != "max"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::spawn::{Exit, Mask, Spawn, reap_killed};

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found() {
        let found = |mount: &str, path: &str| Some((mount.into(), path.into()));
        for (group, mounts, expected) in [
            ("0::/\n", UNIFIED, found("/sys/fs/cgroup", "")),
            (
                "4:memory:/x\n0::/a/b.service\n",
                HYBRID,
                found("/sys/fs/cgroup/unified", "a/b.service"),
            ),
            ("4:memory:/x\n", HYBRID, None),
            ("0::/../../other\n", UNIFIED, None),
            (
                "0::/a\n",
                "30 23 0:26 /part /sys/fs/cgroup rw - cgroup2 x rw\n",
                None,
            ),
            ("0::/a\n", "", None),
        ] {
            assert_eq!(locate(group, mounts), expected, "{group}");
        }
    }

    #[test]
    fn limits_above_are_seen() {
        let mount = tempfile::tempdir().unwrap();
        let own = mount.path().join("a/b");
        fs::create_dir_all(&own).unwrap();
        assert!(!is_limited(&own, mount.path()));
        fs::write(own.join("memory.max"), "max\n").unwrap();
        assert!(!is_limited(&own, mount.path()));
        fs::write(mount.path().join("a/memory.high"), "1000\n").unwrap();
        assert!(is_limited(&own, mount.path()));
    }

    /// A directory that is no cgroup, and takes any file.
    #[test]
    fn a_group_that_is_not_there_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::at(folder.path());
        assert!(!tree.is_usable(), "there is no cgroup.kill");
        let group = tree.group("none");
        assert!(!group.exists() && group.processes().is_empty());
        assert!(group.kill().is_err() && group.remove().is_err());
        // A number that no process has, and one that one has.
        let gone = "segue-4194305-web-1";
        for name in [
            gone,
            "segue-1-web-1",
            "segue-x",
            "other",
            &Tree::new_name("web-1"),
        ] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        tree.sweep();
        let left = fs::read_dir(folder.path()).unwrap().flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort_unstable();
        assert_eq!(left, ["other", "segue-1-web-1", "segue-x"]);
    }

    #[test]
    fn who_is_in_a_group_dies_with_it() {
        let Some(tree) = Tree::of_this_process() else {
            // Nothing to see without a cgroup of version 2 that can be written to.
            return;
        };
        let group = tree.group(&Tree::new_name("test"));
        group.make().unwrap();
        let directory = group.open().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let child = Spawn {
            program: Path::new("/bin/sh"),
            argv: &["sh", "-c", "setsid sleep 1000 & echo; wait"].map(Into::into),
            env: &[("PATH".into(), "/bin:/usr/bin".into())],
            cwd: Path::new("/"),
            descriptors: vec![(writer.into(), 1)],
            descriptor_limit: None,
            nice: None,
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: Some(directory.as_fd()),
            mask: Mask::Clear,
        };
        let child = child.start().unwrap();
        io::Read::read_exact(&mut fs::File::from(OwnedFd::from(reader)), &mut [0]).unwrap();
        let within = group.processes();
        assert!(
            within.contains(&child.pid) && within.len() == 2,
            "{within:?}"
        );
        assert!(group.remove().is_err(), "somebody is in it");
        group.kill().unwrap();
        assert_eq!(reap_killed(&child.pidfd).unwrap(), Some(Exit::Signal(9)));
        while group.remove().is_err() {
            std::thread::yield_now();
        }
        assert!(!group.exists());
    }
}
