//! The pool: the listening sockets of every address, in the order that steering counts them.
//!
//! A socket of the pool stays open while its address is in use, whoever has a copy of it: closing
//! one would reset what its queue holds and move the last one into its place. Copies for workers
//! and for the stragglers' watch come from [`Pool::lend`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use segue_core::{AddressId, AddressKind, SocketIndex, SocketRef, WorkerId};
use segue_sys::{diag, socket};
use segue_wire::node::{self, QueryServer, TicketKeys};
use segue_wire::steering::Probe;
use serde_json::Value;

use super::gate::{self, Shut};
use super::inherit::Inheritance;
use super::keep::Kept;
use super::path::Names;
use super::place::{Manner, Place, Places, Wish};
use super::settle::{self, Handshakes, Settling, Watched};
use super::{bind, steer};
use crate::handoff::Journal;

/// Every listening socket of one app.
#[derive(Debug)]
pub(crate) struct Pool {
    steering_allowed: bool,
    pub(super) journal: Journal,
    pub(super) places: Places,
    /// What the last question about an address said.
    pub(super) manners: BTreeMap<AddressId, Manner>,
    pub(super) tickets: BTreeMap<AddressId, TicketKeys>,
    /// Descriptors of workers that are to become an address's socket.
    adopted: BTreeMap<AddressId, OwnedFd>,
    pub(super) inheritance: Inheritance,
    pub(super) kept: Kept,
    pub(super) open: BTreeMap<AddressId, Open>,
    settling: Settling,
}

/// A socket was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// False where the kernel refused to steer: the address has this one socket only.
    pub(crate) steered: bool,
}

/// An address in use.
#[derive(Debug)]
pub(super) struct Open {
    /// All of its group, in the kernel's order.
    pub(super) sockets: Vec<OwnedFd>,
    /// So many of them have been opened; the others were there before, and are opened next.
    pub(super) known: usize,
    /// Sockets that get new connections, with their shares.
    pub(super) set: Vec<(SocketIndex, u32)>,
    /// Connections of ours that go where they are meant to, whatever the set.
    pub(super) probes: Vec<Probe>,
    pub(super) gate: Gate,
    pub(super) nature: Nature,
    /// Handshakes right after the set last changed, once somebody needed to know.
    pub(super) handshakes: Option<Handshakes>,
}

#[derive(Debug)]
pub(super) enum Gate {
    Open,
    /// It was to be shut, and could not be.
    Stuck,
    /// By what is in it for a group; by other means else.
    Shut(Option<Shut>),
}

#[derive(Debug)]
pub(super) enum Nature {
    Group {
        local: SocketAddr,
    },
    /// TCP where the kernel refuses to steer.
    Alone {
        local: SocketAddr,
    },
    Udp {
        local: SocketAddr,
    },
    Path(Names),
    /// Abstract names and descriptors of the worker.
    Fixed,
}

impl Pool {
    /// An empty pool. Without `steering_allowed` each TCP address has one socket, as on a kernel
    /// that refuses to steer.
    pub(crate) fn new(steering_allowed: bool, journal: Journal) -> Self {
        Self {
            steering_allowed,
            journal,
            places: Places::default(),
            manners: BTreeMap::new(),
            tickets: BTreeMap::new(),
            adopted: BTreeMap::new(),
            inheritance: Inheritance::nothing(),
            kept: Kept::default(),
            open: BTreeMap::new(),
            settling: Settling::default(),
        }
    }

    /// The address that a worker's question is about. The answer's errno is for the worker.
    ///
    /// # Errors
    /// `EINVAL` for a question that names no place, `ENODEV` for an unknown network interface.
    pub(crate) fn asked(&mut self, query: &QueryServer) -> Result<(AddressId, AddressKind), Errno> {
        let wish = Wish::of(&query.place, query.index)?;
        let address = self.places.intern(wish.place.clone());
        let kind = self.kind_of(address, &wish.place);
        self.manners.insert(address, wish.how);
        self.note_place(address);
        Ok((address, kind))
    }

    /// The address that a worker's `listening` message is about; `None` if nobody ever asked for it.
    pub(crate) fn listened(&self, place: &node::Place, index: u64) -> Option<AddressId> {
        let port_of = |address| Some(self.open.get(&address)?.nature.local()?.port());
        self.places.listening(place, index, port_of)
    }

    /// Where an address is, as messages of the worker describe it.
    pub(crate) fn place(&self, address: AddressId) -> Option<&Place> {
        self.places.place(address)
    }

    /// The copy of a worker's own descriptor that becomes the socket of a [`Place::Descriptor`],
    /// unless that is open already. Needed before its [`open`](Self::open).
    pub(crate) fn adopt(&mut self, address: AddressId, descriptor: OwnedFd) {
        if !self.open.contains_key(&address) {
            self.adopted.insert(address, descriptor);
        }
    }

