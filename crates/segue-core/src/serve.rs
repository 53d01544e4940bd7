//! Addresses in the life of the app: questions for sockets are answered, sets follow who is
//! ready, queues without a worker are handed over, refused or left, and addresses that nobody
//! uses any more are closed.

use std::time::Duration;

use crate::action::{Action, Tend};
use crate::address::{Address, Ask, Asker, Choice, Set, Socket};
use crate::app::{App, Phase};
use crate::event::AddressKind;
use crate::ids::{AddressId, AskId, SocketIndex, SocketRef, WorkerId};
use crate::notice::Notice;
use crate::slot::Next;
use crate::weigh::{Share, Standings};
use crate::worker::Held;

/// A respawn that is due later than this is no comfort to a waiting client. Also how long an
/// address that every worker has closed is kept, in case they listen again.
const SOON: Duration = Duration::from_secs(5);

/// `EACCES`, `EADDRINUSE` and `EMFILE` (asm-generic/errno), as Node reports them to the app.
const EACCES: i32 = 13;
const EADDRINUSE: i32 = 98;
const EMFILE: i32 = 24;

/// Who will accept what comes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prospect {
    Served,
    /// Nobody does until somebody says so.
    Paused,
    /// Nobody does yet; somebody will soon.
    Soon,
    /// Slots are vacant, and nobody will fill them soon.
    Late,
    /// Every worker is up, and none wants this address.
    Unwanted,
}

impl App {
    pub(crate) fn asked(
        &mut self,
        worker: WorkerId,
        ask: AskId,
        address: AddressId,
        (kind, covers): (AddressKind, Vec<AddressId>),
    ) {
        let Some(asking) = self.workers.get_mut(&worker) else {
            return;
        };
        // It speaks.
        asking.is_attached = true;
        let address = self
            .addresses
            .entry(address)
            .or_insert_with(|| Address::new(kind));
        address.covers.extend(covers);
        address.asks.push_back(Ask {
            worker,
            ask,
            is_released: false,
        });
    }

    pub(crate) fn asked_in_vain(&mut self, worker: WorkerId, ask: AskId, address: AddressId) {
        let Some(asking) = self.workers.get_mut(&worker) else {
            return;
        };
        asking.is_attached = true;
        let slot = asking.slot;
        self.order(Action::Deny {
            worker,
            ask,
            errno: EACCES,
        });
        self.notify(Notice::ListenForbidden {
            worker,
            slot,
            address,
        });
    }

    pub(crate) fn requeue_released(&mut self, worker: WorkerId, held: Held) {
        if let Some(address) = self.addresses.get_mut(&held.address) {
            address.asks.push_back(Ask {
                worker,
                ask: held.ask,
                is_released: true,
            });
        }
    }

    pub(crate) fn listened(&mut self, id: WorkerId, address: AddressId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.listens.insert(address);
        // Asked twice: what is still held has no cut-over to wait for any more.
        let (over, held) = worker.held.iter().partition(|held| held.address == address);
        worker.held = held;
        let over: Vec<Held> = over;
        for held in over {
            self.requeue_released(id, held);
        }
    }

