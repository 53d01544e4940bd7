//! What a successor must know of the pool, and the pool as a successor makes it of that. Its
//! sockets are held elsewhere meanwhile, so none is ever closed and the kernel's order stays.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use segue_core::{AddressId, SocketIndex, SocketRef};
use segue_wire::node::TicketKeys;
use serde::{Deserialize, Serialize};

use super::gate::Shut;
use super::path::{self, Names};
use super::place::{Inet, Manner, Place};
use super::pool::{Gate, Nature, Open, Pool};
use crate::handoff::text::Word;
use crate::handoff::{InheritError, Inherited, Journal};

/// A place that somebody has asked for.
#[derive(Debug, Deserialize, Serialize)]
struct PlaceRecord {
    place: Named,
    how: Manner,
    /// Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ticket_keys: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    Tcp(Inet),
    Udp(Inet),
    Path(Word),
    Abstract(Vec<u8>),
    Descriptor(i32),
}

/// An address in use.
#[derive(Debug, Deserialize, Serialize)]
struct OpenRecord {
    nature: NatureRecord,
    sockets: u16,
    /// So many of them nobody has opened yet.
    #[serde(default)]
    spares: u16,
    set: Vec<u16>,
    /// Of those in `set`, in its order; 1 for those that are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    weights: Vec<u32>,
    gate: GateRecord,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum NatureRecord {
    Group { local: SocketAddr },
    Alone { local: SocketAddr },
    Udp { local: SocketAddr },
    Path(path::Record),
    Fixed,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum GateRecord {
    Open,
    Stuck,
    Shut,
    /// By sinks, which are held as well.
    ShutBySinks,
}

impl Pool {
    pub(super) fn note_place(&self, address: AddressId) {
        let Some(place) = self.places.place(address) else {
            return;
        };
        let keys = self.tickets.get(&address).and_then(TicketKeys::text);
        let record = PlaceRecord {
            place: Named::of(place),
            how: self.manners.get(&address).copied().unwrap_or_default(),
            ticket_keys: keys.map(str::to_owned),
        };
        self.journal.put(&format!("place/{}", address.0), &record);
    }

    /// A socket has been opened.
    pub(super) fn note_socket(&self, socket: SocketRef) {
        let Some(open) = self.open.get(&socket.address) else {
            return;
        };
        let index = usize::from(socket.index.0);
        // With the first one those that were there before.
        let noted = match index {
            0 => 0..open.sockets.len(),
            _ => index..index + 1,
        };
        for (index, descriptor) in (0..).zip(&open.sockets) {
            if noted.contains(&usize::from(index)) {
                let socket = SocketRef {
                    index: SocketIndex(index),
                    ..socket
                };
                self.journal.hold(&name_of(socket), descriptor);
                self.keep(socket.address, open, usize::from(index));
            }
        }
        if let Nature::Path(names) = &open.nature {
            self.journal
                .hold(&directory_of(socket.address), names.directory());
        }
        self.note_open(socket.address);
    }

    pub(super) fn note_open(&self, address: AddressId) {
        let Some(open) = self.open.get(&address) else {
            return;
        };
        if let Gate::Shut(Some(shut)) = &open.gate {
            for (number, sink) in shut.sinks().into_iter().enumerate() {
                self.journal.hold(&sink_of(address, number), sink);
            }
        }
        let name = format!("listen/{}", address.0);
        self.journal.put(&name, &OpenRecord::of(open));
    }

    pub(super) fn note_closed(&self, address: AddressId, open: &Open) {
        self.keep_no_more(address, open);
        for index in 0..open.sockets.len() {
            let index = SocketIndex(u16::try_from(index).unwrap_or(u16::MAX));
            self.journal.release(&name_of(SocketRef { address, index }));
        }
        match &open.nature {
            Nature::Path(_) => self.journal.release(&directory_of(address)),
            Nature::Group { .. } | Nature::Alone { .. } | Nature::Udp { .. } | Nature::Fixed => {}
        }
        if let Gate::Shut(Some(_)) = &open.gate {
            for number in 0..2 {
                self.journal.release(&sink_of(address, number));
            }
        }
        self.journal.drop(&format!("listen/{}", address.0));
    }

    /// Whether what was written down can be understood.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn check(journal: &Journal, inherited: &Inherited) -> Result<(), InheritError> {
        by_number::<PlaceRecord>(inherited, &journal.full("place/"))?;
        by_number::<OpenRecord>(inherited, &journal.full("listen/"))?;
        Ok(())
    }

    /// The pool of a predecessor.
    ///
    /// # Errors
    /// Something is missing, or of another kind.
    pub(crate) fn restore(
        steering_allowed: bool,
        journal: Journal,
        inherited: &mut Inherited,
    ) -> Result<Self, InheritError> {
        let mut pool = Self::new(steering_allowed, journal);
        let full = |name: &str| pool.journal.full(name);
        let (places, listens) = (full("place/"), full("listen/"));
        let mut records = by_number::<PlaceRecord>(inherited, &places)?;
        records.sort_by_key(|(address, _)| *address);
        for (address, record) in records {
            // Numbers are given in the order in which places were first asked for.
            if pool.places.intern(record.place.into_place()) != address {
                let name = format!("{places}{}", address.0);
                return Err(InheritError::value(&name, "out of order"));
            }
            pool.manners.insert(address, record.how);
            if let Some(keys) = record.ticket_keys {
                let keys = TicketKeys::from_text(Some(keys));
                pool.tickets.insert(address, keys);
            }
        }
        for (address, record) in by_number::<OpenRecord>(inherited, &listens)? {
            let open = record.open(address, &pool.journal, inherited)?;
            // A predecessor's probes may still have their rules.
            if let Err(error) = open.attach(&open.set) {
                tracing::warn!(%error, address = address.0, "cannot say anew who gets connections");
            }
            pool.open.insert(address, open);
        }
        Ok(pool)
    }
}

impl OpenRecord {
    fn of(open: &Open) -> Self {
        Self {
            nature: match &open.nature {
                Nature::Group { local } => NatureRecord::Group { local: *local },
                Nature::Alone { local } => NatureRecord::Alone { local: *local },
                Nature::Udp { local } => NatureRecord::Udp { local: *local },
                Nature::Path(names) => NatureRecord::Path(names.record()),
                Nature::Fixed => NatureRecord::Fixed,
            },
            sockets: u16::try_from(open.sockets.len()).unwrap_or(u16::MAX),
            spares: u16::try_from(open.sockets.len() - open.known).unwrap_or(u16::MAX),
            set: open.set.iter().map(|(index, _)| index.0).collect(),
            weights: match open.set.iter().all(|(_, weight)| *weight == 1) {
                true => Vec::new(),
                false => open.set.iter().map(|(_, weight)| *weight).collect(),
            },
            gate: match &open.gate {
                Gate::Open => GateRecord::Open,
                Gate::Stuck => GateRecord::Stuck,
                Gate::Shut(None) => GateRecord::Shut,
                Gate::Shut(Some(_)) => GateRecord::ShutBySinks,
            },
        }
    }

