//! Places a worker may listen at, as Node's messages describe them, and their numbers.
//!
//! Two messages that mean the same place get the same number in every worker and generation; a
//! number is never given to another place. Nothing is bound here.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use rustix::io::Errno;
use segue_core::{AddressId, AddressKind};
use segue_wire::node::{self, AddressType};
use serde::{Deserialize, Serialize};

/// Where a worker wants to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Tcp(Inet),
    Udp(Inet),
    /// A Unix-domain socket in the file system.
    Path(PathBuf),
    /// One in the abstract namespace, by what follows the NUL byte.
    Abstract(Vec<u8>),
    /// `listen({ fd })`: a descriptor of the worker.
    Descriptor(i32),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub(crate) struct Inet {
    pub(crate) host: IpAddr,
    /// Zone of a link-local IPv6 address; 0 for every other.
    pub(crate) scope: u32,
    /// 0: any free one, chosen when the address is opened and the same for all who ask.
    pub(crate) port: u16,
    pub(crate) v6_only: bool,
    /// Tells several servers on port 0 apart; 0 for every other port, because workers may count
    /// differently after a server was closed.
    pub(crate) index: u64,
}

/// A place, and what else a question says about it. Does not tell places apart: a later
/// generation may ask differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) place: Place,
    pub(crate) how: Manner,
}

/// How a socket is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Manner {
    /// No host was given: where there is no IPv6, 0.0.0.0 will do.
    pub(crate) any_host: bool,
    /// UDP: others who say the same may bind the address too.
    pub(crate) reuse_address: bool,
    /// Path: anybody may read.
    pub(crate) readable_all: bool,
    /// Path: anybody may write, and so connect.
    pub(crate) writable_all: bool,
}

impl Wish {
    /// What a message means whose place is `place` and whose index is `index`.
    ///
    /// # Errors
    /// `EINVAL` if it names no place.
    pub(crate) fn of(place: &node::Place, index: u64) -> Result<Self, Errno> {
        let how = Manner {
            any_host: place.address.is_none(),
            reuse_address: place.reuses_address(),
            readable_all: place.readable_all,
            writable_all: place.writable_all,
        };
        let place = match place.address_type {
            AddressType::V4 | AddressType::V6 => Place::Tcp(inet(place, index)?),
            AddressType::Udp4 | AddressType::Udp6 => Place::Udp(inet(place, index)?),
            AddressType::Path => unix(place)?,
            AddressType::Fd => Place::Descriptor(place.fd.ok_or(Errno::INVAL)?),
            AddressType::Unknown => return Err(Errno::INVAL),
        };
        Ok(Self { place, how })
    }
}

fn inet(place: &node::Place, index: u64) -> Result<Inet, Errno> {
    let port = u16::try_from(place.port.unwrap_or(0)).map_err(|_| Errno::INVAL)?;
    let (host, scope) = match &place.address {
        Some(address) => parse_host(address)?,
        None if place.address_type == AddressType::Udp4 => (Ipv4Addr::UNSPECIFIED.into(), 0),
        // Without a host Node says 4 and means both families.
        None => (Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    Ok(Inet {
        host,
        scope,
        port,
        v6_only: host.is_ipv6() && place.is_v6_only(),
        index: if port == 0 { index } else { 0 },
    })
}

fn unix(place: &node::Place) -> Result<Place, Errno> {
    if let Some(name) = place.abstract_name() {
        return Ok(Place::Abstract(name.as_bytes().to_vec()));
    }
    let path = PathBuf::from(place.address.as_deref().ok_or(Errno::INVAL)?);
    if path.is_absolute() && path.file_name().is_some() {
        Ok(Place::Path(path))
    } else {
        Err(Errno::INVAL)
    }
}

fn parse_host(address: &str) -> Result<(IpAddr, u32), Errno> {
    let (address, zone) = match address.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (address, None),
    };
    let host: IpAddr = address.parse().map_err(|_| Errno::INVAL)?;
    let scope = match zone {
        None => 0,
        Some(_) if host.is_ipv4() => return Err(Errno::INVAL),
        Some(zone) => match zone.parse() {
            Ok(scope) => scope,
            Err(_) => segue_sys::socket::interface_index(zone).map_err(|_| Errno::NODEV)?,
        },
    };
    Ok((host, scope))
}

impl Inet {
    pub(crate) fn socket_addr(&self) -> SocketAddr {
        match self.host {
            IpAddr::V4(host) => SocketAddr::new(host.into(), self.port),
            IpAddr::V6(host) => SocketAddrV6::new(host, self.port, 0, self.scope).into(),
        }
    }
}

impl Place {
    /// What can be done with sockets of this place.
    pub(crate) fn kind(&self) -> AddressKind {
        match self {
            Self::Tcp(_) => AddressKind::Steered,
            Self::Path(_) => AddressKind::Path,
            Self::Udp(_) | Self::Abstract(_) | Self::Descriptor(_) => AddressKind::Single,
        }
    }
}

/// As it is written in messages to people.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(inet) => write!(f, "{}", inet.socket_addr()),
            Self::Udp(inet) => write!(f, "udp {}", inet.socket_addr()),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Self::Descriptor(fd) => write!(f, "fd {fd}"),
        }
    }
}

