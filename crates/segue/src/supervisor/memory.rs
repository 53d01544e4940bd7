//! Whether a worker has ended for want of memory: the kernel counts whom it kills for it in our
//! cgroup, and node says so itself before it gives up at the limit of its heap.

use std::fs;
use std::path::{Path, PathBuf};

use segue_core::ExitStatus;

use crate::control::names::OutOfMemory;

const CGROUPS: &str = "/sys/fs/cgroup";

/// What node's abort looks like: SIGABRT, or the code of a shell for it.
const ABORTED: [ExitStatus; 2] = [ExitStatus::Signal(6), ExitStatus::Code(134)];

const KILLED: ExitStatus = ExitStatus::Signal(9);

/// The kernel's count of those it has killed, as far as it has been seen.
#[derive(Debug)]
pub(super) struct Kills {
    /// Where the count is; nowhere in a system that hides it.
    path: Option<PathBuf>,
    seen: u64,
}

impl Kills {
    /// Counts from now on.
    pub(super) fn watch() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::at(counter(&own, Path::new(CGROUPS)))
    }

    fn at(path: Option<PathBuf>) -> Self {
        let seen = path.as_deref().and_then(count).unwrap_or(0);
        Self { path, seen }
    }

    /// Whether this end was one of them. `own` is the count of the worker's own cgroup, if it has one that
    /// counts; else each that was counted in ours explains one end.
    pub(super) fn judge(
        &mut self,
        status: ExitStatus,
        tail: &[String],
        own: Option<u64>,
    ) -> Option<OutOfMemory> {
        if ABORTED.contains(&status) && tail.iter().any(|line| line.contains("heap out of memory"))
        {
            return Some(OutOfMemory::Heap);
        }
        if status != KILLED {
            return None;
        }
        if let Some(own) = own {
            return (own > 0).then_some(OutOfMemory::Kernel);
        }
        let now = count(self.path.as_deref()?)?;
        // The count begins anew where the cgroup does.
        self.seen = self.seen.min(now);
        (now > self.seen).then(|| {
            self.seen += 1;
            OutOfMemory::Kernel
        })
    }
}

/// The file that counts, by what /proc/self/cgroup says (cgroups(7)): version 2, else version 1.
fn counter(own: &str, root: &Path) -> Option<PathBuf> {
    let groups = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some((controllers, path.trim_start_matches('/')))
    });
    let candidates = groups.flat_map(|(controllers, path)| match controllers {
        "" => vec![
            root.join(path).join("memory.events"),
            root.join("memory.events"),
        ],
        "memory" => vec![
            root.join("memory").join(path).join("memory.oom_control"),
            // In a container the path may be that of the host.
            root.join("memory/memory.oom_control"),
        ],
        _ => Vec::new(),
    });
    candidates
        .into_iter()
        .find(|candidate| count(candidate).is_some())
}

fn count(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, kills: u64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = format!("low 0\nmax 3\noom 9\noom_kill {kills}\noom_group_kill 0\n");
        fs::write(path, text).unwrap();
    }

    #[test]
    fn each_kill_explains_one_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/memory.events");
        write(&path, 5);
        let mut kills = Kills::at(counter("0::/a\n", root.path()));
        assert_eq!(kills.judge(KILLED, &[], None), None, "before us");
        write(&path, 7);
        let other = kills.judge(ExitStatus::Code(1), &[], None);
        assert_eq!(other, None, "not killed at all");
        assert_eq!(kills.judge(KILLED, &[], None), Some(OutOfMemory::Kernel));
        assert_eq!(kills.judge(KILLED, &[], None), Some(OutOfMemory::Kernel));
        assert_eq!(kills.judge(KILLED, &[], None), None, "somebody's kill -9");
        write(&path, 0);
        assert_eq!(kills.judge(KILLED, &[], None), None);
        write(&path, 1);
        assert_eq!(kills.judge(KILLED, &[], None), Some(OutOfMemory::Kernel));
        fs::remove_file(&path).unwrap();
        assert_eq!(kills.judge(KILLED, &[], None), None);
    }

    #[test]
    fn the_counter_is_found() {
        for (own, file, is_found) in [
            ("0::/a/b\n", "a/b/memory.events", true),
            ("0::/\n", "memory.events", true),
            ("0::/host/path\n", "memory.events", true),
            (
                "4:memory:/a\n1:cpu:/\n0::/\n",
                "memory/a/memory.oom_control",
                true,
            ),
            ("4:memory:/host\n", "memory/memory.oom_control", true),
            ("1:cpu:/\n", "memory.events", false),
            ("", "memory.events", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            write(&path, 0);
            let expected = is_found.then_some(path);
            assert_eq!(counter(own, root.path()), expected, "{own}");
        }
    }

    #[test]
    fn node_says_so_itself() {
        let mut kills = Kills::at(None);
        let said = [
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"
                .to_owned(),
        ];
        for status in ABORTED {
            assert_eq!(kills.judge(status, &said, None), Some(OutOfMemory::Heap));
            assert_eq!(kills.judge(status, &[], None), None);
        }
        assert_eq!(kills.judge(ExitStatus::Code(1), &said, None), None);
        let counted = |own| Kills::at(None).judge(KILLED, &[], Some(own));
        assert_eq!((counted(0), counted(1)), (None, Some(OutOfMemory::Kernel)));
        assert_eq!(kills.judge(KILLED, &said, None), None);
    }
}
