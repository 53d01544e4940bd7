//! A cgroup for each worker, where the kernel lets us have one: whatever a worker starts stays in it, so
//! that nothing of it is left when the worker is gone. Elsewhere there are process groups, which a
//! process can leave, and the keeper's sweep at the end.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use segue_core::WorkerId;
use segue_sys::cgroup::{Group, Limits, NoMemoryControl, Tree};
use segue_sys::process::Process;
use segue_sys::spawn::Signal;

/// What a worker leaves behind has so long between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at who is left.
const GLANCE: Duration = Duration::from_millis(50);

/// How long the kernel may take to take down what was killed.
const AFTER_KILL: Duration = Duration::from_secs(5);

const NO_TREE: &str = "there is no cgroup of version 2 that segue may write to: a unit of systemd needs Delegate=yes, a container a writable /sys/fs/cgroup";

/// So many of those who are in the way are named.
const MOST_NAMED: usize = 5;

fn no_control(why: &NoMemoryControl) -> String {
    match why {
        NoMemoryControl::NotThere => {
            "the memory controller is not there: the kernel lacks it or has it in version 1, or it is not delegated (Delegate=yes in a unit of systemd)".to_owned()
        }
        NoMemoryControl::Others(pids) => {
            let named = pids.iter().take(MOST_NAMED).map(u32::to_string);
            let named: Vec<String> = named.collect();
            let and_more = if pids.len() > MOST_NAMED { ", …" } else { "" };
            format!(
                "others are in segue's cgroup (PID {}{and_more}): it needs one of its own, as a service has",
                named.join(", ")
            )
        }
        NoMemoryControl::System(error) => format!("cannot use the memory controller: {error}"),
    }
}

/// Where workers' groups are.
#[derive(Clone, Debug)]
pub(super) struct Enclosures {
    tree: Option<Tree>,
    /// Who moves out of the way where memory is limited.
    supervisors: [u32; 2],
    /// Why memory cannot be limited, as far as that was tried.
    no_limits: Option<String>,
}

/// What a worker gets.
pub(super) struct Made {
    pub(super) enclosure: Option<Enclosure>,
    /// Why its memory is not limited, which matters if it is to be.
    pub(super) no_limits: Option<String>,
}

impl Made {
    const fn refused(no_limits: Option<String>) -> Self {
        Self {
            enclosure: None,
            no_limits,
        }
    }
}

impl Enclosures {
    /// Looks whether there can be any.
    pub(super) fn of_this_process(keeper: u32) -> Self {
        let tree = Tree::of_this_process();
        if let Some(tree) = &tree {
            tree.sweep();
        }
        Self {
            tree,
            supervisors: [keeper, std::process::id()],
            no_limits: None,
        }
    }

    /// An empty one for a worker.
    pub(super) fn make(&mut self, app: &str, worker: WorkerId, wanted: Limits) -> Made {
        let limits = self.limits(wanted);
        let Some(tree) = &self.tree else {
            return Made::refused(limits.err());
        };
        let (limits, refused) = match limits {
            Ok(limits) => (limits, None),
            // Without the limit above, node would take all memory for its own.
            Err(why) if !tree.above().is_none() => return Made::refused(Some(why)),
            Err(why) => (Limits::default(), Some(why)),
        };
        let name = Tree::new_name(&format!("{app}-{}", worker.0));
        let enclosure = Enclosure {
            group: tree.group(&name),
            name,
        };
        match enclosure.begin(limits) {
            Ok(()) => Made {
                enclosure: Some(enclosure),
                no_limits: refused,
            },
            Err(error) => {
                tracing::debug!(%error, %worker, "no cgroup");
                Made::refused(Some(error.to_string()))
            }
        }
    }

    /// It may be possible by now.
    pub(super) fn try_limits_again(&mut self) {
        self.no_limits = None;
    }

    /// The limits that a group is to have, and can have.
    ///
    /// # Errors
    /// Why it cannot have any.
    pub(super) fn limits(&mut self, wanted: Limits) -> Result<Limits, String> {
        let Some(tree) = &self.tree else {
            return match wanted.is_none() {
                true => Ok(wanted),
                false => Err(NO_TREE.to_owned()),
            };
        };
        let limits = wanted.and(tree.above());
        if limits.is_none() {
            return Ok(limits);
        }
        if let Some(why) = &self.no_limits {
            return Err(why.clone());
        }
        tree.control_memory(&self.supervisors).map_err(|error| {
            let why = no_control(&error);
            self.no_limits = Some(why.clone());
            why
        })?;
        Ok(limits)
    }

    /// That of a worker that has one.
    pub(super) fn find(&self, name: &str) -> Option<Enclosure> {
        let name = name.to_owned();
        let group = self.tree.as_ref()?.group(&name);
        Some(Enclosure { name, group })
    }

    /// Removes what nobody is in.
    pub(super) fn sweep(&self) {
        if let Some(tree) = &self.tree {
            tree.sweep();
        }
    }
}

/// The group of one worker, and everything that it has started.
#[derive(Clone, Debug)]
pub(super) struct Enclosure {
    name: String,
    group: Group,
}

impl Enclosure {
    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// It is there from now on, with these limits.
    fn begin(&self, limits: Limits) -> io::Result<()> {
        self.group.make()?;
        if limits.is_none() {
            return Ok(());
        }
        self.limit(limits).inspect_err(|_| {
            let _ = self.group.remove();
        })
    }

    /// Other limits, from now on.
    ///
    /// # Errors
    /// Memory is not controlled.
    pub(super) fn limit(&self, limits: Limits) -> io::Result<()> {
        self.group.limit_memory(limits)
    }

    /// Its name, if this process is in it.
    pub(super) fn name_if_around(&self, pid: u32) -> Option<String> {
        let is_in_it = self.group.processes().contains(&pid);
        is_in_it.then(|| self.name.clone())
    }

    /// How many of it the kernel has killed for want of memory, if it counts them.
    pub(super) fn killed_for_memory(&self) -> Option<u64> {
        self.group.killed_for_memory()
    }

    /// SIGKILL for everybody in it.
    pub(super) fn kill(&self) {
        if let Err(error) = self.group.kill() {
            tracing::debug!(%error, group = self.name, "cannot kill a cgroup");
        }
    }

    /// It is removed, if nobody is in it.
    pub(super) fn is_over(&self) -> bool {
        self.group.remove().is_ok() || !self.group.exists()
    }

    /// Ends everybody that the worker has left behind. Returns when nobody is left, or nothing helps.
    pub(super) async fn end(&self) {
        let mut asked = BTreeSet::new();
        if self.is_over_within(PATIENCE, || self.ask(&mut asked)).await {
            return;
        }
        let left = self.group.processes();
        tracing::info!(
            group = self.name,
            ?left,
            "killed what a worker had left behind"
        );
        if !self.is_over_within(AFTER_KILL, || self.kill()).await {
            tracing::warn!(group = self.name, "a worker's processes do not die");
        }
    }

    async fn is_over_within(&self, limit: Duration, mut act: impl FnMut()) -> bool {
        for _ in 0..limit.as_millis() / GLANCE.as_millis() {
            if self.is_over() {
                return true;
            }
            act();
            tokio::time::sleep(GLANCE).await;
        }
        self.is_over()
    }

    /// SIGTERM for those that have not had it.
    fn ask(&self, asked: &mut BTreeSet<u32>) {
        for pid in self.group.processes() {
            if asked.insert(pid)
                && let Some(process) = Process::look_up(pid)
            {
                // It may be gone by now.
                let _ = process.send_signal(Signal::TERM);
            }
        }
    }
}
