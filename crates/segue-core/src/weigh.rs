//! Who gets how much of the new connections: the set of every address as it should be, from who
//! is ready, which generation is in front, a canary's share, and who is blocked or unhealthy.

use std::collections::BTreeMap;

use crate::address::{Address, Set};
use crate::app::App;
use crate::cause::Leaving;
use crate::event::AddressKind;
use crate::ids::{AddressId, SocketIndex, WorkerId};
use crate::reload::Step;
use crate::worker::{Phase, Worker};

/// Weights of a set may sum up to this (`segue_wire::steering::WEIGHT_LIMIT`).
const SUM_LIMIT: u64 = 1 << 24;

/// What a ready worker is to the new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It gets them.
    Front { is_fit: bool, is_awake: bool },
    /// It gets the canary's share.
    Canary { is_fit: bool },
    /// It gets them while nobody else can: its generation was rolled back.
    Reserve,
}

pub(crate) type Standings = BTreeMap<WorkerId, Standing>;

/// What a canary gets, in percent.
pub(crate) type Share = Option<u8>;

impl App {
    /// Every worker that may have new connections. Those of a new generation have none before it
    /// is proven.
    pub(crate) fn standings(&self) -> (Standings, Share) {
        let mut standings = Standings::new();
        let reload = self.reload.as_ref();
        let step = reload.map(|reload| reload.step);
        let incoming = reload.map(|reload| &reload.incoming);
        let is_flipped = matches!(step, Some(Step::Flipping { .. } | Step::Probation { .. }));
        let share = match step {
            Some(Step::Canary { canary, .. }) => Some(canary.percent.clamp(1, 99)),
            _ => None,
        };
        let mut add = |id: WorkerId, of: fn(bool, bool) -> Standing| {
            let found = self.workers.get(&id);
            // One whose channel has ended is about to exit.
            if let Some(worker) = found.filter(|worker| worker.is_ready() && worker.has_channel()) {
                let is_awake = worker.blocked.is_none();
                let is_sick = self.is_unhealthy(worker) && !self.health.is_shared;
                standings.insert(id, of(is_awake && !is_sick, is_awake));
            }
        };
        for (id, slot) in &self.slots {
            let replaced = incoming.and_then(|incoming| incoming.get(id));
            let worker = match replaced {
                Some(worker) if is_flipped => Some(*worker),
                Some(_) | None => slot.occupant,
            };
            let Some(worker) = worker else {
                continue;
            };
            let is_leftover = self.is_leftover(worker);
            add(
                worker,
                match is_leftover {
                    true => |_, _| Standing::Reserve,
                    false => |is_fit, is_awake| Standing::Front { is_fit, is_awake },
                },
            );
        }
        if share.is_some() {
            for worker in incoming.into_iter().flat_map(BTreeMap::values) {
                add(*worker, |is_fit, _| Standing::Canary { is_fit });
            }
        }
        (standings, share)
    }

    /// It belongs to a generation that was rolled back after it had taken this slot.
    pub(crate) fn is_leftover(&self, id: WorkerId) -> bool {
        let is_new = || self.reload.as_ref().is_some_and(|reload| reload.is_new(id));
        self.workers
            .get(&id)
            .is_some_and(|worker| worker.generation != self.serving)
            && !is_new()
    }

    /// The set as it should be.
    pub(crate) fn desired_set(
        &self,
        id: AddressId,
        address: &Address,
        (standings, share): &(Standings, Share),
    ) -> Set {
        let listens = |worker: &WorkerId| {
            self.workers
                .get(worker)
                .is_some_and(|worker| worker.listens.contains(&id))
        };
        // A socket counts as its best holder does, and for as many as hold it.
        let having = |wanted: &dyn Fn(Standing) -> bool| -> Vec<(SocketIndex, usize)> {
            let count = |holder: &&WorkerId| {
                listens(holder) && standings.get(holder).copied().is_some_and(wanted)
            };
            address
                .indexed()
                .map(|(index, socket)| (index, socket.holders.iter().filter(count).count()))
                .filter(|(_, holders)| *holders > 0)
                .collect()
        };
        let preferences: [&dyn Fn(Standing) -> bool; 5] = [
            &|standing| matches!(standing, Standing::Front { is_fit: true, .. }),
            &|standing| matches!(standing, Standing::Front { is_awake: true, .. }),
            &|standing| matches!(standing, Standing::Front { .. }),
            &|standing| standing == Standing::Reserve,
            &|standing| matches!(standing, Standing::Canary { .. }),
        ];
        let front = preferences
            .iter()
            .map(|wanted| having(wanted))
            .find(|found| !found.is_empty());
        // Queues wait for a successor.
        let Some(front) = front else {
            return address.set.clone();
        };
        match address.kind {
            AddressKind::Steered => {}
            AddressKind::Path | AddressKind::Single => {
                let best = front
                    .iter()
                    .max_by_key(|(index, holders)| (*holders, address.set.contains(*index)));
                return Set::of(
                    &best
                        .map(|(index, _)| *index)
                        .into_iter()
                        .collect::<Vec<_>>(),
                );
            }
        }
        let front: Vec<SocketIndex> = front.into_iter().map(|(index, _)| index).collect();
        let canary: Vec<SocketIndex> =
            having(&|standing| matches!(standing, Standing::Canary { is_fit: true }))
                .into_iter()
                .map(|(index, _)| index)
                .filter(|index| !front.contains(index))
                .collect();
        match share {
            Some(percent) if !canary.is_empty() => split(&front, &canary, *percent),
            Some(_) | None => Set::of(&front),
        }
    }