    pub(crate) fn closed(&mut self, id: WorkerId, address: AddressId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.listens.remove(&address);
        }
        if let Some(address) = self.addresses.get_mut(&address) {
            address.release(id);
        }
    }

    pub(crate) fn opened(&mut self, socket: SocketRef, steered: bool) {
        let Some(address) = self.addresses.get_mut(&socket.address) else {
            return;
        };
        address.is_opening = false;
        if address.kind == AddressKind::Steered && !steered {
            address.kind = AddressKind::Single;
        }
        if socket.index == SocketIndex(0) {
            match address.kind {
                // The program that comes with the first socket sends everything to it.
                AddressKind::Steered | AddressKind::Single => {
                    address.set = Set::of(&[SocketIndex(0)])
                }
                AddressKind::Path => {}
            }
            self.notify(Notice::AddressOpened {
                address: socket.address,
                steered,
            });
        }
    }

    pub(crate) fn open_failed(&mut self, socket: SocketRef, errno: i32) {
        let Some(address) = self.addresses.get_mut(&socket.address) else {
            return;
        };
        address.is_opening = false;
        address.sockets.truncate(usize::from(socket.index.0));
        let refused = address.asks.pop_front();
        if address.sockets.is_empty() && address.asks.is_empty() {
            self.addresses.remove(&socket.address);
        }
        if let Some(Ask { worker, ask, .. }) = refused {
            self.order(Action::Deny { worker, ask, errno });
        }
    }

    pub(crate) fn answer_asks(&mut self) {
        let ids: Vec<AddressId> = self.addresses.keys().copied().collect();
        for id in ids {
            while let Some(address) = self.addresses.get_mut(&id) {
                if address.is_opening {
                    break;
                }
                let Some(ask) = address.asks.front().copied() else {
                    break;
                };
                if !self.answer(id, ask) {
                    break;
                }
            }
        }
    }

    /// Answers the first question at an address; false if a socket has to be made first.
    fn answer(
        &mut self,
        id: AddressId,
        Ask {
            worker,
            ask,
            is_released,
        }: Ask,
    ) -> bool {
        let now = self.now;
        let distribution = self.settings.distribution;
        let asker = self.asker(worker, is_released);
        let (Some(asker), Some(address)) = (asker, self.addresses.get_mut(&id)) else {
            if let Some(address) = self.addresses.get_mut(&id) {
                address.asks.pop_front();
            }
            return true;
        };
        match address.choose(asker, distribution, now) {
            Choice::Open(index) => {
                address.sockets.push(Socket::parked());
                address.is_opening = true;
                self.order(Action::Open {
                    socket: SocketRef { address: id, index },
                });
                return false;
            }
            Choice::Take(index) => {
                address.asks.pop_front();
                if let Some(socket) = address.socket_mut(index) {
                    socket.holders.insert(worker);
                    socket.generation = Some(asker.generation);
                }
                // An app may look at its path as soon as it listens.
                let is_first_at_path = address.kind == AddressKind::Path
                    && asker.is_serving
                    && address.set.is_empty()
                    && address.ordered.is_none();
                if is_first_at_path {
                    address.ordered = Some(Set::of(&[index]));
                    self.order(Action::Steer {
                        address: id,
                        set: vec![(index, 1)],
                    });
                }
                let socket = SocketRef { address: id, index };
                self.order(Action::Give {
                    worker,
                    ask,
                    socket,
                });
            }
            Choice::Hold => {
                address.asks.pop_front();
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.held.push(Held {
                        ask,
                        address: id,
                        since: now,
                    });
                }
            }
            Choice::Duplicate => {
                address.asks.pop_front();
                self.order(Action::Deny {
                    worker,
                    ask,
                    errno: EADDRINUSE,
                });
            }
            Choice::Full => {
                address.asks.pop_front();
                self.order(Action::Deny {
                    worker,
                    ask,
                    errno: EMFILE,
                });
            }
        }
        true
    }

    fn asker(&self, id: WorkerId, is_released: bool) -> Option<Asker> {
        // Whoever is to finish and leave opens nothing new. An error could end it with its requests; without
        // an answer it merely waits.
        let worker = self.workers.get(&id).filter(|worker| worker.accepts())?;
        // In the middle of a reload, or after one that was undone, slots are of two generations.
        let is_occupant = self
            .slots
            .get(&worker.slot)
            .is_some_and(|slot| slot.occupant == Some(id));
        let is_public = self
            .reload
            .as_ref()
            .is_some_and(|reload| reload.step.is_public() && reload.is_incoming(id));
        let is_serving = worker.generation == self.serving || is_occupant || is_public;
        let is_ready_by_listening = self.settings.ready.is_listening_enough();
        Some(Asker {
            worker: id,
            generation: worker.generation,
            is_serving,
            is_trusted: is_serving && (worker.is_ready() || is_ready_by_listening),
            is_released,
        })
    }

    pub(crate) fn advance_addresses(&mut self) {
        let standings = self.standings();
        let ids: Vec<AddressId> = self.addresses.keys().copied().collect();
        for id in ids {
            self.steer(id, &standings);
            self.publish(id, &standings);
            self.judge(id);
            self.tend(id);
        }
    }

    fn steer(&mut self, id: AddressId, standings: &(Standings, Share)) {
        let now = self.now;
        let Some(address) = self.addresses.get(&id) else {
            return;
        };
        if !address.is_steerable() || address.ordered.is_some() {
            return;
        }
        if address.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let set = self.desired_set(id, address, standings);
        let Some(address) = self.addresses.get_mut(&id) else {
            return;
        };
        if set == address.set || set.is_empty() {
            address.retry_at = None;
            return;
        }
        address.ordered = Some(set.clone());
        self.order(Action::Steer {
            address: id,
            set: set.0,
        });
    }

    fn publish(&mut self, id: AddressId, standings: &(Standings, Share)) {
        let workers = match self.phase {
            Phase::Paused { .. } => Vec::new(),
            _ => self.desired_publication(id, standings),
        };
        let Some(address) = self.addresses.get_mut(&id) else {
            return;
        };
        if workers != address.published {
            address.published.clone_from(&workers);
            self.order(Action::Publish {
                address: id,
                workers,
            });
        }
    }

    /// Decides whether clients of an address may hope.
    fn judge(&mut self, id: AddressId) {
        let prospect = self.prospect(id);
        let now = self.now;
        let hope_ends = now + self.settings.ready_timeout + SOON;
        let Some(address) = self.addresses.get_mut(&id) else {
            return;
        };
        match prospect {
            Prospect::Served => {
                address.hope_until = None;
                address.unserved_since = None;
                address.is_refusing = false;
                if std::mem::take(&mut address.is_announced_unserved) {
                    self.notify(Notice::AddressServed { address: id });
                }
            }
            Prospect::Paused => {
                address.hope_until = None;
                address.unserved_since = None;
                address.is_refusing = false;
            }
            Prospect::Soon if now < *address.hope_until.get_or_insert(hope_ends) => {
                address.unserved_since = None;
                address.is_refusing = false;
            }
            Prospect::Soon | Prospect::Late => {
                address.unserved_since = None;
                self.refuse(id);
            }
            Prospect::Unwanted => {
                let since = *address.unserved_since.get_or_insert(now);
                let is_idle = !address.has_holders()
                    && address.asks.is_empty()
                    && !address.is_opening
                    && address.ordered.is_none();
                let is_hopeless = now >= *address.hope_until.get_or_insert(hope_ends);
                if is_idle && now >= since + SOON {
                    self.close(id);
                } else if is_hopeless {
                    // Somebody has it and does not listen.
                    self.refuse(id);
                }
            }
        }
    }

    fn refuse(&mut self, id: AddressId) {
        let is_news = !matches!(self.phase, Phase::Stopping(_) | Phase::Finished);
        let Some(address) = self.addresses.get_mut(&id) else {
            return;
        };
        address.is_refusing = true;
        if is_news && !std::mem::replace(&mut address.is_announced_unserved, true) {
            self.notify(Notice::AddressUnserved { address: id });
        }
    }

    fn prospect(&self, id: AddressId) -> Prospect {
        let Some(address) = self.addresses.get(&id) else {
            return Prospect::Unwanted;
        };
        if !address.published.is_empty() {
            return Prospect::Served;
        }
        if matches!(self.phase, Phase::Stopping(_) | Phase::Finished) {
            return Prospect::Late;
        }
        if matches!(self.phase, Phase::Paused { .. }) || self.is_emptying() {
            return Prospect::Paused;
        }
        let is_awaited = self.workers.iter().any(|(worker, state)| {
            let is_incoming = self
                .reload
                .as_ref()
                .is_some_and(|reload| reload.is_incoming(*worker));
            let wants = state.listens.contains(&id)
                || address
                    .sockets
                    .iter()
                    .any(|socket| socket.holders.contains(worker))
                || address.asks.iter().any(|ask| ask.worker == *worker)
                || state.held.iter().any(|held| held.address == id);
            let is_successor = self
                .slots
                .get(&state.slot)
                .is_some_and(|slot| slot.successor == Some(*worker));
            let is_respawn = state.generation == self.serving && !is_successor;
            state.is_booting() && (is_respawn || ((is_incoming || is_successor) && wants))
                || (is_incoming && wants)
        });
        let is_respawn_soon = self.respawns()
            && self.slots.values().any(|slot| {
                slot.occupant.is_none()
                    && matches!(slot.respawn.next, Next::At(at) if at <= self.now + SOON)
            });
        if is_awaited || is_respawn_soon {
            Prospect::Soon
        } else if self.slots.values().any(|slot| slot.occupant.is_none()) {
            Prospect::Late
        } else {
            Prospect::Unwanted
        }
    }

    fn tend(&mut self, id: AddressId) {
        let now = self.now;
        let Some(address) = self.addresses.get(&id) else {
            return;
        };
        let changes: Vec<(SocketIndex, Tend)> = address
            .indexed()
            .take(address.sockets.len() - usize::from(address.is_opening))
            .map(|(index, socket)| {
                (
                    index,
                    address.desired_tend(id, (index, socket), &self.workers),
                    socket,
                )
            })
            .filter(|(_, how, socket)| *how != socket.tend)
            .map(|(index, how, _)| (index, how))
            .collect();
        for (index, how) in changes {
            if let Some(socket) = self
                .addresses
                .get_mut(&id)
                .and_then(|address| address.socket_mut(index))
            {
                socket.tend(now, how);
            }
            self.order(Action::Tend {
                socket: SocketRef { address: id, index },
                how,
            });
        }
    }

    pub(crate) fn close(&mut self, id: AddressId) {
        self.addresses.remove(&id);
        for worker in self.workers.values_mut() {
            worker.listens.remove(&id);
        }
        self.order(Action::Close { address: id });
        self.notify(Notice::AddressClosed { address: id });
    }

    /// When the model of addresses wants to be looked at again.
    pub(crate) fn address_deadlines(&self) -> impl Iterator<Item = crate::Time> + '_ {
        self.addresses.values().flat_map(|address| {
            let closing = address
                .unserved_since
                .filter(|_| !address.has_holders() && address.asks.is_empty())
                .filter(|_| !address.is_opening && address.ordered.is_none())
                .map(|since| since + SOON);
            let retry = address.retry_at.filter(|_| address.ordered.is_none());
            let hope = address.hope_until.filter(|_| !address.is_refusing);
            closing.into_iter().chain(retry).chain(hope)
        })
    }
}

impl Address {
    /// Its set can be changed.
    pub(crate) fn is_steerable(&self) -> bool {
        match self.kind {
            AddressKind::Steered | AddressKind::Path => true,
            AddressKind::Single => false,
        }
    }
}