    /// Makes the next socket of its address. The first one gets all connections until
    /// [`steer`](Self::steer) is called; later ones get none.
    ///
    /// # Errors
    /// What the app is to see; `EINVAL` if it is not the next one or the address takes no more.
    pub(crate) fn open(&mut self, socket: SocketRef) -> Result<Opened, Errno> {
        let opened = match self.open.contains_key(&socket.address) {
            true => self.open_next(socket),
            false if socket.index == SocketIndex(0) => self.open_first(socket.address),
            false => Err(Errno::INVAL.into()),
        };
        if opened.is_ok() {
            self.note_socket(socket);
        }
        opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn open_first(&mut self, address: AddressId) -> io::Result<Opened> {
        let how = self.manners.get(&address).copied().unwrap_or_default();
        let place = self.places.place(address).ok_or(Errno::INVAL)?;
        let found = self.inheritance.find(place, how);
        if let Some(found) = found.as_ref().filter(|found| !found.is_in_order) {
            self.keep_none_of(&found.names);
        }
        let (sockets, nature) = match (place, found) {
            (Place::Tcp(inet), found) => {
                let group = match found {
                    Some(found) => bind::adopt_tcp(found, self.steering_allowed)?,
                    None => bind::first_tcp(inet, how, self.steering_allowed)?,
                };
                let local = group.local;
                let nature = match group.steered {
                    true => Nature::Group { local },
                    false => Nature::Alone { local },
                };
                (group.sockets, nature)
            }
            (Place::Udp(_), Some(found)) => {
                let local = bind::local_of(&found)?;
                (found.sockets, Nature::Udp { local })
            }
            (Place::Udp(inet), None) => {
                let (socket, local) = bind::udp(inet, how)?;
                (vec![socket], Nature::Udp { local })
            }
            (Place::Path(path), Some(found)) if found.is_ours => {
                let adopted = Names::adopt(path, found.sockets).or_else(|error| {
                    tracing::warn!(%error, path = %path.display(), "sockets that were kept are of no use");
                    let mut names = Names::new(path)?;
                    let socket = names.open(how)?;
                    Ok::<_, io::Error>((names, vec![socket]))
                });
                let (names, sockets) = adopted?;
                (sockets, Nature::Path(names))
            }
            (Place::Path(_) | Place::Abstract(_), Some(found)) => (found.sockets, Nature::Fixed),
            (Place::Path(path), None) => {
                let mut names = Names::new(path)?;
                (vec![names.open(how)?], Nature::Path(names))
            }
            (Place::Abstract(name), None) => (vec![bind::abstract_name(name)?], Nature::Fixed),
            (Place::Descriptor(_), _) => {
                let adopted = self.adopted.remove(&address).ok_or(Errno::BADF)?;
                (vec![adopted], Nature::Fixed)
            }
        };
        let opened = Opened {
            steered: !matches!(nature, Nature::Alone { .. }),
        };
        let open = Open {
            sockets,
            known: 1,
            set: vec![(SocketIndex(0), 1)],
            probes: Vec::new(),
            gate: Gate::Open,
            nature,
            handshakes: None,
        };
        self.open.insert(address, open);
        Ok(opened)
    }

    fn open_next(&mut self, socket: SocketRef) -> io::Result<Opened> {
        let how = self
            .manners
            .get(&socket.address)
            .copied()
            .unwrap_or_default();
        let open = self.open.get_mut(&socket.address).ok_or(Errno::INVAL)?;
        // Its number must be its place in the kernel's group, behind which a shut gate has its own.
        if usize::from(socket.index.0) != open.known || open.gate.is_shut() {
            return Err(Errno::INVAL.into());
        }
        let next = match &mut open.nature {
            Nature::Group { .. } | Nature::Path(_) if open.known < open.sockets.len() => None,
            Nature::Group { local } => Some(bind::next_tcp(open.sockets.first(), *local)?),
            Nature::Path(names) => Some(names.open(how)?),
            Nature::Alone { .. } | Nature::Udp { .. } | Nature::Fixed => {
                return Err(Errno::INVAL.into());
            }
        };
        open.sockets.extend(next);
        open.known += 1;
        Ok(Opened { steered: true })
    }

    /// A copy of a socket, for a worker or a watch.
    ///
    /// # Errors
    /// `EBADF` for a socket that is not open, `EMFILE`.
    pub(crate) fn lend(&self, socket: SocketRef) -> io::Result<OwnedFd> {
        self.socket(socket).ok_or(Errno::BADF)?.try_clone()
    }

    /// Whether it has been opened.
    pub(crate) fn is_open(&self, socket: SocketRef) -> bool {
        let open = self.open.get(&socket.address);
        open.is_some_and(|open| usize::from(socket.index.0) < open.known)
    }

    /// Whether the kernel can be told who of its sockets gets connections, as when it was opened.
    pub(crate) fn is_steered(&self, address: AddressId) -> bool {
        self.open
            .get(&address)
            .is_some_and(|open| !matches!(open.nature, Nature::Alone { .. }))
    }

    /// Puts a path that was unlinked back: many programs unlink theirs before they listen, the
    /// second worker too.
    pub(crate) fn heal_path(&self, address: AddressId) {
        if let Some(Open {
            nature: Nature::Path(names),
            ..
        }) = self.open.get(&address)
            && let Err(error) = names.heal()
        {
            let name = self.describe(address);
            tracing::warn!(%error, path = name, "cannot put the socket back onto its path");
        }
    }

    fn socket(&self, socket: SocketRef) -> Option<&OwnedFd> {
        let open = self.open.get(&socket.address)?;
        open.sockets.get(usize::from(socket.index.0))
    }

    /// The `data` of the answer to a question that came with `asked`: the ticket keys that the
    /// address's first TLS server came with, for all who come later, after a close too.
    pub(crate) fn ticket_data(&mut self, address: AddressId, asked: &Value) -> Value {
        let answer = self.tickets.entry(address).or_default().answer(asked);
        self.note_place(address);
        answer
    }

    /// Sends new connections to exactly these sockets, by weight, from one moment on. Probes go where
    /// they went. Where an address has only one socket there is nothing to do.
    ///
    /// # Errors
    /// `EINVAL` for a set that is empty, names a socket that is not open or one twice, has a weight of 0,
    /// or for a path is not one socket; else the kernel's. The set is then as it was.
    pub(crate) fn steer(
        &mut self,
        address: AddressId,
        set: &[(SocketIndex, u32)],
    ) -> io::Result<()> {
        let open = self.open.get_mut(&address).ok_or(Errno::INVAL)?;
        let mut set = set.to_vec();
        set.sort_unstable();
        let is_open = |(index, _): &(SocketIndex, u32)| usize::from(index.0) < open.known;
        // A number beyond the group would let the kernel choose among all, unproven ones too.
        if set.is_empty() || !set.iter().all(is_open) {
            return Err(Errno::INVAL.into());
        }
        open.attach(&set)?;
        match (&mut open.nature, &set[..]) {
            // Behind a shut gate nobody gets any.
            _ if open.gate.is_shut() => {}
            (Nature::Path(names), [(index, _)]) => names.steer(*index)?,
            (Nature::Path(_), _) => return Err(Errno::INVAL.into()),
            _ => {}
        }
        open.set = set;
        open.handshakes = None;
        self.note_open(address);
        Ok(())
    }

    /// Makes the queues of an address as long as the system allows again: a worker's own
    /// `listen` has set the length it asked for.
    pub(crate) fn raise_backlog(&self, address: AddressId) {
        let Some(open) = self.open.get(&address) else {
            return;
        };
        if open.gate.is_shut() || matches!(open.nature, Nature::Udp { .. }) {
            return;
        }
        for socket in &open.sockets {
            if let Err(error) = socket::listen(socket) {
                tracing::debug!(%error, address = self.describe(address), "queue stays as it is");
            }
        }
    }

    /// Lets no new connection begin: what has begun is served, and clients that come now are
    /// as if the server were not there (a path is gone, TCP does not answer). Abstract names and
    /// UDP have no gate.
    pub(crate) fn shut_gate(&mut self, address: AddressId) {
        let name = self.describe(address);
        let Some(open) = self.open.get_mut(&address) else {
            return;
        };
        if open.gate.is_shut() {
            return;
        }
        // The service manager goes on with a socket of its own, and would find it crippled.
        let is_kept = matches!(open.nature, Nature::Alone { .. })
            && open
                .sockets
                .iter()
                .any(|socket| self.inheritance.keeps(socket));
        let shut = match is_kept {
            true => Ok(None),
            false => open.shut_gate(),
        };
        open.gate = match shut {
            Ok(shut) => Gate::Shut(shut),
            Err(error) => {
                tracing::warn!(
                    %error,
                    address = name,
                    "cannot hold back new connections: some may be reset at the end"
                );
                Gate::Stuck
            }
        };
        // Where they were to go nobody goes now.
        open.probes.clear();
        open.handshakes = None;
        self.note_open(address);
        if let Some(open) = self.open.get(&address) {
            self.keep_no_more(address, open);
        }
    }

    /// Closes every socket of an address. Copies of workers live on; a watch on one of them must
    /// have ended before (`Stragglers::forget`), or the port stays taken. The address keeps its number.
    pub(crate) fn close(&mut self, address: AddressId) {
        self.adopted.remove(&address);
        let Some(open) = self.open.remove(&address) else {
            return;
        };
        self.note_closed(address, &open);
        if let Gate::Shut(Some(shut)) = open.gate {
            shut.close(open.sockets);
        }
        if let Nature::Path(names) = open.nature {
            names.close();
        }
    }

    /// Remembers what is on its way to a worker that has just been taken out of the set. Sockets
    /// that still get new connections do not count: they are never quiet.
    pub(crate) fn begin_settle(&mut self, worker: WorkerId, sockets: &[SocketRef]) {
        let mut watched = Watched::default();
        for &socket in sockets {
            let Some(open) = self.open.get_mut(&socket.address) else {
                continue;
            };
            // With a stuck gate there is at least a moment when the queue is empty.
            let is_in_set = open.set.iter().any(|(index, _)| *index == socket.index);
            let gets_more = is_in_set && matches!(open.gate, Gate::Open);
            if gets_more || matches!(open.nature, Nature::Udp { .. }) {
                continue;
            }
            watched.sockets.push(socket);
            if let Some(local) = open.nature.tcp() {
                // Whoever is in this list and was not there when the set changed came later, to
                // another socket. So a list made after the change serves all who were taken out by it.
                let present = open
                    .handshakes
                    .get_or_insert_with(|| settle::handshakes(local));
                let known = watched.handshakes.entry(local).or_default();
                known.extend(present.iter().copied());
            }
        }
        self.settling.begin(worker, watched);
    }

    /// Whether the worker's queues are empty and the remembered handshakes are over.
    pub(crate) fn check_settled(&mut self, worker: WorkerId) -> bool {
        let open = &self.open;
        let has_waiting = |socket: SocketRef| {
            let sockets = open.get(&socket.address).map(|open| &open.sockets);
            sockets
                .and_then(|sockets| sockets.get(usize::from(socket.index.0)))
                .is_some_and(|socket| socket::has_waiting(socket).unwrap_or(false))
        };
        let now = Instant::now();
        self.settling
            .is_clear(worker, now, settle::handshakes, has_waiting)
    }

    /// A name for messages to people: `[::]:3000`, `/run/app.sock`, `udp 127.0.0.1:53`, `@name`.
    pub(crate) fn describe(&self, address: AddressId) -> String {
        let local = self.open.get(&address).and_then(|open| open.nature.local());
        self.places.describe(address, local)
    }

    /// Where an open TCP or UDP address is bound, with its real port.
    #[cfg(test)]
    pub(crate) fn local(&self, address: AddressId) -> Option<SocketAddr> {
        self.open.get(&address)?.nature.local()
    }

    /// How many connections wait in each socket of an address, in order; `None` where that is not known.
    pub(crate) fn queue_lengths(&self, address: AddressId) -> Vec<Option<u32>> {
        let Some(open) = self.open.get(&address) else {
            return Vec::new();
        };
        open.sockets
            .iter()
            .map(|socket| diag::queue_length(socket).ok())
            .collect()
    }
}

impl Open {
    /// Puts a set in force, together with the probes there are, if it is the kernel that steers.
    pub(super) fn attach(&self, set: &[(SocketIndex, u32)]) -> io::Result<()> {
        match (&self.nature, self.sockets.first()) {
            (Nature::Group { .. }, Some(member)) if !self.gate.is_shut() => {
                steer::send_by_weight(member, &numbered(set), &self.probes)
            }
            _ => Ok(()),
        }
    }

