//! A cgroup for each worker, where the kernel lets us have one: whatever a worker starts stays in it, so
//! that nothing of it is left when the worker is gone. Elsewhere there are process groups, which a
//! process can leave, and the keeper's sweep at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use segue_core::WorkerId;
use segue_sys::cgroup::{Group, Tree};
use segue_sys::process::Process;
use segue_sys::spawn::Signal;

/// What a worker leaves behind has so long between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at who is left.
const GLANCE: Duration = Duration::from_millis(50);

/// How long the kernel may take to take down what was killed.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Where workers' groups are.
#[derive(Clone, Debug, Default)]
pub(super) struct Enclosures(Option<Tree>);

impl Enclosures {
    /// Looks whether there can be any.
    pub(super) fn of_this_process() -> Self {
        let tree = Tree::of_this_process();
        if let Some(tree) = &tree {
            tree.sweep();
        }
        Self(tree)
    }

    /// An empty one for a worker.
    pub(super) fn make(&self, app: &str, worker: WorkerId) -> Option<Enclosure> {
        let tree = self.0.as_ref()?;
        let name = Tree::new_name(&format!("{app}-{}", worker.0));
        let group = tree.group(&name);
        group
            .make()
            .inspect_err(|error| tracing::debug!(%error, %worker, "no cgroup"))
            .ok()?;
        Some(Enclosure { name, group })
    }

    /// That of a worker that has one.
    pub(super) fn find(&self, name: &str) -> Option<Enclosure> {
        let name = name.to_owned();
        let group = self.0.as_ref()?.group(&name);
        Some(Enclosure { name, group })
    }

    /// Removes what nobody is in.
    pub(super) fn sweep(&self) {
        if let Some(tree) = &self.0 {
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

    /// Its name, if this process is in it.
    pub(super) fn name_if_around(&self, pid: u32) -> Option<String> {
        let is_in_it = self.group.processes().contains(&pid);
        is_in_it.then(|| self.name.clone())
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
