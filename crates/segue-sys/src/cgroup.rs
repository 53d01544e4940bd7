//! Groups of processes below this process's own, in version 2 of cgroups(7): who is put into one
//! stays in it with everything that it starts, and all of it can be killed at once. Whether that is
//! wanted is the caller's business; that it cannot be had is no error.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The last part of the name of the group that supervisors move to.
const SUPERVISORS: &str = "supervisor";

/// What systemd leaves at a group whose inside is not its own business.
const DELEGATED: [&CStr; 2] = [c"trusted.delegate", c"user.delegate"];

/// Where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    own: PathBuf,
    /// Of the groups above.
    above: Limits,
}

/// A group that was made, or may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    directory: PathBuf,
}

/// Bytes of memory that a group may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Above it the kernel slows the group down and takes memory back.
    pub high: Option<u64>,
    /// Above it the kernel kills somebody in the group.
    pub max: Option<u64>,
}

/// Why memory cannot be limited for each group.
#[derive(Debug)]
pub enum NoMemoryControl {
    /// The controller is not there: not in the kernel, in version 1 instead, or not delegated.
    NotThere,
    /// Processes of others are in the group, and the kernel wants none beside groups with limits.
    Others(Vec<u32>),
    System(io::Error),
}

impl Limits {
    /// The lower one of each.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let lower = |one: Option<u64>, two: Option<u64>| one.into_iter().chain(two).min();
        Self {
            high: lower(self.high, other.high),
            max: lower(self.max, other.max),
        }
    }

    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Tree {
    /// Below the group of this process, or beside it where that is one that was made for supervisors
    /// only. `None` where there is no version 2, where its inside is somebody else's, or where nothing
    /// may be written.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let group = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let (mount, path) = locate(&group, &mounts)?;
        let own = base(&mount.join(&path), &mount);
        let is_managed = path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            [".service", ".scope", ".slice"]
                .iter()
                .any(|kind| name.ends_with(kind))
        });
        if is_managed && !is_delegated(&own) {
            return None;
        }
        let tree = Self {
            above: limits_of(&own, &mount),
            own,
        };
        tree.is_usable().then_some(tree)
    }

    /// Below a directory that is given.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self {
            own: directory.to_owned(),
            above: Limits::default(),
        }
    }

    /// What the groups above allow. Node makes its heap as large as the limit of its very group says: one
    /// without a limit would hide these.
    #[must_use]
    pub const fn above(&self) -> Limits {
        self.above
    }

    /// Whether each group has limits of memory of its own.
    #[must_use]
    pub fn controls_memory(&self) -> bool {
        has_word(&self.own.join("cgroup.subtree_control"), "memory")
    }

    /// Gives each group limits of memory of its own. The kernel wants nobody in the group above then
    /// (cgroups(7), "no internal processes"), so `supervisors` move into one of their own first: that
    /// holds every fork and exit of the system up for some milliseconds, once.
    ///
    /// # Errors
    /// Why that cannot be; all is as it was then.
    pub fn control_memory(&self, supervisors: &[u32]) -> Result<(), NoMemoryControl> {
        if self.controls_memory() {
            return Ok(());
        }
        if !has_word(&self.own.join("cgroup.controllers"), "memory") {
            return Err(NoMemoryControl::NotThere);
        }
        let theirs = self.group(&Self::new_name(SUPERVISORS));
        match theirs.make() {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(NoMemoryControl::System(error));
            }
            _ => {}
        }
        let here = Group {
            directory: self.own.clone(),
        };
        let controlled = supervisors
            .iter()
            .try_for_each(|pid| theirs.take(*pid))
            .and_then(|()| write(&self.own.join("cgroup.subtree_control"), "+memory"));
        let Err(error) = controlled else {
            return Ok(());
        };
        let others = here.processes();
        for pid in supervisors {
            // Best effort: where they are now they do no harm.
            let _ = here.take(*pid);
        }
        let _ = theirs.remove();
        Err(match error.kind() {
            io::ErrorKind::ResourceBusy if !others.is_empty() => NoMemoryControl::Others(others),
            _ => NoMemoryControl::System(error),
        })
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

    /// Moves a process into it.
    fn take(&self, pid: u32) -> io::Result<()> {
        write(&self.directory.join("cgroup.procs"), &pid.to_string())
    }

    /// Limits its memory; what is not given is unlimited.
    ///
    /// # Errors
    /// It is not there, or memory is not [controlled](Tree::control_memory).
    pub fn limit_memory(&self, limits: Limits) -> io::Result<()> {
        for (name, limit) in [("memory.high", limits.high), ("memory.max", limits.max)] {
            let text = limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
            write(&self.directory.join(name), &text)?;
        }
        Ok(())
    }

    /// How many of it the kernel has killed for want of memory, whoever's; none where memory is not
    /// [controlled](Tree::control_memory).
    #[must_use]
    pub fn killed_for_memory(&self) -> Option<u64> {
        let events = fs::read_to_string(self.directory.join("memory.events")).ok()?;
        let count = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))?;
        count.trim().parse().ok()
    }

    /// Kills everybody in it, those included who are just being started.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill(&self) -> io::Result<()> {
        write(&self.directory.join("cgroup.kill"), "1")
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

