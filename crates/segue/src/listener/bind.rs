//! Makes the sockets of TCP, UDP and abstract addresses. Errors are those the app is to see.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use segue_sys::{socket, steering};

use super::inherit::Found;
use super::place::{Inet, Manner};
use super::steer;

/// The first socket of a TCP address, listening, and those that were there with it, in the kernel's
/// order.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) local: SocketAddr,
    /// Others can join, and a program says who gets connections: the first one, for now.
    pub(super) steered: bool,
}

/// Binds and listens so that no foreign socket shares the port, then opens the port to our own.
pub(super) fn first_tcp(inet: &Inet, how: Manner, steering_allowed: bool) -> io::Result<Group> {
    let socket = or_any_v4(inet, how, |address| socket::bind_tcp(address, inet.v6_only))?;
    // The program is there before a second socket can be, so that none ever gets a connection
    // that it was not chosen for.
    let steered = steering_allowed && open_to_group(&socket)?;
    socket::listen(&socket)?;
    let local = socket::local_address(&socket)?;
    Ok(Group {
        sockets: vec![socket],
        local,
        steered,
    })
}

/// Listening sockets from elsewhere. Where a group can be made of them, or is there already, all
/// connections go to the first; those in the queues of the others stay there. Where it cannot, the
/// kernel spreads connections over all.
pub(super) fn adopt_tcp(found: Found, steering_allowed: bool) -> io::Result<Group> {
    let Found {
        mut sockets,
        is_in_order,
        ..
    } = found;
    for socket in &sockets {
        // Whoever had it may have been about to let nobody in any more.
        let _ = steering::detach_filter(socket);
        socket::listen(socket)?;
    }
    let first = sockets.first().ok_or(Errno::INVAL)?;
    let local = socket::local_address(first)?;
    let steered = steering_allowed && is_in_order && form_group(&mut sockets, local)?;
    if !steered && let [first, _, ..] = &sockets[..] {
        // Where even that cannot be said, connections in any queue are looked after.
        let is_first = steering_allowed && is_in_order && steer::send_to(first, &[0]).is_ok();
        if !is_first {
            let _ = steer::send_anywhere(first);
        }
    }
    if !steered {
        tracing::warn!(
            %local,
            "connections to a socket from elsewhere cannot be steered: all workers share it; reloads are not atomic"
        );
    }
    Ok(Group {
        sockets,
        local,
        steered,
    })
}

/// Makes a group of them that others of ours can join.
fn form_group(sockets: &mut Vec<OwnedFd>, local: SocketAddr) -> io::Result<bool> {
    let Some(first) = sockets.first() else {
        return Ok(false);
    };
    socket::share_port(first, true)?;
    // Refused where another user has made the first one.
    let next = socket::join_tcp(local, is_v6_only(first));
    let is_group = next.is_ok() && steer::send_to(first, &[0]).is_ok();
    if is_group || sockets.len() > 1 {
        return Ok(is_group);
    }
    let Some(next) = next.ok().filter(|_| steer::is_possible()) else {
        socket::share_port(first, false)?;
        return Ok(false);
    };
    // A group comes about when a second one listens, and takes a program only then. Connections of
    // the moment in between may be in the second one's queue, which is looked after like any other.
    socket::listen(&next)?;
    let steered = steer::send_to(first, &[0]);
    sockets.push(next);
    steered.map(|()| true)
}

fn open_to_group(socket: &OwnedFd) -> io::Result<bool> {
    socket::share_port(socket, true)?;
    match steer::send_to(socket, &[0]) {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::warn!(
                %error,
                "the kernel refuses to steer connections: all workers share one socket; \
                 reloads are not atomic"
            );
            socket::share_port(socket, false)?;
            Ok(false)
        }
    }
}

/// One more socket of a steered address, listening; `local` is where the first one is.
pub(super) fn next_tcp(first: Option<&OwnedFd>, local: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket::join_tcp(local, first.is_some_and(is_v6_only))?;
    socket::listen(&socket)?;
    Ok(socket)
}

pub(super) fn udp(inet: &Inet, how: Manner) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = or_any_v4(inet, how, |address| {
        socket::bind_udp(address, inet.v6_only, how.reuse_address)
    })?;
    let local = socket::local_address(&socket)?;
    Ok((socket, local))
}

/// Where a UDP socket from elsewhere is bound.
pub(super) fn local_of(found: &Found) -> io::Result<SocketAddr> {
    socket::local_address(found.sockets.first().ok_or(Errno::INVAL)?)
}

/// Whether it is an IPv6 socket that does not serve IPv4.
pub(super) fn is_v6_only(socket: &OwnedFd) -> bool {
    socket::is_v6_only(socket).unwrap_or(false)
}

pub(super) fn abstract_name(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = socket::bind_abstract(name)?;
    socket::listen(&socket)?;
    Ok(socket)
}

/// Binds, and where no host was asked for and IPv6 does not work, binds 0.0.0.0 instead. As in
/// Node, a port that is taken is no reason to.
fn or_any_v4<T>(
    inet: &Inet,
    how: Manner,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let address = inet.socket_addr();
    let any_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), inet.port);
    match bind(address) {
        Err(error)
            if how.any_host
                && address.is_ipv6()
                && Errno::from_io_error(&error) != Some(Errno::ADDRINUSE) =>
        {
            bind(any_v4)
        }
        bound => bound,
    }
}
