//! Where workers are to listen, and may not listen beyond: what is written, as places of the pool.

use std::net::{Ipv6Addr, SocketAddr};

use segue_core::AddressId;

use super::place::{Inet, Place};
use super::pool::Pool;
use crate::config::confine::ListenAt;

impl Pool {
    /// The addresses of what is written, whether anybody ever asks for them or not.
    pub(crate) fn wanted(&mut self, listen: &[ListenAt]) -> Vec<AddressId> {
        listen
            .iter()
            .map(|at| {
                let address = self.places.intern(place_of(at));
                self.note_place(address);
                address
            })
            .collect()
    }

    /// Which of what is written an address is; `None` if it is none of it, and so not permitted.
    /// Where nothing is written everything is.
    pub(crate) fn permit(
        &mut self,
        listen: &[ListenAt],
        address: AddressId,
    ) -> Option<Vec<AddressId>> {
        let place = self.places.place(address)?;
        let is_it = |at: &&ListenAt| covers(at, place);
        let covered: Vec<ListenAt> = listen.iter().filter(is_it).cloned().collect();
        match covered.is_empty() && !listen.is_empty() {
            true => None,
            false => Some(self.wanted(&covered)),
        }
    }
}

/// The place that stands for all that are meant: for a port, that of every host.
fn place_of(at: &ListenAt) -> Place {
    let any = |port: u16| inet((Ipv6Addr::UNSPECIFIED, port).into());
    match at {
        ListenAt::Port(port) => Place::Tcp(any(*port)),
        ListenAt::Tcp(address) => Place::Tcp(inet(*address)),
        ListenAt::UdpPort(port) => Place::Udp(any(*port)),
        ListenAt::Udp(address) => Place::Udp(inet(*address)),
        ListenAt::Path(path) => Place::Path(path.clone()),
        ListenAt::Abstract(name) => Place::Abstract(name.as_bytes().to_vec()),
    }
}

fn inet(address: SocketAddr) -> Inet {
    Inet {
        host: address.ip(),
        scope: scope(address),
        port: address.port(),
        v6_only: false,
        index: 0,
    }
}

const fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

fn covers(at: &ListenAt, place: &Place) -> bool {
    let is_there = |address: &SocketAddr, inet: &Inet| {
        let is_in_scope = scope(*address) == 0 || scope(*address) == inet.scope;
        address.ip() == inet.host && address.port() == inet.port && is_in_scope
    };
    match (at, place) {
        (ListenAt::Port(port), Place::Tcp(inet)) | (ListenAt::UdpPort(port), Place::Udp(inet)) => {
            *port == inet.port
        }
        (ListenAt::Tcp(address), Place::Tcp(inet)) | (ListenAt::Udp(address), Place::Udp(inet)) => {
            is_there(address, inet)
        }
        (ListenAt::Path(path), Place::Path(asked)) => path == asked,
        (ListenAt::Abstract(name), Place::Abstract(asked)) => name.as_bytes() == asked,
        (
            ListenAt::Port(_)
            | ListenAt::Tcp(_)
            | ListenAt::UdpPort(_)
            | ListenAt::Udp(_)
            | ListenAt::Path(_)
            | ListenAt::Abstract(_),
            // A descriptor may be bound anywhere.
            Place::Tcp(_)
            | Place::Udp(_)
            | Place::Path(_)
            | Place::Abstract(_)
            | Place::Descriptor(_),
        ) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Place {
        Place::Tcp(inet(text.parse().unwrap()))
    }

    fn check(at: ListenAt, permitted: &[Place], others: &[Place]) {
        for (places, expected) in [(permitted, true), (others, false)] {
            for place in places {
                assert_eq!(covers(&at, place), expected, "{at:?} {place:?}");
            }
        }
        assert!(covers(&at, &place_of(&at)), "{at:?}");
    }

    #[test]
    fn what_is_permitted() {
        let udp = Place::Udp(inet("0.0.0.0:80".parse().unwrap()));
        let path = |path: &str| Place::Path(path.into());
        check(
            ListenAt::Port(80),
            &[tcp("[::]:80"), tcp("0.0.0.0:80"), tcp("127.0.0.1:80")],
            &[tcp("[::]:81"), udp.clone(), Place::Descriptor(5)],
        );
        let v6_only = Place::Tcp(Inet {
            v6_only: true,
            ..inet("[::1]:80".parse().unwrap())
        });
        check(
            ListenAt::Tcp("[::1]:80".parse().unwrap()),
            &[tcp("[::1]:80"), v6_only],
            &[tcp("[::]:80"), tcp("[::1]:81"), tcp("127.0.0.1:80")],
        );
        check(
            ListenAt::Tcp("127.0.0.1:80".parse().unwrap()),
            &[tcp("127.0.0.1:80")],
            &[tcp("0.0.0.0:80"), udp.clone()],
        );
        check(ListenAt::UdpPort(80), &[udp], &[tcp("0.0.0.0:80")]);
        check(
            ListenAt::Path("/run/a".into()),
            &[path("/run/a")],
            &[path("/run/b"), Place::Abstract(b"/run/a".to_vec())],
        );
        check(
            ListenAt::Abstract("a".into()),
            &[Place::Abstract(b"a".to_vec())],
            &[Place::Abstract(b"b".to_vec()), path("/a")],
        );
    }
}
