//! The model of one address: its group of sockets, who holds which, which are in the set that
//! gets new connections, and what becomes of a queue that nobody accepts from.
//!
//! ```text
//!   socket:   parked ──Give──▶ held ──holder closed it or is gone──▶ parked
//!   set:      sockets of ready workers of the generation in front; while there is none, the
//!             set stays what it was, because its sockets' queues wait for a successor
//! ```
//! A socket is never given to a worker that is yet to be proved while new connections, or
//! handshakes that began earlier, can still reach it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::action::Tend;
use crate::datum::{Datum, Portable, Unreadable, portable_record};
use crate::event::AddressKind;
use crate::ids::{AddressId, AskId, Generation, SocketIndex, WorkerId};
use crate::settings::Distribution;
use crate::time::Time;
use crate::worker::Worker;

/// A handshake that began before a socket left the set is over by then, or never will be: the kernel
/// gives up resending its SYN-ACK only later, but a client that has not answered two of them has gone.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// A queue that is handed over or reset is empty after this.
const QUEUE_LIMIT: Duration = Duration::from_secs(1);

/// Wait before a refused change of the set is tried again.
const STEER_RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) kind: AddressKind,
    /// Who listens here also does there, where that is wanted.
    pub(crate) covers: BTreeSet<AddressId>,
    pub(crate) sockets: Vec<Socket>,
    /// The last socket of `sockets` has been ordered and not reported yet.
    pub(crate) is_opening: bool,
    pub(crate) asks: VecDeque<Ask>,
    /// Who gets new connections now.
    pub(crate) set: Set,
    /// A change of the set that has been ordered and not reported yet.
    pub(crate) ordered: Option<Set>,
    pub(crate) retry_at: Option<Time>,
    /// Who may be handed connections.
    pub(crate) published: Vec<WorkerId>,
    /// Since when nobody has served it, nor will soon.
    pub(crate) unserved_since: Option<Time>,
    pub(crate) is_refusing: bool,
    /// Clients are left to wait for somebody who boots until then, however often it begins anew.
    pub(crate) hope_until: Option<Time>,
    pub(crate) is_announced_unserved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// The generation that it was last given to.
    pub(crate) generation: Option<Generation>,
    pub(crate) holders: BTreeSet<WorkerId>,
    pub(crate) tend: Tend,
    /// Since when `tend` is in force.
    pub(crate) tend_since: Time,
    /// When it left the set, unless its queue is known to be empty and no handshake from before to be left.
    pub(crate) left_set: Option<Time>,
    /// When its holder became quiet it was out of the set, so that every handshake still to come was noted.
    pub(crate) is_noted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) worker: WorkerId,
    pub(crate) ask: AskId,
    /// Not to be held until the cut-over (any more).
    pub(crate) is_released: bool,
}

/// What the model must know of a worker that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) worker: WorkerId,
    pub(crate) generation: Generation,
    pub(crate) is_serving: bool,
    /// It may accept connections as soon as it listens.
    pub(crate) is_trusted: bool,
    pub(crate) is_released: bool,
}

/// How a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Take(SocketIndex),
    Open(SocketIndex),
    Hold,
    /// The worker listens there already.
    Duplicate,
    /// The group is as large as an index can name.
    Full,
}

/// Sockets that get new connections, in order, each with a weight above 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set(pub(crate) Vec<(SocketIndex, u32)>);

impl Set {
    /// All alike.
    pub(crate) fn of(members: &[SocketIndex]) -> Self {
        Self(members.iter().map(|index| (*index, 1)).collect())
    }

