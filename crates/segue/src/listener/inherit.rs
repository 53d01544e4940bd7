//! Listening sockets that this process has been given instead of making them. A service manager
//! listens in our place (socket activation), or has kept what we listened at in an earlier life, all
//! of whose processes have died: connections wait there meanwhile. A worker's wish to listen at such
//! an address is answered with them.
//!
//! The first kind stays the service manager's: it goes on listening when we have ended, so what we do
//! to it must do no harm then. The second kind becomes ours again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::{AddressId, AddressKind, SocketIndex, SocketRef};
use segue_sys::inherited::{Listener, identify};

use super::place::{Inet, Manner, Place};
use super::pool::{Nature, Pool};
use crate::handoff::Journal;

/// What the names of sockets begin with that a service manager keeps for us; their index and their
/// place follow.
const STORED: &str = "segue-listen/";

/// The longest name that a service manager takes (`fdname_is_valid` of systemd).
const LONGEST_NAME: usize = 255;

/// What has been given and not been used up. Clones share it: apps of one supervisor take of it what
/// they ask for.
#[derive(Clone, Debug)]
pub(crate) struct Inheritance(Arc<Mutex<Estate>>);

#[derive(Debug)]
struct Estate {
    given: Vec<Given>,
    /// Where they are held.
    site: Journal,
}

#[derive(Debug)]
struct Given {
    /// The name under which it is held, and the giver's.
    held: String,
    name: String,
    socket: OwnedFd,
    inode: Option<u64>,
    what: Option<Listener>,
    /// Of one that was ours: its index, and its place as a name.
    stored: Option<(u16, String)>,
    /// Somebody has asked for it.
    is_used: bool,
}

/// Sockets for an address.
#[derive(Debug)]
pub(super) struct Found {
    /// In the order of their group, as far as that is known.
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) is_in_order: bool,
    /// They were ours before: the service manager does not listen at them itself.
    pub(super) is_ours: bool,
    /// Under these names they come back, and their order with them. Without an order they must not.
    pub(super) names: Vec<String>,
}

impl Inheritance {
    /// Descriptors by the names under which they are held, `activation/NUMBER/NAME`.
    pub(crate) fn of(descriptors: Vec<(String, OwnedFd)>, site: Journal) -> Self {
        let given = descriptors.into_iter().map(|(held, socket)| {
            let name = held.splitn(3, '/').last().unwrap_or_default().to_owned();
            let what = identify(&socket).ok().flatten();
            if what.is_some() {
                // A worker that inherits a blocking listener would hang in accept.
                let _ = rustix::io::ioctl_fionbio(&socket, true);
            }
            Given {
                stored: what.as_ref().and_then(|_| parse_stored(&name)),
                inode: inode(&socket),
                is_used: false,
                held,
                name,
                socket,
                what,
            }
        });
        Self(Arc::new(Mutex::new(Estate {
            given: given.collect(),
            site,
        })))
    }

    /// None at all.
    pub(crate) fn nothing() -> Self {
        Self::of(Vec::new(), Journal::nowhere())
    }

    fn lock(&self) -> MutexGuard<'_, Estate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the service manager listens at this path: it stays one socket then, which no generation
    /// may replace.
    pub(super) fn has_path(&self, place: &Place) -> bool {
        let is_path = matches!(place, Place::Path(_));
        is_path && self.lock().best(place, Manner::default()).is_some()
    }

    /// Whether the service manager has this socket open, too, and will go on with it.
    pub(super) fn keeps(&self, socket: impl AsFd) -> bool {
        self.lock().keeps(socket)
    }

    /// Sockets for a place, if there are any.
    pub(super) fn find(&self, place: &Place, how: Manner) -> Option<Found> {
        self.lock().find(place, how)
    }

    /// Gives up what was ours and nobody has asked for. Its names, and what people know it by.
    pub(super) fn take_unwanted(&self) -> Vec<(String, String)> {
        self.lock().take_unwanted()
    }
}

impl Estate {
    fn keeps(&self, socket: impl AsFd) -> bool {
        let inode = inode(socket);
        let mut others = self.given.iter().filter(|given| given.stored.is_none());
        inode.is_some() && others.any(|given| given.inode == inode)
    }

