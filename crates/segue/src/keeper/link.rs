//! The supervisor's end of the socket between it and the keeper. Each notices the other's death
//! by it. What goes over it is frozen: see `segue_wire::handoff::keeper`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use segue_sys::passing;
use segue_wire::handoff::keeper::PACKET_LIMIT;
use segue_wire::handoff::{FromKeeper, ToKeeper};
use tokio::io::unix::AsyncFd;

/// Names the descriptor; workers do not get to see it.
pub(crate) const KEEPER_FD: &str = "SEGUE_KEEPER_FD";
/// Where the keeper puts it.
pub(crate) const LINK_NUMBER: i32 = 3;

/// How long the keeper may take to send what it holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to say something to a keeper that does not read: it may have been stopped.
const RETRY: Duration = Duration::from_millis(5);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("this process was not started by a keeper; use `segue run`")]
    NotKept,
    #[error("the link to the keeper is unusable: {0}")]
    Unusable(#[from] io::Error),
    #[error("the keeper did not send what it holds within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the keeper is gone")]
    Gone,
}

/// The link, before there is a runtime.
#[derive(Debug)]
pub(crate) struct Opened {
    socket: OwnedFd,
    /// What was heard before it was asked for.
    early: VecDeque<FromKeeper>,
}

/// What a keeper held.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) descriptors: BTreeMap<String, OwnedFd>,
    /// The keeper's release.
    pub(crate) release: String,
}

/// The link of a supervisor to its keeper.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    early: VecDeque<FromKeeper>,
    sender: Sender,
    has_ended: bool,
}

/// Says things to the keeper, and never waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Sender(Arc<Mutex<Outgoing>>);

#[derive(Debug)]
struct Outgoing {
    socket: OwnedFd,
    /// What did not fit. Whatever comes later has to wait behind it.
    waiting: VecDeque<(ToKeeper, Option<OwnedFd>)>,
}

impl Opened {
    /// Takes up the link that the keeper left in our environment, and everything that it holds. To
    /// be called once. Waits for the keeper, ten seconds at most.
    ///
    /// # Errors
    /// That there is none, or that it says nothing.
    pub(crate) fn take_up() -> Result<(Self, Holdings), LinkError> {
        let number = std::env::var(KEEPER_FD).ok().and_then(|n| n.parse().ok());
        let socket = segue_sys::process::inherited_descriptor(number.ok_or(LinkError::NotKept)?)?;
        Self::over(socket)
    }

    fn over(socket: OwnedFd) -> Result<(Self, Holdings), LinkError> {
        // A number that somebody else left behind may name anything.
        rustix::net::sockopt::socket_type(&socket).map_err(io::Error::from)?;
        passing::send_packet(&socket, &ToKeeper::Give.packet(), None)?;
        let mut holdings = Holdings::default();
        let mut early = VecDeque::new();
        let until = Instant::now() + PATIENCE;
        loop {
            let mut buffer = [0; PACKET_LIMIT + 1];
            let (packet, descriptor) = match passing::receive_packet(&socket, &mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Err(LinkError::Gone),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_readable(&socket, until)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            match (FromKeeper::read(packet), descriptor) {
                (Some(FromKeeper::Held(name)), Some(descriptor)) => {
                    holdings.descriptors.insert(name, descriptor);
                }
                (Some(FromKeeper::All(release)), _) => {
                    holdings.release = release;
                    return Ok((Self { socket, early }, holdings));
                }
                (Some(message), _) => early.push_back(message),
                (None, _) => {}
            }
        }
    }

    /// To be called within a runtime.
    ///
    /// # Errors
    /// It cannot be watched or copied.
    pub(crate) fn watch(self) -> Result<Link, LinkError> {
        let Self { socket, early } = self;
        let outgoing = Outgoing {
            socket: socket.try_clone()?,
            waiting: VecDeque::new(),
        };
        Ok(Link {
            // Reads ask not to wait: O_NONBLOCK would be the original's as well.
            socket: segue_sys::readable::watch(socket).map_err(|(_, error)| error)?,
            early,
            sender: Sender(Arc::new(Mutex::new(outgoing))),
            has_ended: false,
        })
    }
}

fn wait_readable(socket: &OwnedFd, until: Instant) -> Result<(), LinkError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(LinkError::Silent);
    }
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

impl Link {
    pub(crate) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next news; `None` once, when the keeper is dead. Never returns after that. May be dropped
    /// and called again.
    pub(crate) async fn next(&mut self) -> Option<FromKeeper> {
        if let Some(message) = self.early.pop_front() {
            return Some(message);
        }
        if self.has_ended {
            std::future::pending::<()>().await;
        }
        let mut retry = RETRY;
        loop {
            let is_waiting = self.sender.flush();
            let readable = tokio::select! {
                readable = self.socket.readable() => readable,
                () = tokio::time::sleep(retry), if is_waiting => {
                    retry = (retry * 2).min(LONGEST_RETRY);
                    continue;
                }
            };
            let Ok(mut ready) = readable else {
                break;
            };
            let mut buffer = [0; PACKET_LIMIT + 1];
            let received = ready.try_io(|socket| {
                let received = passing::receive_packet(socket, &mut buffer)?;
                Ok(received.map(|(packet, _)| FromKeeper::read(packet)))
            });
            match received {
                Err(_would_block) => {}
                Ok(Ok(Some(Some(message)))) => return Some(message),
                Ok(Ok(Some(None))) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // Said once, before what came earlier: it ended without having read everything.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(Ok(None) | Err(_)) => break,
            }
        }
        self.has_ended = true;
        None
    }
}

