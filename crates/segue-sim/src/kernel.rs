//! The virtual kernel: groups of listening sockets, who of them gets a connection, their accept
//! queues, and handshakes that end where they began. Knows no worker and no core.

use std::collections::VecDeque;

use segue_core::{AddressKind, SocketIndex, Tend, WorkerId};

use crate::random::Random;

/// One address: its sockets in the order in which they were opened.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) kind: AddressKind,
    /// The steering program was accepted.
    pub(crate) is_steered: bool,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) set: Vec<(SocketIndex, u32)>,
    pub(crate) is_shut: bool,
    pub(crate) published: Vec<WorkerId>,
    /// Tells an address from an earlier one at the same place.
    pub(crate) epoch: u32,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) queue: VecDeque<usize>,
    pub(crate) tend: Tend,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) place: u32,
    pub(crate) epoch: u32,
    pub(crate) index: SocketIndex,
    /// When its handshake was over.
    pub(crate) entered: Option<u64>,
    pub(crate) fate: Option<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted(WorkerId),
    HandedOver(WorkerId),
    Reset,
    /// It never came into a queue.
    Refused,
}

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) groups: Vec<Option<Group>>,
    pub(crate) connections: Vec<Connection>,
    epochs: u32,
}

impl Kernel {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            groups: (0..places).map(|_| None).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn group(&self, place: u32) -> Option<&Group> {
        self.groups.get(place as usize)?.as_ref()
    }

    pub(crate) fn group_mut(&mut self, place: u32) -> Option<&mut Group> {
        self.groups.get_mut(place as usize)?.as_mut()
    }

    pub(crate) fn socket_mut(&mut self, place: u32, index: SocketIndex) -> Option<&mut Socket> {
        self.group_mut(place)?.sockets.get_mut(usize::from(index.0))
    }

    /// Adds a socket; its index is the number of those before it.
    pub(crate) fn open(&mut self, place: u32, kind: AddressKind, is_steered: bool) -> usize {
        self.epochs += 1;
        let epoch = self.epochs;
        let Some(slot) = self.groups.get_mut(place as usize) else {
            return 0;
        };
        let group = slot.get_or_insert_with(|| Group {
            kind,
            is_steered,
            sockets: Vec::new(),
            set: match kind {
                AddressKind::Steered | AddressKind::Single => vec![(SocketIndex(0), 1)],
                AddressKind::Path => Vec::new(),
            },
            is_shut: false,
            published: Vec::new(),
            epoch,
        });
        group.sockets.push(Socket {
            queue: VecDeque::new(),
            tend: Tend::Leave,
        });
        group.sockets.len() - 1
    }

    /// Closes every socket of a place; what was queued is reset. Returns how many those were.
    pub(crate) fn close(&mut self, place: u32) -> usize {
        let Some(group) = self.groups.get_mut(place as usize).and_then(Option::take) else {
            return 0;
        };
        let queued: Vec<usize> = group
            .sockets
            .iter()
            .flat_map(|socket| socket.queue.iter().copied())
            .collect();
        for connection in &queued {
            self.resolve(*connection, Fate::Reset);
        }
        queued.len()
    }

    /// A client's SYN: the socket that gets it keeps the connection.
    pub(crate) fn syn(&mut self, place: u32, random: &mut Random) -> Option<usize> {
        let group = self.group(place)?;
        if group.is_shut || group.set.is_empty() {
            return None;
        }
        let total: u64 = group.set.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut number = random.below(total);
        let (index, _) = *group.set.iter().find(|(_, weight)| {
            let is_it = number < u64::from(*weight);
            number = number.saturating_sub(u64::from(*weight));
            is_it
        })?;
        let epoch = group.epoch;
        self.connections.push(Connection {
            place,
            epoch,
            index,
            entered: None,
            fate: None,
        });
        Some(self.connections.len() - 1)
    }

    /// A handshake is over; false if there is no socket any more.
    pub(crate) fn establish(&mut self, connection: usize, now: u64) -> bool {
        let Some(Connection {
            place,
            epoch,
            index,
            ..
        }) = self.connections.get(connection)
        else {
            return false;
        };
        let (place, epoch, index) = (*place, *epoch, *index);
        if self.group(place).is_none_or(|group| group.epoch != epoch) {
            self.resolve(connection, Fate::Refused);
            return false;
        }
        let Some(socket) = self.socket_mut(place, index) else {
            return false;
        };
        socket.queue.push_back(connection);
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.entered = Some(now);
        }
        true
    }

    pub(crate) fn resolve(&mut self, connection: usize, fate: Fate) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.fate = Some(fate);
        }
    }

    /// Handshakes under way towards a socket.
    pub(crate) fn pending(&self, place: u32, index: SocketIndex) -> Vec<usize> {
        let epoch = self.group(place).map(|group| group.epoch);
        // Nothing is under way for longer than the newest few hundred connections.
        let recent = self.connections.len().saturating_sub(400);
        (recent..self.connections.len())
            .filter(|id| {
                let connection = &self.connections[*id];
                connection.place == place
                    && connection.index == index
                    && Some(connection.epoch) == epoch
                    && connection.entered.is_none()
                    && connection.fate.is_none()
            })
            .collect()
    }
}