    fn find(&mut self, place: &Place, how: Manner) -> Option<Found> {
        self.find_stored(place)
            .or_else(|| self.find_activated(place, how))
    }

    fn find_stored(&mut self, place: &Place) -> Option<Found> {
        let name = place_name(place)?;
        let is_its = |given: &mut Given| {
            let stored = given.stored.as_ref();
            stored.is_some_and(|(_, stored)| *stored == name) && given.fits(place)
        };
        let mut found: Vec<Given> = self.given.extract_if(.., is_its).collect();
        if found.is_empty() {
            return None;
        }
        let index = |given: &Given| given.stored.as_ref().map(|(index, _)| *index);
        found.sort_by_key(index);
        let is_in_order = (0..)
            .map(Some)
            .zip(&found)
            .all(|(at, given)| at == index(given));
        for given in &found {
            self.site.release(&given.held);
            self.note_used(given.inode);
        }
        let (names, sockets) = found
            .into_iter()
            .map(|given| (given.name, given.socket))
            .unzip();
        Some(Found {
            sockets,
            is_in_order,
            is_ours: true,
            names,
        })
    }

    fn find_activated(&mut self, place: &Place, how: Manner) -> Option<Found> {
        let at = self.best(place, how)?;
        let given = self.given.get_mut(at)?;
        // Ours alone would be closed with the address, and the service manager's must not miss it.
        let socket = match given.socket.try_clone() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, name = given.name, "cannot use a socket of the service manager's");
                return None;
            }
        };
        given.is_used = true;
        Some(Found {
            sockets: vec![socket],
            is_in_order: true,
            is_ours: false,
            names: Vec::new(),
        })
    }

    fn best(&self, place: &Place, how: Manner) -> Option<usize> {
        let ranked = self.given.iter().enumerate();
        let ranked = ranked
            .filter(|(_, given)| given.stored.is_none())
            .filter_map(|(at, given)| Some((rank(place, how, given.what.as_ref()?)?, at)));
        ranked.min().map(|(_, at)| at)
    }

    fn note_used(&mut self, inode: Option<u64>) {
        for given in &mut self.given {
            given.is_used |= inode.is_some() && given.inode == inode;
        }
    }

    fn take_unwanted(&mut self) -> Vec<(String, String)> {
        let unwanted = self.given.extract_if(.., |given| given.stored.is_some());
        let unwanted: Vec<Given> = unwanted.collect();
        for given in &unwanted {
            self.site.release(&given.held);
        }
        let described = unwanted
            .iter()
            .map(|given| (given.name.clone(), given.describe()));
        described.collect()
    }

    /// What the service manager listens at and nobody has asked for, as people know it.
    fn unclaimed(&self) -> Vec<String> {
        let unused = self.given.iter().filter(|given| !given.is_used);
        let unused = unused.filter(|given| given.stored.is_none());
        unused.map(Given::describe).collect()
    }
}

impl Given {
    fn fits(&self, place: &Place) -> bool {
        matches!(
            (place, &self.what),
            (Place::Tcp(_), Some(Listener::Tcp { .. }))
                | (Place::Udp(_), Some(Listener::Udp { .. }))
                | (Place::Path(_), Some(Listener::Path(_)))
                | (Place::Abstract(_), Some(Listener::Abstract(_)))
        )
    }

    fn describe(&self) -> String {
        let what = match &self.what {
            Some(Listener::Tcp { local, .. }) => local.to_string(),
            Some(Listener::Udp { local, .. }) => format!("udp {local}"),
            Some(Listener::Path(path)) => String::from_utf8_lossy(path).into_owned(),
            Some(Listener::Abstract(name)) => format!("@{}", String::from_utf8_lossy(name)),
            None => "no listening socket".to_owned(),
        };
        match self.stored {
            Some(_) => what,
            None => format!("{what} ({})", self.name),
        }
    }
}

