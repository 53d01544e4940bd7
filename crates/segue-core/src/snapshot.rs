//! What crosses an exec or outlives a crash: the whole state of an app, and the events that came
//! after it was written down. Settings are not part of it: they are the configuration's.
//!
//! Deciding is deterministic, so a snapshot and the events since give the same state again, and
//! the same actions, the last of which may or may not have been performed.

use crate::action::{Action, Tend};
use crate::app::{App, Phase};
use crate::datum::{Datum, Portable, Unreadable};
use crate::event::Event;
use crate::ids::{Generation, SocketRef};
use crate::probe::Probing;
use crate::reload::{Purpose, Step};
use crate::settings::Settings;
use crate::time::Time;
use crate::worker::Phase as WorkerPhase;

impl App {
    /// Everything that later decisions depend on, besides the settings.
    #[must_use]
    pub fn snapshot(&self) -> Datum {
        self.save_state()
    }

    /// The app that a snapshot was taken of.
    ///
    /// # Errors
    /// Where the snapshot is not one of this release, of the one before or of the one after.
    pub fn restore(settings: Settings, snapshot: &Datum) -> Result<Self, Unreadable> {
        Self::load_state(settings, snapshot)
    }

    /// What the shell is to do so that the world is as this state has it: sets that no event will
    /// speak of again. Performing any of it twice changes nothing.
    #[must_use]
    pub fn standing_orders(&self) -> Vec<Action> {
        let mut orders = Vec::new();
        for (id, address) in &self.addresses {
            if !address.published.is_empty() {
                orders.push(Action::Publish {
                    address: *id,
                    workers: address.published.clone(),
                });
            }
            let is_opening = usize::from(address.is_opening);
            let open = address.sockets.len() - is_opening;
            let tended = address
                .indexed()
                .take(open)
                .filter(|(_, socket)| socket.tend != Tend::Leave);
            orders.extend(tended.map(|(index, socket)| Action::Tend {
                socket: SocketRef {
                    address: *id,
                    index,
                },
                how: socket.tend,
            }));
            if self.phase.stop().is_some() {
                orders.push(Action::ShutGate { address: *id });
            }
        }
        let settling = self.workers.iter().filter(|(id, worker)| {
            matches!(worker.phase, WorkerPhase::Quiet { .. }) && !self.newly_quiet.contains(id)
        });
        orders.extend(settling.map(|(worker, _)| Action::BeginSettle { worker: *worker }));
        for (id, worker) in &self.workers {
            if worker.is_ready() {
                orders.push(Action::BootDone { worker: *id });
            }
            // A second answer to the same question is not listened to.
            if let Probing::Asked { .. } = worker.watch.probing {
                orders.push(Action::Probe { worker: *id });
            }
        }
        if let Some(reload) = &self.reload
            && let Step::Canary { .. } = reload.step
        {
            let counted = reload.counts.keys();
            let counted = counted.filter(|worker| self.workers.contains_key(worker));
            orders.extend(counted.map(|worker| Action::Count { worker: *worker }));
        }
        orders
    }

    /// The generation whose release the shell was asked for and has not reported, and the one that
    /// it is to be like.
    #[must_use]
    pub fn awaited_release(&self) -> Option<(Generation, Option<Generation>)> {
        match &self.phase {
            Phase::Preparing { .. } => Some((self.serving, None)),
            Phase::New
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Paused { .. }
            | Phase::Stopping(_)
            | Phase::Finished => self
                .reload
                .as_ref()
                .filter(|reload| matches!(reload.step, Step::Preparing { .. }))
                .map(|reload| {
                    let like = match reload.purpose {
                        Purpose::Rollback { to } => Some(to),
                        Purpose::Release | Purpose::Restart => None,
                    };
                    (reload.generation, like)
                }),
        }
    }
}

/// An event as it is written down.
#[must_use]
pub fn save_event(at: Time, event: &Event) -> Datum {
    Datum::record([("at", at.save()), ("event", event.save())])
}

/// # Errors
/// Where it is not an event of a known kind.
pub fn load_event(datum: &Datum) -> Result<(Time, Event), Unreadable> {
    Ok((datum.field("at")?, datum.field("event")?))
}
