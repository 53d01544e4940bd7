//! How many processors this process may use: one counts only if the affinity mask allows it and
//! the cgroup's quota pays for it.

use std::fs;
use std::path::{Path, PathBuf};

/// The processors this process may use: the affinity mask's, and no more than the quotas of its
/// cgroup and all cgroups above it allow, rounded up. At least 1.
pub(crate) fn available_processors() -> u32 {
    available_below(Path::new("/"), segue_sys::process::usable_processors())
}

/// The same, for a system whose files lie below `root`.
fn available_below(root: &Path, affinity: u32) -> u32 {
    let quota = Membership::read(root).quota();
    affinity.min(quota.unwrap_or(u32::MAX)).max(1)
}

/// The directories of the cgroups this process is in that may hold a processor quota, with
/// the top of each hierarchy, where the walk upwards ends.
struct Membership {
    unified: Option<(PathBuf, PathBuf)>,
    legacy: Option<(PathBuf, PathBuf)>,
}

impl Membership {
    fn read(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = root.join("sys/fs/cgroup");
        let mut membership = Self {
            unified: None,
            legacy: None,
        };
        // hierarchy-ID:controller-list:cgroup-path (cgroups(7))
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                membership.unified = Some((mounts.clone(), below(&mounts, path)));
            } else if controllers.split(',').any(|controller| controller == "cpu") {
                // Distributions mount it under the list's name, and link each controller to it.
                let top = [controllers, "cpu"].map(|name| mounts.join(name));
                if let Some(top) = top.into_iter().find(|top| top.is_dir()) {
                    membership.legacy = Some((top.clone(), below(&top, path)));
                }
            }
        }
        membership
    }

    fn quota(&self) -> Option<u32> {
        let unified = self.unified.iter().flat_map(|(top, own)| {
            up_to(own, top).filter_map(|group| {
                let text = fs::read_to_string(group.join("cpu.max")).ok()?;
                let mut words = text.split_ascii_whitespace();
                processors(words.next()?, words.next()?)
            })
        });
        let legacy = self.legacy.iter().flat_map(|(top, own)| {
            up_to(own, top).filter_map(|group| {
                let quota = fs::read_to_string(group.join("cpu.cfs_quota_us")).ok()?;
                let period = fs::read_to_string(group.join("cpu.cfs_period_us")).ok()?;
                processors(quota.trim(), period.trim())
            })
        });
        unified.chain(legacy).min()
    }
}

/// The group's directory. Inside a container the path may be that of the host, or begin with
/// `..`, while only the container's own group is mounted: then the top stands for it.
fn below(top: &Path, path: &str) -> PathBuf {
    let relative = path.trim_start_matches('/');
    let outside = relative.split('/').any(|part| part == "..");
    let own = top.join(relative);
    if outside || !own.is_dir() {
        top.to_owned()
    } else {
        own
    }
}

fn up_to<'a>(own: &'a Path, top: &'a Path) -> impl Iterator<Item = &'a Path> {
    own.ancestors()
        .take_while(move |group| group.starts_with(top))
}

/// A quota in whole processors, rounded up; `None` for `max`, -1 and nonsense.
fn processors(quota: &str, period: &str) -> Option<u32> {
    let quota: u64 = quota.parse().ok()?;
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    u32::try_from(quota.div_ceil(period)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system with these files, on 8 processors.
    fn check(files: &[(&str, &str)], expected: u32) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(available_below(root.path(), 8), expected, "{files:?}");
    }

    #[test]
    fn without_a_quota_the_affinity_counts() {
        check(&[], 8);
        check(&[("proc/self/cgroup", "0::/\n")], 8);
        check(
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ],
            8,
        );
        check(
            &[
                ("proc/self/cgroup", "0::/a\n"),
                ("sys/fs/cgroup/a/cpu.max", "what\n"),
            ],
            8,
        );
    }

    #[test]
    fn a_quota_is_rounded_up_and_never_raises() {
        for (max, expected) in [
            ("150000 100000", 2),
            ("200000 100000", 2),
            ("5000 100000", 1),
            ("0 100000", 1),
            ("1600000 100000", 8),
        ] {
            check(
                &[
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/cpu.max", max),
                ],
                expected,
            );
        }
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        check(
            &[
                ("proc/self/cgroup", "0::/system.slice/web.service\n"),
                (
                    "sys/fs/cgroup/system.slice/web.service/cpu.max",
                    "400000 100000",
                ),
                ("sys/fs/cgroup/system.slice/cpu.max", "300000 100000"),
                ("sys/fs/cgroup/other.slice/cpu.max", "100000 100000"),
            ],
            3,
        );
    }

    #[test]
    fn a_path_of_the_host_means_the_mounted_top() {
        for path in ["/docker/0123abcd", "/../../elsewhere"] {
            let membership = format!("0::{path}\n");
            check(
                &[
                    ("proc/self/cgroup", membership.as_str()),
                    ("sys/fs/cgroup/cpu.max", "200000 100000"),
                ],
                2,
            );
        }
    }

    #[test]
    fn legacy_quotas_count_under_either_name() {
        for (mount, lines) in [
            ("cpu,cpuacct", "4:cpu,cpuacct:/job\n0::/\n"),
            ("cpu", "4:cpu,cpuacct:/job\n1:name=systemd:/\n"),
        ] {
            let (quota, period) = (
                format!("sys/fs/cgroup/{mount}/job/cpu.cfs_quota_us"),
                format!("sys/fs/cgroup/{mount}/job/cpu.cfs_period_us"),
            );
            check(
                &[
                    ("proc/self/cgroup", lines),
                    (quota.as_str(), "250000\n"),
                    (period.as_str(), "100000\n"),
                ],
                3,
            );
            check(
                &[
                    ("proc/self/cgroup", lines),
                    (quota.as_str(), "-1\n"),
                    (period.as_str(), "100000\n"),
                ],
                8,
            );
        }
    }
}