/// How well a listener does for a place: 0 is exactly.
fn rank(place: &Place, how: Manner, listener: &Listener) -> Option<u8> {
    match (place, listener) {
        (Place::Tcp(inet), Listener::Tcp { local, v6_only })
        | (Place::Udp(inet), Listener::Udp { local, v6_only }) => {
            rank_inet(inet, how, *local, *v6_only)
        }
        (Place::Path(path), Listener::Path(bound)) => is_same_path(path, bound).then_some(0),
        (Place::Abstract(name), Listener::Abstract(bound)) => (name == bound).then_some(0),
        _ => None,
    }
}

/// Beside the exact one, a wildcard of both families serves whoever asks for one of them, and could
/// not be bound beside it; and where no host was asked for, whichever wildcard there is must do.
fn rank_inet(inet: &Inet, how: Manner, local: SocketAddr, v6_only: bool) -> Option<u8> {
    const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if inet.port == 0 || inet.port != local.port() {
        return None;
    }
    let is_dual = local.ip() == ANY_V6 && !v6_only;
    if inet.socket_addr() == local && (local.is_ipv4() || inet.v6_only == v6_only) {
        Some(0)
    } else if is_dual && (inet.host == ANY_V4 || inet.host == ANY_V6) {
        Some(1)
    } else if how.any_host && inet.host == ANY_V6 && local.ip() == ANY_V4 {
        Some(2)
    } else if how.any_host && inet.host == ANY_V6 && local.ip() == ANY_V6 {
        Some(3)
    } else {
        None
    }
}

fn is_same_path(path: &Path, bound: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let bound = Path::new(std::ffi::OsStr::from_bytes(bound));
    let file = |path: &Path| {
        let found = rustix::fs::stat(path).ok()?;
        Some((found.st_dev, found.st_ino))
    };
    path == bound || file(path).is_some_and(|found| file(bound) == Some(found))
}

fn inode(socket: impl AsFd) -> Option<u64> {
    Some(rustix::fs::fstat(socket).ok()?.st_ino)
}

/// The name of a socket where a service manager keeps it; `None` for one that it cannot keep.
pub(super) fn stored_name(place: &Place, index: u16) -> Option<String> {
    let name = format!("{STORED}{index}/{}", place_name(place)?);
    (name.len() <= LONGEST_NAME).then_some(name)
}

fn parse_stored(name: &str) -> Option<(u16, String)> {
    let (index, place) = name.strip_prefix(STORED)?.split_once('/')?;
    Some((index.parse().ok()?, place.to_owned()))
}