/// Every place anybody has asked for, by number.
#[derive(Debug, Default)]
pub(crate) struct Places {
    numbers: HashMap<Place, AddressId>,
    places: Vec<Place>,
}

impl Places {
    /// The number of a place; a new one if it is asked for the first time.
    pub(crate) fn intern(&mut self, place: Place) -> AddressId {
        if let Some(&address) = self.numbers.get(&place) {
            return address;
        }
        let address = AddressId(u32::try_from(self.places.len()).unwrap_or(u32::MAX));
        self.places.push(place.clone());
        self.numbers.insert(place, address);
        address
    }

    pub(crate) fn place(&self, address: AddressId) -> Option<&Place> {
        self.places.get(usize::try_from(address.0).ok()?)
    }

    /// The address that a `listening` message is about. Its port is the real one, also where
    /// port 0 was asked for; `port_of` knows the real ports of open addresses.
    pub(crate) fn listening(
        &self,
        place: &node::Place,
        index: u64,
        port_of: impl Fn(AddressId) -> Option<u16>,
    ) -> Option<AddressId> {
        let said = Wish::of(place, index).ok()?.place;
        let exact = self.numbers.get(&said).copied();
        let (Place::Tcp(inet) | Place::Udp(inet)) = &said else {
            return exact;
        };
        // An address that was asked for by this port and refused must not hide the one on port 0
        // that got it.
        let has_port = |address: &AddressId| port_of(*address) == Some(inet.port);
        if exact.as_ref().is_some_and(has_port) {
            return exact;
        }
        let any_port = node::Place {
            port: Some(0),
            ..place.clone()
        };
        let any_port = Wish::of(&any_port, index).ok()?.place;
        let any_port = self.numbers.get(&any_port).copied();
        any_port.filter(has_port).or(exact)
    }

