//! The supervisor's end of the socket between it and the keeper. Each notices the other's death
//! by it; besides, the keeper tells what no signal can. Messages are single bytes, unknown ones
//! are ignored on both sides: the two may be of different versions.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;

/// Names the descriptor; workers do not get to see it.
pub(crate) const KEEPER_FD: &str = "SEGUE_KEEPER_FD";
/// Where the keeper puts it.
pub(super) const LINK_NUMBER: i32 = 3;
/// The controlling terminal has gone.
pub(super) const TERMINAL_GONE: u8 = b'H';

/// What the supervisor learns from its keeper, besides the signals it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FromKeeper {
    /// The terminal that `run` was started from has gone: a graceful stop.
    TerminalGone,
    /// The keeper is dead. Said once; after that [`Link::next`] never returns.
    Ended,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("this process was not started by a keeper; use `segue run`")]
    NotKept,
    #[error("the link to the keeper is unusable: {0}")]
    Unusable(#[from] io::Error),
}

/// The link of a supervisor to its keeper.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    ended: bool,
}

impl Link {
    /// Takes up the link that the keeper left in our environment. To be called once, inside the
    /// runtime.
    ///
    /// # Errors
    /// That there is none.
    pub(crate) fn open() -> Result<Self, LinkError> {
        let number = std::env::var(KEEPER_FD).ok().and_then(|n| n.parse().ok());
        let socket = segue_sys::process::inherited_descriptor(number.ok_or(LinkError::NotKept)?)?;
        Self::over(socket)
    }

    fn over(socket: OwnedFd) -> Result<Self, LinkError> {
        // A number that somebody else left behind may name anything.
        rustix::net::sockopt::socket_type(&socket).map_err(io::Error::from)?;
        Ok(Self {
            // Reads ask not to wait: O_NONBLOCK would be the original's as well.
            socket: segue_sys::readable::watch(socket).map_err(|(_, error)| error)?,
            ended: false,
        })
    }

    /// The next news. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> FromKeeper {
        if self.ended {
            std::future::pending::<()>().await;
        }
        loop {
            let Ok(mut ready) = self.socket.readable().await else {
                break;
            };
            let mut byte = [0];
            let received = ready
                .try_io(|socket| Ok(rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT)?));
            match received {
                Err(_would_block) => {}
                Ok(Ok((1.., _))) if byte == [TERMINAL_GONE] => return FromKeeper::TerminalGone,
                Ok(Ok((1.., _))) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Ok((0, _)) | Err(_)) => break,
            }
        }
        self.ended = true;
        FromKeeper::Ended
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

    use super::*;

    fn with_link<F: Future>(test: impl FnOnce(Link, OwnedFd) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (ours, keepers) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            test(Link::over(ours).unwrap(), keepers).await
        })
    }

    #[test]
    fn tells_of_terminal_and_end_and_skips_what_it_does_not_know() {
        with_link(async |mut link, keeper| {
            for byte in [b'?', TERMINAL_GONE, b'!', TERMINAL_GONE] {
                send(&keeper, &[byte], SendFlags::empty()).unwrap();
            }
            drop(keeper);
            assert_eq!(link.next().await, FromKeeper::TerminalGone);
            assert_eq!(link.next().await, FromKeeper::TerminalGone);
            assert_eq!(link.next().await, FromKeeper::Ended);
            // The end is said once: a loop that selects on the link must not spin.
            tokio::select! {
                biased;
                again = link.next() => panic!("{again:?}"),
                () = std::future::ready(()) => {}
            }
        });
    }

    #[test]
    fn refuses_what_is_no_socket() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            Link::over(file.into()),
            Err(LinkError::Unusable(_))
        ));
    }
}