/// Where groups are made for a process in that one: it may be in one that is for supervisors only, made
/// by us or by systemd (`DelegateSubgroup=`).
fn base(own: &Path, mount: &Path) -> PathBuf {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    let is_ours = maker(&name).is_some() && name.ends_with(&format!("-{SUPERVISORS}"));
    let above = own.parent().filter(|above| above.starts_with(mount));
    match above {
        Some(above) if is_ours || (!is_delegated(own) && is_delegated(above)) => above.to_owned(),
        _ => own.to_owned(),
    }
}

/// The lowest limits of a group and those above it.
fn limits_of(own: &Path, mount: &Path) -> Limits {
    let within = own
        .ancestors()
        .take_while(|directory| directory.starts_with(mount));
    within.fold(Limits::default(), |lowest, directory| {
        let limit = |name: &str| {
            let text = fs::read_to_string(directory.join(name)).ok()?;
            text.trim().parse().ok()
        };
        lowest.and(Limits {
            high: limit("memory.high"),
            max: limit("memory.max"),
        })
    })
}

fn has_word(path: &Path, word: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().any(|other| other == word)
}

/// Never makes a file where there is no such group.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
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
        assert!(limits_of(&own, mount.path()).is_none());
        fs::write(own.join("memory.max"), "max\n").unwrap();
        assert!(limits_of(&own, mount.path()).is_none());
        fs::write(own.join("memory.high"), "3000\n").unwrap();
        fs::write(mount.path().join("a/memory.high"), "1000\n").unwrap();
        fs::write(mount.path().join("a/memory.max"), "2000\n").unwrap();
        let expected = Limits {
            high: Some(1000),
            max: Some(2000),
        };
        assert_eq!(limits_of(&own, mount.path()), expected);
    }

    #[test]
    fn supervisors_may_be_in_a_group_of_their_own() {
        let mount = Path::new("/nowhere/cgroup");
        for (own, expected) in [
            ("a/web.service", "a/web.service"),
            ("a/segue-7-supervisor", "a"),
            ("a/segue-x-supervisor", "a/segue-x-supervisor"),
            ("a/segue-7-web-1", "a/segue-7-web-1"),
            ("segue-7-supervisor", ""),
            ("", ""),
        ] {
            assert_eq!(base(&mount.join(own), mount), mount.join(expected), "{own}");
        }
    }

    /// Plain files: who is in the group above does not move, and that is seen.
    #[test]
    fn memory_is_controlled_or_all_is_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::at(folder.path());
        let us = [std::process::id()];
        assert!(matches!(
            tree.control_memory(&us),
            Err(NoMemoryControl::NotThere)
        ));
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        // Directories have no cgroup.procs here.
        assert!(matches!(
            tree.control_memory(&us),
            Err(NoMemoryControl::System(_))
        ));
        assert!(!tree.controls_memory());
        assert!(!tree.group(&Tree::new_name(SUPERVISORS)).exists());
        fs::write(folder.path().join("cgroup.subtree_control"), "memory\n").unwrap();
        assert!(tree.control_memory(&us).is_ok());

        let group = tree.group("one");
        group.make().unwrap();
        let limits = Limits {
            high: None,
            max: Some(1 << 20),
        };
        assert!(group.limit_memory(limits).is_err());
        for file in ["memory.high", "memory.max", "memory.events"] {
            fs::write(folder.path().join("one").join(file), "").unwrap();
        }
        group.limit_memory(limits).unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join("one").join(file)).unwrap();
        assert_eq!(
            (&*read("memory.high"), &*read("memory.max")),
            ("max", "1048576")
        );
        assert_eq!(group.killed_for_memory(), None);
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        fs::write(folder.path().join("one/memory.events"), events).unwrap();
        assert_eq!(group.killed_for_memory(), Some(2));
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