    /// Who may be handed connections: those in front that are well; failing those, anybody proven
    /// that still accepts.
    pub(crate) fn desired_publication(
        &self,
        id: AddressId,
        (standings, _): &(Standings, Share),
    ) -> Vec<WorkerId> {
        let having = |wanted: &dyn Fn(Standing) -> bool| -> Vec<WorkerId> {
            standings
                .iter()
                .filter(|(worker, standing)| {
                    wanted(**standing)
                        && self
                            .workers
                            .get(worker)
                            .is_some_and(|worker| worker.listens.contains(&id))
                })
                .map(|(worker, _)| *worker)
                .collect()
        };
        let preferences: [&dyn Fn(Standing) -> bool; 4] = [
            &|standing| matches!(standing, Standing::Front { is_awake: true, .. }),
            &|standing| matches!(standing, Standing::Front { .. }),
            &|standing| standing == Standing::Reserve,
            &|standing| matches!(standing, Standing::Canary { .. }),
        ];
        let found = preferences
            .iter()
            .map(|wanted| having(wanted))
            .find(|found| !found.is_empty());
        found.unwrap_or_else(|| {
            self.workers
                .iter()
                .filter(|(worker, state)| {
                    state.listens.contains(&id)
                        && state.has_channel()
                        && self.is_proven_and_accepts(**worker, state)
                })
                .map(|(worker, _)| *worker)
                .collect()
        })
    }

    fn is_proven_and_accepts(&self, id: WorkerId, worker: &Worker) -> bool {
        match worker.phase {
            Phase::Ready => self
                .slots
                .get(&worker.slot)
                .is_some_and(|slot| slot.occupant == Some(id)),
            Phase::Quiet { why, .. } => match why {
                Leaving::Abandoned | Leaving::NotNeeded | Leaving::NotReady => false,
                Leaving::Reload
                | Leaving::ScaledDown
                | Leaving::Stop
                | Leaving::Pause
                | Leaving::Aged
                | Leaving::OverMemory
                | Leaving::Unhealthy
                | Leaving::Unresponsive
                | Leaving::Restart
                | Leaving::RolledBack
                | Leaving::ChannelLost => true,
            },
            Phase::Booting { .. }
            | Phase::Draining { .. }
            | Phase::Drained { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => false,
        }
    }
}

/// `percent` of the connections for `canary`, the rest for `front`, each evenly.
fn split(front: &[SocketIndex], canary: &[SocketIndex], percent: u8) -> Set {
    let count = |sockets: &[SocketIndex]| u64::try_from(sockets.len()).unwrap_or(u64::MAX);
    let mut new = u64::from(percent) * count(front);
    let mut old = u64::from(100 - percent) * count(canary);
    let unit = common_divisor(new, old).max(1);
    new /= unit;
    old /= unit;
    while new * count(canary) + old * count(front) > SUM_LIMIT {
        new = (new / 2).max(1);
        old = (old / 2).max(1);
    }
    let weight = |weight: u64| u32::try_from(weight).unwrap_or(u32::MAX);
    let mut set: Vec<(SocketIndex, u32)> = front
        .iter()
        .map(|index| (*index, weight(old)))
        .chain(canary.iter().map(|index| (*index, weight(new))))
        .collect();
    set.sort_unstable();
    Set(set)
}

fn common_divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => common_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(from: u16, count: u16) -> Vec<SocketIndex> {
        (from..from + count).map(SocketIndex).collect()
    }

    #[test]
    fn a_canary_gets_its_share_whatever_the_numbers() {
        for (old, new, percent) in [
            (1, 1, 10),
            (4, 4, 10),
            (4, 1, 1),
            (7, 3, 50),
            (4, 4, 99),
            (1024, 1024, 10),
            (1023, 1, 1),
        ] {
            let set = split(&sockets(0, old), &sockets(old, new), percent);
            let sum = |of: &dyn Fn(u16) -> bool| -> u64 {
                set.0
                    .iter()
                    .filter(|(index, _)| of(index.0))
                    .map(|(_, weight)| u64::from(*weight))
                    .sum()
            };
            let (all, canary) = (sum(&|_| true), sum(&|index| index >= old));
            assert!(all <= SUM_LIMIT, "{old} {new} {percent}: {all}");
            assert_eq!(
                canary * 100,
                all * u64::from(percent),
                "{old} {new} {percent}"
            );
        }
    }

    #[test]
    fn where_the_share_cannot_be_exact_it_is_near() {
        let set = split(&sockets(0, 1021), &sockets(1021, 397), 7);
        let all: u64 = set.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let canary: u64 = set
            .0
            .iter()
            .skip(1021)
            .map(|(_, weight)| u64::from(*weight))
            .sum();
        assert!(all <= SUM_LIMIT);
        assert!((69..=71).contains(&(canary * 1000 / all)));
    }
}
