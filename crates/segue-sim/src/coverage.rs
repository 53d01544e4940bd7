//! Which orders, news, outcomes and phases occurred: a rig that never shows them checks nothing.

use segue_core::{
    Action, AppView, Cause, Finish, Leaving, Notice, Outcome, ReloadStep, Tend, WorkerPhase,
};

macro_rules! kinds {
    ($($index:ident, $names:ident: $type:ident { $($variant:ident),* $(,)? })*) => { $(
        const $names: &[&str] = &[$(stringify!($variant)),*];

        fn $index(of: &$type) -> usize {
            $(if matches!(of, $type::$variant { .. }) {
                return $names.iter().position(|name| *name == stringify!($variant)).unwrap_or(0);
            })*
            // Never reached: this match names every variant, or does not compile.
            match of { $($type::$variant { .. } => 0),* }
        }
    )* };
}

kinds! {
    action, ACTIONS: Action {
        Prepare, Forget, Spawn, BootDone, Probe, Count, StopCounting, Open, Give, Deny, Steer, Publish, Tend, ShutGate, Close,
        BeginSettle, CheckSettled, Disconnect, Retire, Drain, Signal, Reply, Notify, Finish,
    }
    notice, NOTICES: Notice {
        WorkerSpawned, WorkerReady, WorkerFailed, RespawnDue, SlotGivenUp, WorkerLeaving,
        WorkerDrained, DrainTimedOut, WorkerKilled, WorkerLeft, AppReady, ReloadStarted,
        ReloadCommitted, ReloadFailed, ReloadSuperseded, GenerationGone, AddressOpened,
        AddressClosed, AddressUnserved, AddressServed, HeldReleased, SettleTimedOut, Scaled,
        Stopping, Refused, GenerationHurried, StopDelayed, Paused, ReloadStep,
        WorkerBlocked, WorkerUnblocked, WorkerUnhealthy, WorkerHealthy, ProbeWaived, HealthShared,
        HealthRecovered, CanarySkipped, ListenForbidden,
    }
    outcome, OUTCOMES: Outcome {
        Started, Reloaded, ReloadFailed, Superseded, Scaled, Stopped, StoppedHard, NeverStarted,
        Refused, Paused, Restarted, Promoted, Abandoned, RolledBack,
    }
    cause, CAUSES: Cause {
        ExitedBooting, ExitedReady, NeverListened, NotListeningAt, NeverSaidReady, Wrapper,
        ChannelLost, SpawnFailed, PrepareFailed, SteerFailed, NeverNotified, ProbeFailed, Unhealthy,
        Unresponsive, OverMemory, CanaryErrors, RolledBack,
    }
    tend, TENDS: Tend { Leave, HandOver, Reset }
    finish, FINISHES: Finish { Stopped, NeverStarted, GivenUp }
    phase, PHASES: WorkerPhase { Booting, Ready, Quiet, Draining, Stopping, Killed }
    leaving, LEAVINGS: Leaving {
        Reload, ScaledDown, Stop, Pause, Abandoned, Aged, OverMemory, Unhealthy, Unresponsive,
        Restart, RolledBack, NotNeeded, ChannelLost, NotReady,
    }
    step, STEPS: ReloadStep {
        Preparing, Emptying, Booting, Proving, Canary, CuttingOver, Probation, Replacing,
    }
}

const TABLES: [(&str, &[&str]); 9] = [
    ("action", ACTIONS),
    ("notice", NOTICES),
    ("outcome", OUTCOMES),
    ("cause", CAUSES),
    ("tend", TENDS),
    ("finish", FINISHES),
    ("phase", PHASES),
    ("leaving", LEAVINGS),
    ("step", STEPS),
];

/// How often each kind was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage([Vec<u64>; TABLES.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self(TABLES.map(|(_, names)| vec![0; names.len()]))
    }
}

impl Coverage {
    pub(crate) fn count(&mut self, of: &Action) {
        self.see(0, action(of));
        match of {
            Action::Notify(news) => {
                self.see(1, notice(news));
                match news {
                    Notice::WorkerFailed { cause: why, .. } => self.see(3, cause(why)),
                    Notice::ReloadFailed { failure, .. } => self.see(3, cause(&failure.cause)),
                    Notice::WorkerLeaving { why, .. } => self.see(7, leaving(why)),
                    _ => {}
                }
            }
            Action::Reply { outcome: how, .. } => self.see(2, outcome(how)),
            Action::Tend { how, .. } => self.see(4, tend(how)),
            Action::Finish(how) => self.see(5, finish(how)),
            _ => {}
        }
    }

    pub(crate) fn count_phases(&mut self, view: &AppView) {
        for worker in &view.workers {
            self.see(6, phase(&worker.phase));
        }
        if let Some(reload) = &view.reload {
            self.see(8, step(&reload.step));
        }
    }

    fn see(&mut self, table: usize, kind: usize) {
        if let Some(count) = self.0.get_mut(table).and_then(|table| table.get_mut(kind)) {
            *count += 1;
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (table, more) in self.0.iter_mut().zip(&other.0) {
            for (count, more) in table.iter_mut().zip(more) {
                *count += more;
            }
        }
    }

    /// What never occurred, as `table Kind`.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.kinds()
            .filter(|(.., count)| *count == 0)
            .map(|(table, kind, _)| format!("{table} {kind}"))
            .collect()
    }

    /// Table, kind, how often.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        TABLES
            .iter()
            .zip(&self.0)
            .flat_map(|((table, names), counts)| {
                names
                    .iter()
                    .zip(counts)
                    .map(|(name, count)| (*table, *name, *count))
            })
    }
}