    pub(crate) fn contains(&self, index: SocketIndex) -> bool {
        self.0.iter().any(|(member, _)| *member == index)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A list; a member of weight 1 is its index alone, as it was before there were weights.
impl Portable for Set {
    fn save(&self) -> Datum {
        let members = self.0.iter().map(|member| match member {
            (index, 1) => index.save(),
            weighted => weighted.save(),
        });
        Datum::List(members.collect())
    }

    fn load(datum: &Datum) -> Result<Self, Unreadable> {
        let Datum::List(members) = datum else {
            return Err(datum.is_no("list"));
        };
        let members = members.iter().map(|member| match member {
            Datum::Number(_) => SocketIndex::load(member).map(|index| (index, 1)),
            weighted => Portable::load(weighted),
        });
        members.collect::<Result<_, _>>().map(Self)
    }
}

pub(crate) type Workers = BTreeMap<WorkerId, Worker>;

impl Address {
    pub(crate) fn new(kind: AddressKind) -> Self {
        Self {
            kind,
            covers: BTreeSet::new(),
            sockets: Vec::new(),
            is_opening: false,
            asks: VecDeque::new(),
            set: Set::default(),
            ordered: None,
            retry_at: None,
            published: Vec::new(),
            unserved_since: None,
            is_refusing: false,
            hope_until: None,
            is_announced_unserved: false,
        }
    }

    pub(crate) fn indexed(&self) -> impl Iterator<Item = (SocketIndex, &Socket)> {
        (0_u16..).map(SocketIndex).zip(&self.sockets)
    }

    pub(crate) fn socket_mut(&mut self, index: SocketIndex) -> Option<&mut Socket> {
        self.sockets.get_mut(usize::from(index.0))
    }

    /// New connections reach it, or may at any moment.
    pub(crate) fn is_in_set(&self, index: SocketIndex) -> bool {
        self.set.contains(index) || self.ordered.as_ref().is_some_and(|set| set.contains(index))
    }

    pub(crate) fn choose(&self, asker: Asker, distribution: Distribution, now: Time) -> Choice {
        if self
            .sockets
            .iter()
            .any(|socket| socket.holders.contains(&asker.worker))
        {
            return Choice::Duplicate;
        }
        let Ok(next) = u16::try_from(self.sockets.len()) else {
            return Choice::Full;
        };
        let found = match self.kind {
            AddressKind::Single if self.sockets.is_empty() => None,
            AddressKind::Single if asker.is_serving || asker.is_released => Some(SocketIndex(0)),
            AddressKind::Single => return Choice::Hold,
            AddressKind::Path => self
                .of_generation(asker.generation)
                .or(self.free(asker, now)),
            AddressKind::Steered => match distribution {
                Distribution::Shared => self
                    .of_generation(asker.generation)
                    .or(self.free(asker, now)),
                Distribution::Spread => self.free(asker, now),
            },
        };
        found.map_or(Choice::Open(SocketIndex(next)), Choice::Take)
    }

    fn of_generation(&self, generation: Generation) -> Option<SocketIndex> {
        self.indexed()
            .find(|(_, socket)| socket.generation == Some(generation) && !socket.holders.is_empty())
            .map(|(index, _)| index)
    }

    fn free(&self, asker: Asker, now: Time) -> Option<SocketIndex> {
        let free = || {
            self.indexed()
                .filter(|(_, socket)| socket.holders.is_empty())
        };
        if asker.is_trusted {
            // A queue that waits in the set comes first.
            free()
                .find(|(index, _)| self.is_in_set(*index))
                .or_else(|| free().next())
                .map(|(index, _)| index)
        } else {
            free()
                .find(|(index, socket)| !self.is_in_set(*index) && socket.is_rested(now))
                .map(|(index, _)| index)
        }
    }

    /// What to do with the queue of a socket.
    pub(crate) fn desired_tend(
        &self,
        id: AddressId,
        (index, socket): (SocketIndex, &Socket),
        workers: &Workers,
    ) -> Tend {
        let is_left = !self.set.contains(index);
        let is_accepted_from = socket.holders.iter().any(|holder| {
            workers.get(holder).is_some_and(|worker| {
                // What came before it was seen to be blocked need not wait with it, if others serve.
                let is_stuck =
                    worker.blocked.is_some() && is_left && !self.published.contains(holder);
                // Without its channel it will not begin to listen there any more.
                let is_able = worker.has_channel() || worker.listens.contains(&id);
                worker.accepts() && is_able && !is_stuck
            })
        });
        if is_accepted_from {
            Tend::Leave
        } else if !self.published.is_empty() {
            Tend::HandOver
        } else if self.is_refusing {
            Tend::Reset
        } else {
            Tend::Leave
        }
    }

    pub(crate) fn steered(&mut self, now: Time) {
        let Some(ordered) = self.ordered.take() else {
            return;
        };
        for (index, _) in std::mem::replace(&mut self.set, ordered).0 {
            if !self.set.contains(index)
                && let Some(socket) = self.socket_mut(index)
            {
                socket.left_set = Some(now);
            }
        }
        self.forget_notes();
        self.retry_at = None;
    }

    pub(crate) fn steer_failed(&mut self, now: Time) {
        self.ordered = None;
        self.forget_notes();
        self.retry_at = Some(now + STEER_RETRY);
    }

    /// What is noted of a socket does not say anything once it is in the set.
    fn forget_notes(&mut self) {
        for (index, _) in self.set.clone().0 {
            if let Some(socket) = self.socket_mut(index) {
                socket.is_noted = false;
            }
        }
    }

    /// The handshakes under way to the worker's sockets are noted now. Where new ones go on
    /// beginning, that is not all of them.
    pub(crate) fn note(&mut self, worker: WorkerId) {
        let set = self.ordered.clone().unwrap_or_else(|| self.set.clone());
        for (index, socket) in (0_u16..).map(SocketIndex).zip(&mut self.sockets) {
            if socket.holders.contains(&worker) {
                socket.is_noted = !set.contains(index);
            }
        }
    }

    /// The worker's sockets hold nothing from before they left the set.
    pub(crate) fn note_clear(&mut self, worker: WorkerId) {
        let cleared: Vec<SocketIndex> = self
            .indexed()
            .filter(|(index, socket)| {
                socket.is_noted && socket.holders.contains(&worker) && !self.is_in_set(*index)
            })
            .map(|(index, _)| index)
            .collect();
        for index in cleared {
            if let Some(socket) = self.socket_mut(index) {
                socket.left_set = None;
            }
        }
    }

    pub(crate) fn release(&mut self, worker: WorkerId) {
        for socket in &mut self.sockets {
            socket.holders.remove(&worker);
        }
    }

    pub(crate) fn has_holders(&self) -> bool {
        self.sockets.iter().any(|socket| !socket.holders.is_empty())
    }
}

impl Socket {
    pub(crate) fn parked() -> Self {
        Self {
            generation: None,
            holders: BTreeSet::new(),
            tend: Tend::Leave,
            tend_since: Time(0),
            left_set: None,
            is_noted: false,
        }
    }

    /// No handshake from the time when it was in the set can still arrive, and what has arrived
    /// was handed over or reset. A queue that is left alone keeps what it has.
    fn is_rested(&self, now: Time) -> bool {
        self.left_set.is_none_or(|left| {
            self.tend != Tend::Leave
                && now >= left + HANDSHAKE_LIMIT
                && now >= self.tend_since + QUEUE_LIMIT
        })
    }

    pub(crate) fn tend(&mut self, now: Time, how: Tend) {
        if self.is_rested(now) {
            self.left_set = None;
        }
        self.tend = how;
        self.tend_since = now;
    }
}

portable_record!(Address {
    kind,
    covers = BTreeSet::new(),
    sockets,
    is_opening,
    asks,
    set,
    ordered,
    retry_at,
    published,
    unserved_since,
    is_refusing,
    hope_until,
    is_announced_unserved,
});

portable_record!(Socket {
    generation,
    holders,
    tend,
    tend_since,
    left_set,
    is_noted,
});

portable_record!(Ask {
    worker,
    ask,
    is_released,
});

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Generation = Generation(1);
    const NEW: Generation = Generation(2);
    const NOW: Time = Time(100_000);

    fn asker(generation: Generation, is_trusted: bool) -> Asker {
        Asker {
            worker: WorkerId(9),
            generation,
            is_serving: generation == OLD,
            is_trusted,
            is_released: false,
        }
    }

    /// Three sockets: 0 in the set and held by worker 1, 1 in the set and free, 2 parked.
    fn group(kind: AddressKind) -> Address {
        let mut address = Address::new(kind);
        address.sockets = vec![Socket::parked(), Socket::parked(), Socket::parked()];
        address.set = Set::of(&[SocketIndex(0), SocketIndex(1)]);
        address.sockets[0].holders.insert(WorkerId(1));
        address.sockets[0].generation = Some(OLD);
        address
    }

    #[test]
    fn who_gets_which_socket() {
        use AddressKind::{Path, Single, Steered};
        use Choice::{Hold, Open, Take};
        use Distribution::{Shared, Spread};
        let cases = [
            // A queue that waits in the set comes first, but not for a worker yet to be proved.
            (Steered, Spread, asker(OLD, true), Take(SocketIndex(1))),
            (Steered, Spread, asker(OLD, false), Take(SocketIndex(2))),
            (Steered, Spread, asker(NEW, false), Take(SocketIndex(2))),
            (Steered, Shared, asker(OLD, true), Take(SocketIndex(0))),
            (Steered, Shared, asker(NEW, false), Take(SocketIndex(2))),
            (Path, Spread, asker(OLD, true), Take(SocketIndex(0))),
            (Path, Spread, asker(NEW, false), Take(SocketIndex(2))),
            (Single, Spread, asker(OLD, true), Take(SocketIndex(0))),
            (Single, Spread, asker(NEW, false), Hold),
        ];
        for (kind, distribution, asker, expected) in cases {
            let choice = group(kind).choose(asker, distribution, NOW);
            assert_eq!(choice, expected, "{kind:?} {distribution:?} {asker:?}");
        }
        let mut all_taken = group(Steered);
        all_taken.sockets[2].holders.insert(WorkerId(2));
        let choice = all_taken.choose(asker(NEW, false), Spread, NOW);
        assert_eq!(choice, Open(SocketIndex(3)));
    }

    #[test]
    fn a_worker_listens_once_at_a_place() {
        let mut address = group(AddressKind::Steered);
        address.sockets[2].holders.insert(WorkerId(9));
        let choice = address.choose(asker(OLD, true), Distribution::Spread, NOW);
        assert_eq!(choice, Choice::Duplicate);
    }

    #[test]
    fn a_socket_rests_until_its_queue_is_known_to_be_empty() {
        let ago = |seconds| NOW - Duration::from_secs(seconds);
        let cases = [
            (None, Tend::Leave, ago(9), true),
            (Some(ago(4)), Tend::HandOver, ago(9), false),
            (Some(ago(5)), Tend::HandOver, ago(9), true),
            // Handed over only just now.
            (Some(ago(60)), Tend::HandOver, ago(0), false),
            (Some(ago(60)), Tend::HandOver, ago(1), true),
            // Nobody there to be handed what it holds.
            (Some(ago(60)), Tend::Leave, ago(60), false),
            (Some(ago(60)), Tend::Reset, ago(60), true),
        ];
        for (left_set, tend, tend_since, expected) in cases {
            let socket = Socket {
                left_set,
                tend,
                tend_since,
                ..Socket::parked()
            };
            assert_eq!(socket.is_rested(NOW), expected, "{socket:?}");
        }
    }

    #[test]
    fn only_what_was_noted_outside_the_set_counts_as_settled() {
        let leaves = |is_noted_before: bool| {
            let mut address = group(AddressKind::Steered);
            if is_noted_before {
                address.note(WorkerId(1));
            }
            address.ordered = Some(Set::of(&[SocketIndex(1)]));
            if !is_noted_before {
                address.note(WorkerId(1));
            }
            address.steered(NOW);
            address.note_clear(WorkerId(1));
            address.sockets[0].left_set
        };
        assert_eq!(leaves(false), None);
        assert_eq!(leaves(true), Some(NOW));
    }
}