impl Sender {
    /// In the order of calls. A keeper that is gone hears nothing.
    pub(crate) fn say(&self, message: ToKeeper, descriptor: Option<BorrowedFd<'_>>) {
        let mut outgoing = self.lock();
        outgoing.flush();
        if outgoing.waiting.is_empty() {
            match passing::send_packet(&outgoing.socket, &message.packet(), descriptor) {
                Ok(()) => return,
                Err(error) if is_full(&error) => {}
                Err(_) => return,
            }
        }
        let descriptor = descriptor.map(|descriptor| descriptor.try_clone_to_owned());
        match descriptor.transpose() {
            Ok(descriptor) => outgoing.waiting.push_back((message, descriptor)),
            Err(error) => {
                tracing::error!(%error, ?message, "a descriptor cannot be handed to the keeper");
            }
        }
    }

    /// A copy of the socket, for whoever becomes the supervisor.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(crate) fn copy(&self) -> io::Result<OwnedFd> {
        self.lock().socket.try_clone()
    }

    /// Whether everything said has been handed over, within a limit. Blocks.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.flush() {
            if Instant::now() >= until {
                return false;
            }
            let outgoing = self.lock();
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let _ = poll(
                &mut [PollFd::new(&outgoing.socket, PollFlags::OUT)],
                Some(&pause),
            );
        }
        true
    }

    /// Whether something waits.
    fn flush(&self) -> bool {
        let mut outgoing = self.lock();
        outgoing.flush();
        !outgoing.waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    fn flush(&mut self) {
        while let Some((message, descriptor)) = self.waiting.front() {
            let descriptor = descriptor.as_ref().map(AsFd::as_fd);
            match passing::send_packet(&self.socket, &message.packet(), descriptor) {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(error) if is_full(&error) => return,
                Err(_) => {
                    self.waiting.clear();
                    return;
                }
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use segue_wire::handoff::keeper::End;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn tell(keeper: &OwnedFd, message: &FromKeeper, descriptor: Option<BorrowedFd<'_>>) {
        passing::send_packet(keeper, &message.packet(), descriptor).unwrap();
    }

    fn with_link<F: Future>(
        early: &[FromKeeper],
        test: impl FnOnce(Link, OwnedFd, Holdings) -> F,
    ) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (ours, keepers) = pair();
            let file = std::fs::File::open("/dev/null").unwrap();
            tell(
                &keepers,
                &FromKeeper::Held("null".into()),
                Some(file.as_fd()),
            );
            for message in early {
                tell(&keepers, message, None);
            }
            tell(&keepers, &FromKeeper::All("1.2.3".into()), None);
            let (opened, holdings) = Opened::over(ours).unwrap();
            test(opened.watch().unwrap(), keepers, holdings).await
        })
    }

    #[test]
    fn takes_up_what_is_held_and_forgets_nothing_that_came_before() {
        let signal = FromKeeper::Signal {
            number: 1,
            signal: 1,
        };
        let ended = FromKeeper::Ended {
            pid: 7,
            end: End::Code(0),
        };
        let early = [signal.clone()];
        with_link(&early, async |mut link, keeper, holdings| {
            assert_eq!(holdings.release, "1.2.3");
            assert_eq!(holdings.descriptors.len(), 1);
            passing::send_packet(&keeper, b"?unheard-of", None).unwrap();
            tell(&keeper, &ended, None);
            drop(keeper);
            assert_eq!(link.next().await, Some(signal));
            assert_eq!(link.next().await, Some(ended));
            assert_eq!(link.next().await, None);
            // The end is said once: a loop that selects on the link must not spin.
            tokio::select! {
                biased;
                again = link.next() => panic!("{again:?}"),
                () = std::future::ready(()) => {}
            }
        });
    }

    #[test]
    fn says_everything_in_order_to_a_keeper_that_reads_late() {
        with_link(&[], async |link, keeper, _| {
            let sender = link.sender();
            let file = std::fs::File::open("/dev/null").unwrap();
            let count = 2000;
            for number in 0..count {
                sender.say(ToKeeper::Store(number.to_string()), Some(file.as_fd()));
            }
            assert!(!sender.settle(Duration::ZERO));
            let mut heard = 0;
            let mut has_asked = false;
            while heard < count {
                let mut buffer = [0; 300];
                match passing::receive_packet(&keeper, &mut buffer) {
                    Ok(Some((packet, descriptor))) => match ToKeeper::read(packet).unwrap() {
                        ToKeeper::Give => has_asked = true,
                        ToKeeper::Store(name) => {
                            assert_eq!((name, descriptor.is_some()), (heard.to_string(), true));
                            heard += 1;
                        }
                        other => panic!("{other:?}"),
                    },
                    _ => {
                        sender.flush();
                    }
                }
            }
            assert!(has_asked && sender.settle(Duration::ZERO));
        });
    }

    #[test]
    fn refuses_what_is_no_socket() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            Opened::over(file.into()),
            Err(LinkError::Unusable(_))
        ));
    }
}