    fn shut_gate(&mut self) -> io::Result<Option<Shut>> {
        match &mut self.nature {
            Nature::Group { local } => {
                let set = numbered(&self.set);
                let group = gate::Group {
                    members: &self.sockets,
                    set: &set,
                    local: *local,
                    v6_only: self.sockets.first().is_some_and(bind::is_v6_only),
                };
                Shut::new(group).map(Some)
            }
            Nature::Alone { .. } => {
                let mut sockets = self.sockets.iter();
                sockets.try_for_each(gate::shut_alone).map(|()| None)
            }
            Nature::Path(names) => {
                names.leave_path();
                Ok(None)
            }
            Nature::Udp { .. } | Nature::Fixed => Ok(None),
        }
    }
}

fn numbered(set: &[(SocketIndex, u32)]) -> Vec<(u16, u32)> {
    set.iter()
        .map(|(index, weight)| (index.0, *weight))
        .collect()
}

impl Gate {
    pub(super) fn is_shut(&self) -> bool {
        matches!(self, Self::Shut(_))
    }
}

impl Nature {
    fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Group { local } | Self::Alone { local } | Self::Udp { local } => Some(*local),
            Self::Path(_) | Self::Fixed => None,
        }
    }

    fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Group { local } | Self::Alone { local } => Some(*local),
            Self::Udp { .. } | Self::Path(_) | Self::Fixed => None,
        }
    }
}