/// A place in the characters that a name may have; a colon would end it (sd_listen_fds(3)).
fn place_name(place: &Place) -> Option<String> {
    use std::os::unix::ffi::OsStrExt;
    let inet = |kind: &str, inet: &Inet| {
        let mut name = format!("{kind}{}", inet.socket_addr());
        if inet.v6_only {
            name.push_str(",v6only");
        }
        // Servers on port 0 are told apart by their order.
        if inet.port == 0 {
            name.push_str(&format!(",{}", inet.index));
        }
        name.into_bytes()
    };
    let bytes = match place {
        Place::Tcp(address) => inet("", address),
        Place::Udp(address) => inet("udp,", address),
        Place::Path(path) => path.as_os_str().as_bytes().to_vec(),
        Place::Abstract(name) => [b"@".as_slice(), name].concat(),
        Place::Descriptor(_) => return None,
    };
    let mut name = String::new();
    for byte in bytes {
        match byte {
            b'!'..=b'~' if byte != b':' && byte != b'%' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(name)
}

impl Pool {
    /// Uses these sockets for addresses that are asked for from now on.
    pub(crate) fn inherit(&mut self, inheritance: Inheritance) {
        self.inheritance = inheritance;
        let sockets = self.open.values().flat_map(|open| &open.sockets);
        let used: Vec<Option<u64>> = sockets.map(inode).collect();
        for inode in used {
            self.inheritance.lock().note_used(inode);
        }
    }

    /// What kind of address a place is.
    pub(super) fn kind_of(&self, address: AddressId, place: &Place) -> AddressKind {
        let is_shared = self
            .open
            .get(&address)
            .is_some_and(|open| matches!(open.nature, Nature::Fixed));
        match is_shared || self.inheritance.has_path(place) {
            true => AddressKind::Single,
            false => place.kind(),
        }
    }

    /// Sockets of an address that nobody has opened: they were open before, and connections may come
    /// to them.
    pub(crate) fn spares(&self, address: AddressId) -> Vec<SocketRef> {
        let Some(open) = self.open.get(&address) else {
            return Vec::new();
        };
        (open.known..open.sockets.len())
            .filter_map(|index| u16::try_from(index).ok())
            .map(|index| SocketRef {
                address,
                index: SocketIndex(index),
            })
            .collect()
    }

    /// Whether something was kept from an earlier life that nobody has asked for yet.
    pub(crate) fn has_unwanted(&self) -> bool {
        let estate = self.inheritance.lock();
        estate.given.iter().any(|given| given.stored.is_some())
    }

    /// What the service manager listens at and nobody has asked for.
    pub(crate) fn unclaimed(&self) -> Vec<String> {
        self.inheritance.lock().unclaimed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(host: &str, port: u16, v6_only: bool) -> Inet {
        Inet {
            host: host.parse().unwrap(),
            scope: 0,
            port,
            v6_only,
            index: 0,
        }
    }

    #[test]
    fn who_serves_which_place() {
        let check = |host, any_host, listener: &str, v6_only, expected| {
            let local = listener.parse().unwrap();
            let how = Manner {
                any_host,
                ..Manner::default()
            };
            let found = rank_inet(&inet(host, 80, false), how, local, v6_only);
            assert_eq!(found, expected, "{host} {any_host} {listener} {v6_only}");
        };
        check("127.0.0.1", false, "127.0.0.1:80", false, Some(0));
        check("127.0.0.1", false, "127.0.0.1:81", false, None);
        check("127.0.0.1", false, "0.0.0.0:80", false, None);
        check("127.0.0.1", false, "[::]:80", false, None);
        check("0.0.0.0", false, "0.0.0.0:80", false, Some(0));
        check("0.0.0.0", false, "[::]:80", false, Some(1));
        check("0.0.0.0", false, "[::]:80", true, None);
        check("::", true, "[::]:80", false, Some(0));
        check("::", true, "0.0.0.0:80", false, Some(2));
        check("::", true, "[::]:80", true, Some(3));
        check("::", false, "[::]:80", true, None);
        check("::", false, "0.0.0.0:80", false, None);
        check("::1", false, "[::1]:80", false, Some(0));
        let any_port = inet("127.0.0.1", 0, false);
        let local = "127.0.0.1:0".parse().unwrap();
        assert_eq!(rank_inet(&any_port, Manner::default(), local, false), None);
    }

    #[test]
    fn names_say_what_is_kept() {
        for (place, expected) in [
            (
                Place::Tcp(inet("::", 3000, false)),
                "segue-listen/7/[%3A%3A]%3A3000",
            ),
            (
                Place::Tcp(inet("::", 3000, true)),
                "segue-listen/7/[%3A%3A]%3A3000,v6only",
            ),
            (
                Place::Tcp(inet("127.0.0.1", 0, false)),
                "segue-listen/7/127.0.0.1%3A0,0",
            ),
            (
                Place::Udp(inet("0.0.0.0", 53, false)),
                "segue-listen/7/udp,0.0.0.0%3A53",
            ),
            (
                Place::Path("/run/a b%.sock".into()),
                "segue-listen/7//run/a%20b%25.sock",
            ),
            (Place::Abstract(b"x\xff".to_vec()), "segue-listen/7/@x%FF"),
        ] {
            let name = stored_name(&place, 7).unwrap();
            assert_eq!(name, expected);
            let (index, named) = parse_stored(&name).unwrap();
            assert_eq!((index, Some(named)), (7, place_name(&place)));
        }
        assert_eq!(stored_name(&Place::Descriptor(3), 0), None);
        let long = Place::Path(format!("/{}", "x".repeat(250)).into());
        assert_eq!(stored_name(&long, 0), None, "it could not be kept");
        for name in ["web", "segue-listen/x/1", "segue-listen/1"] {
            assert_eq!(parse_stored(name), None);
        }
    }
}
