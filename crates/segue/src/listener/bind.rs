//! Makes the sockets of TCP, UDP and abstract addresses. Errors are those the app is to see.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use segue_sys::socket;

use super::place::{Inet, Manner};
use super::steer;

/// The first socket of a TCP address, listening.
#[derive(Debug)]
pub(super) struct First {
    pub(super) socket: OwnedFd,
    pub(super) local: SocketAddr,
    /// Others can join, and a program says who gets connections: this one, for now.
    pub(super) steered: bool,
}

/// Binds and listens so that no foreign socket shares the port, then opens the port to our own.
pub(super) fn first_tcp(inet: &Inet, how: Manner, steering_allowed: bool) -> io::Result<First> {
    let socket = or_any_v4(inet, how, |address| socket::bind_tcp(address, inet.v6_only))?;
    // The program is there before a second socket can be, so that none ever gets a connection
    // that it was not chosen for.
    let steered = steering_allowed && open_to_group(&socket)?;
    socket::listen(&socket)?;
    let local = socket::local_address(&socket)?;
    Ok(First {
        socket,
        local,
        steered,
    })
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
pub(super) fn next_tcp(inet: &Inet, local: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket::join_tcp(local, inet.v6_only)?;
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
