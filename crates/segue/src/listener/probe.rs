//! A connection of ours that reaches exactly one socket of an address, whoever is in the set: the
//! client's end is bound first, and a rule of the group's program says where what comes from there
//! goes. No client can get such a connection, because the port is ours.
//!
//! Rules and the set are one program, made anew from both whenever either changes, so that neither is
//! lost by a change of the other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use segue_core::{AddressId, SocketRef};
use segue_sys::socket;
use segue_wire::steering::Probe;

use super::bind;
use super::gate;
use super::pool::{Nature, Pool};

/// So many rules an address has at most: every SYN is compared with all of them.
const MOST_RULES: usize = 16;

/// How a socket is reached.
#[derive(Debug)]
pub(crate) enum Way {
    /// From this socket, which is bound to `source` and not connected, by a rule that is in force until
    /// [`Pool::end_probe`].
    Tcp {
        socket: OwnedFd,
        source: SocketAddr,
        target: SocketAddr,
    },
    /// By this connection.
    Connected(OwnedFd),
}

/// Why a socket cannot be reached.
#[derive(Debug)]
pub(crate) enum NoWay {
    /// Nobody can say which socket of the address, or which worker, gets a connection.
    Unsteerable,
    /// Others are under way: there is room as soon as one of them has ended.
    Busy,
    Failed(io::Error),
}

impl From<io::Error> for NoWay {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Pool {
    /// Whether clients connect to it, so that a worker there can be asked something.
    pub(crate) fn takes_connections(&self, address: AddressId) -> bool {
        let open = self.open.get(&address);
        open.is_some_and(|open| !matches!(open.nature, Nature::Udp { .. }))
    }

    /// A way to this socket for one connection.
    ///
    /// # Errors
    /// See [`NoWay`].
    pub(crate) fn begin_probe(&mut self, to: SocketRef) -> Result<Way, NoWay> {
        let open = self.open.get_mut(&to.address);
        let open = open.ok_or_else(|| io::Error::from(Errno::INVAL))?;
        if usize::from(to.index.0) >= open.known || open.gate.is_shut() {
            return Err(NoWay::Failed(Errno::INVAL.into()));
        }
        let local = match &open.nature {
            Nature::Group { local } => *local,
            Nature::Path(names) => return Ok(Way::Connected(names.connect(to.index)?)),
            Nature::Alone { .. } | Nature::Udp { .. } | Nature::Fixed => {
                return Err(NoWay::Unsteerable);
            }
        };
        if open.probes.len() >= MOST_RULES {
            return Err(NoWay::Busy);
        }
        let v6_only = open.sockets.first().is_some_and(bind::is_v6_only);
        let target = gate::reachable(local, v6_only);
        let socket = socket::bind_client(target, v6_only)?;
        let source = socket::local_address(&socket)?;
        let index = to.index.0;
        open.probes.push(Probe { source, index });
        if let Err(error) = open.attach(&open.set) {
            open.probes.pop();
            return Err(error.into());
        }
        Ok(Way::Tcp {
            socket,
            source,
            target,
        })
    }

    /// The rule for connections from there is needed no more.
    pub(crate) fn end_probe(&mut self, address: AddressId, source: SocketAddr) {
        let Some(open) = self.open.get_mut(&address) else {
            return;
        };
        let before = open.probes.len();
        open.probes.retain(|probe| probe.source != source);
        if open.probes.len() < before
            && let Err(error) = open.attach(&open.set)
        {
            // It goes with the next change.
            tracing::debug!(%error, "a probe's rule stays in force");
        }
    }
}
