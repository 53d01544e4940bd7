//! Lets no new connection begin at a TCP address, while those under way go on.
//!
//! Sinks join the group: sockets whose queue is full, so that the kernel leaves a SYN for them
//! unanswered. One program sends everything there, and a client that comes now repeats its SYN
//! after a second, as if it had been lost, and meets whoever listens then. A socket filter that
//! drops SYNs does the same for a single socket, but newer kernels allow filters on TCP sockets
//! with CAP_NET_ADMIN only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use segue_sys::{diag, socket};
use segue_wire::steering::Probe;

use super::steer;

/// How long a connection to ourselves may take. It is over within microseconds or never.
const PATIENCE: Duration = Duration::from_millis(50);

/// The shortest queue that has room for handshakes at all: the kernel lets one more in than said.
const SINK_QUEUE: u32 = 1;

/// What keeps the gate of a group shut.
#[derive(Debug)]
pub(super) struct Shut {
    /// Two: when the first member is closed the last one moves into its place, and the other is
    /// still where the program points.
    sinks: [Sink; 2],
}

#[derive(Debug)]
struct Sink {
    socket: OwnedFd,
    /// Our own connections that fill its queue.
    _fillers: Vec<OwnedFd>,
}

/// A group of sockets whose gate is to be shut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    pub(super) members: &'a [OwnedFd],
    /// Who gets new connections now.
    pub(super) set: &'a [(u16, u32)],
    pub(super) local: SocketAddr,
    pub(super) v6_only: bool,
}

impl Shut {
    /// One that a predecessor has shut: its connections that fill the queues have ended with it, and
    /// wait there all the same.
    pub(super) fn restore(sinks: [OwnedFd; 2]) -> Self {
        Self {
            sinks: sinks.map(|socket| Sink {
                socket,
                _fillers: Vec::new(),
            }),
        }
    }

    pub(super) fn sinks(&self) -> [&OwnedFd; 2] {
        let [first, last] = &self.sinks;
        [&first.socket, &last.socket]
    }

    /// Shuts the gate.
    ///
    /// # Errors
    /// Those of making a socket, of a connection to ourselves, or of a program. The gate is then open.
    pub(super) fn new(group: Group<'_>) -> io::Result<Self> {
        let member = group.members.first().ok_or(Errno::INVAL)?;
        let index = u16::try_from(group.members.len()).map_err(|_| Errno::INVAL)?;
        let last = index.checked_add(1).ok_or(Errno::INVAL)?;
        let shut = || {
            let sinks = [group.sink(index)?, group.sink(last)?];
            steer::send_to(member, &[index])?;
            Ok(Self { sinks })
        };
        shut().inspect_err(|_| {
            // It may still speak of a probe whose sink is gone.
            let _ = steer::send_by_weight(member, group.set, &[]);
        })
    }

    /// Closes the group's members, and opens the gate to nobody before all are closed. Of members that
    /// a service manager keeps, the first one gets connections from then on, which wait there.
    pub(super) fn close(self, members: Vec<OwnedFd>) {
        let mut members = members.into_iter();
        drop(members.next());
        // The last sink has the first place now, and keeps it.
        let _ = steer::send_to(&self.sinks[0].socket, &[0]);
        drop(members);
    }
}

impl Group<'_> {
    /// One more member, at `index`, with a full queue. Clients go to the set all the while.
    fn sink(self, index: u16) -> io::Result<Sink> {
        let member = self.members.first().ok_or(Errno::INVAL)?;
        let socket = socket::join_tcp(self.local, self.v6_only)?;
        socket::listen_for(&socket, SINK_QUEUE)?;
        let target = reachable(self.local, self.v6_only);
        let mut fillers = Vec::new();
        for length in 1..=SINK_QUEUE + 1 {
            let mut source = target;
            source.set_port(0);
            let filler = socket::bind_tcp(source, self.v6_only)?;
            let source = socket::local_address(&filler)?;
            steer::send_by_weight(member, self.set, &[Probe { source, index }])?;
            socket::connect(&filler, target)?;
            wait_for_queue(&socket, length)?;
            fillers.push(filler);
        }
        Ok(Sink {
            socket,
            _fillers: fillers,
        })
    }
}

fn wait_for_queue(socket: &OwnedFd, length: u32) -> io::Result<()> {
    let start = Instant::now();
    while diag::queue_length(socket)? < length {
        if start.elapsed() > PATIENCE {
            return Err(Errno::TIMEDOUT.into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// An address of this host at which connections to `local` arrive.
pub(super) fn reachable(local: SocketAddr, v6_only: bool) -> SocketAddr {
    match local.ip() {
        IpAddr::V6(host) if host.is_unspecified() && v6_only => {
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), local.port())
        }
        host if host.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), local.port()),
        _ => local,
    }
}

/// Shuts the gate of a socket that has no group. Without the privilege for a filter its queue is
/// made as short as can be: then at most a connection or two that come at the very end are lost.
///
/// # Errors
/// Those of listen(2).
pub(super) fn shut_alone(socket: &OwnedFd) -> io::Result<()> {
    steer::drop_new(socket).or_else(|_| socket::listen_for(socket, SINK_QUEUE))
}