    /// A name for messages to people: with the real port once there is one.
    pub(crate) fn describe(&self, address: AddressId, local: Option<SocketAddr>) -> String {
        match (self.place(address), local) {
            (None, _) => address.to_string(),
            (Some(Place::Tcp(_)), Some(local)) => local.to_string(),
            (Some(Place::Udp(_)), Some(local)) => format!("udp {local}"),
            (Some(place), _) => place.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: Option<&str>, port: i64) -> node::Place {
        node::Place {
            address: address.map(str::to_owned),
            port: Some(port),
            address_type: AddressType::V4,
            ..node::Place::default()
        }
    }

    fn at(address_type: AddressType, address: &str) -> node::Place {
        node::Place {
            address: Some(address.to_owned()),
            port: Some(-1),
            address_type,
            ..node::Place::default()
        }
    }

    fn check(place: &node::Place, name: &str, kind: AddressKind) {
        let wish = Wish::of(place, 0).expect("a place");
        assert_eq!(wish.place.to_string(), name);
        assert_eq!(wish.place.kind(), kind);
    }

    #[test]
    fn places_have_names_and_kinds() {
        check(&tcp(None, 3000), "[::]:3000", AddressKind::Steered);
        check(
            &tcp(Some("0.0.0.0"), 80),
            "0.0.0.0:80",
            AddressKind::Steered,
        );
        check(
            &tcp(Some("fe80::1%1"), 80),
            "[fe80::1%1]:80",
            AddressKind::Steered,
        );
        check(
            &at(AddressType::Path, "/run/x.sock"),
            "/run/x.sock",
            AddressKind::Path,
        );
        check(
            &at(AddressType::Path, "/srv/\0x"),
            "@x",
            AddressKind::Single,
        );
        let udp = node::Place {
            port: Some(53),
            fd: Some(-1),
            ..at(AddressType::Udp4, "127.0.0.1")
        };
        check(&udp, "udp 127.0.0.1:53", AddressKind::Single);
        let any_udp = node::Place {
            port: None,
            address: None,
            ..udp
        };
        check(&any_udp, "udp 0.0.0.0:0", AddressKind::Single);
        let descriptor = node::Place {
            fd: Some(7),
            address_type: AddressType::Fd,
            ..node::Place::default()
        };
        check(&descriptor, "fd 7", AddressKind::Single);
    }

    #[test]
    fn nonsense_names_no_place() {
        let nonsense = [
            node::Place::default(),
            tcp(Some("localhost"), 80),
            tcp(Some("127.0.0.1%lo"), 80),
            tcp(None, 65_536),
            tcp(None, -1),
            at(AddressType::Path, "relative"),
            at(AddressType::Path, "/"),
            node::Place {
                address: None,
                ..at(AddressType::Path, "")
            },
        ];
        for place in nonsense {
            assert_eq!(Wish::of(&place, 0), Err(Errno::INVAL), "{place:?}");
        }
        let unknown = tcp(Some("fe80::1%no-such-if"), 80);
        assert_eq!(Wish::of(&unknown, 0), Err(Errno::NODEV));
    }

    #[test]
    fn what_means_the_same_has_one_number() {
        let mut places = Places::default();
        let mut number = |place: &node::Place, index| {
            places.intern(Wish::of(place, index).expect("a place").place)
        };
        let any = number(&tcp(None, 3000), 0);
        // An index left over from a server that was closed, and the wildcard spelt out.
        assert_eq!(number(&tcp(None, 3000), 1), any);
        assert_eq!(number(&tcp(Some("::"), 3000), 0), any);
        assert_ne!(number(&tcp(Some("0.0.0.0"), 3000), 0), any);
        let v6_only = node::Place {
            flags: 1,
            ..tcp(None, 3000)
        };
        assert_ne!(number(&v6_only, 0), any);

        let first = number(&tcp(None, 0), 0);
        assert_ne!(number(&tcp(None, 0), 1), first);
        assert_eq!(number(&tcp(None, 0), 0), first);
    }

    #[test]
    fn a_real_port_leads_back_to_port_0() {
        let mut places = Places::default();
        let mut number = |place: &node::Place, index| {
            places.intern(Wish::of(place, index).expect("a place").place)
        };
        let first = number(&tcp(None, 0), 0);
        let second = number(&tcp(None, 0), 1);
        // Asked for and refused: it has no socket.
        let refused = number(&tcp(None, 4001), 0);
        let fixed = number(&tcp(None, 3000), 0);
        let port_of = |address| match address {
            _ if address == first => Some(4001),
            _ if address == second => Some(4002),
            _ if address == fixed => Some(3000),
            _ => None,
        };
        let find = |port, index| places.listening(&tcp(None, port), index, port_of);
        assert_eq!(find(4001, 0), Some(first));
        assert_eq!(find(4002, 1), Some(second));
        assert_eq!(find(3000, 1), Some(fixed));
        assert_eq!(find(4002, 0), None);
        assert_eq!(find(4003, 0), None);
        assert_ne!(refused, first);
    }
}