    fn open(
        self,
        address: AddressId,
        journal: &Journal,
        inherited: &mut Inherited,
    ) -> Result<Open, InheritError> {
        let mut take = |name: String| {
            let name = journal.full(&name);
            inherited
                .take(&name)
                .ok_or_else(|| InheritError::value(&name, "its descriptor is not held"))
        };
        let sockets: Vec<OwnedFd> = (0..self.sockets)
            .map(|index| {
                let index = SocketIndex(index);
                take(name_of(SocketRef { address, index }))
            })
            .collect::<Result<_, _>>()?;
        let nature = match self.nature {
            NatureRecord::Group { local } => Nature::Group { local },
            NatureRecord::Alone { local } => Nature::Alone { local },
            NatureRecord::Udp { local } => Nature::Udp { local },
            NatureRecord::Path(record) => {
                Nature::Path(Names::restore(take(directory_of(address))?, record))
            }
            NatureRecord::Fixed => Nature::Fixed,
        };
        let gate = match self.gate {
            GateRecord::Open => Gate::Open,
            GateRecord::Stuck => Gate::Stuck,
            GateRecord::Shut => Gate::Shut(None),
            GateRecord::ShutBySinks => {
                let sinks = [take(sink_of(address, 0))?, take(sink_of(address, 1))?];
                Gate::Shut(Some(Shut::restore(sinks)))
            }
        };
        Ok(Open {
            known: sockets.len().saturating_sub(usize::from(self.spares)),
            sockets,
            set: {
                let weights = self.weights.into_iter().chain(std::iter::repeat(1));
                let indexes = self.set.into_iter().map(SocketIndex);
                indexes.zip(weights).collect()
            },
            probes: Vec::new(),
            gate,
            nature,
            handshakes: None,
        })
    }
}

impl Named {
    fn of(place: &Place) -> Self {
        match place {
            Place::Tcp(inet) => Self::Tcp(inet.clone()),
            Place::Udp(inet) => Self::Udp(inet.clone()),
            Place::Path(path) => Self::Path(path.as_os_str().into()),
            Place::Abstract(name) => Self::Abstract(name.clone()),
            Place::Descriptor(number) => Self::Descriptor(*number),
        }
    }

    fn into_place(self) -> Place {
        match self {
            Self::Tcp(inet) => Place::Tcp(inet),
            Self::Udp(inet) => Place::Udp(inet),
            Self::Path(path) => Place::Path(path.into()),
            Self::Abstract(name) => Place::Abstract(name),
            Self::Descriptor(number) => Place::Descriptor(number),
        }
    }
}

fn by_number<T: serde::de::DeserializeOwned>(
    inherited: &Inherited,
    prefix: &str,
) -> Result<Vec<(AddressId, T)>, InheritError> {
    let values = inherited.values(prefix)?.into_iter();
    values
        .map(|(rest, record)| match rest.parse() {
            Ok(number) => Ok((AddressId(number), record)),
            Err(error) => Err(InheritError::value(&format!("{prefix}{rest}"), error)),
        })
        .collect()
}

fn name_of(socket: SocketRef) -> String {
    format!("listen/{}/{}", socket.address.0, socket.index.0)
}

fn directory_of(address: AddressId) -> String {
    format!("listen/{}/directory", address.0)
}

fn sink_of(address: AddressId, number: usize) -> String {
    format!("listen/{}/sink/{number}", address.0)
}
