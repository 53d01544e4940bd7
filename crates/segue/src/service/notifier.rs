//! Says things to the service manager, in order, and never waits for it: what it does not take now
//! is said later, or never if there is too much of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use segue_core::Time;
use segue_sys::clock;
use segue_sys::notify::NotifySocket;

const VARIABLE: &str = "NOTIFY_SOCKET";

/// So many messages wait for a manager that does not read.
const LIMIT: usize = 8192;

/// Between two tries.
const RETRY: Duration = Duration::from_millis(5);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifier(Option<Arc<Mutex<Outgoing>>>);

#[derive(Debug)]
struct Outgoing {
    socket: NotifySocket,
    /// What did not fit. Whatever comes later has to wait behind it.
    waiting: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    retry: Duration,
    retry_at: Option<Time>,
}

impl Notifier {
    /// The one that the environment names. Is [`whether it is a service`](Self::is_there) not.
    pub(crate) fn of_this_process() -> Self {
        let Some(address) = std::env::var_os(VARIABLE).filter(|address| !address.is_empty()) else {
            return Self(None);
        };
        match NotifySocket::open(&address) {
            Ok(socket) => Self::over(socket),
            Err(error) => {
                tracing::warn!(%error, ?address, "the service manager cannot be told anything");
                Self(None)
            }
        }
    }

    fn over(socket: NotifySocket) -> Self {
        Self(Some(Arc::new(Mutex::new(Outgoing {
            socket,
            waiting: VecDeque::new(),
            retry: RETRY,
            retry_at: None,
        }))))
    }

    /// Whether there is a service manager.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn say(&self, message: &str) {
        self.send(message, None);
    }

    /// Gives it a copy of a descriptor to keep beyond the end of all our processes. Under one name it
    /// keeps as many as it is given; one that it has already it has once. Says nothing if it does not
    /// want it.
    pub(crate) fn store(&self, name: &str, descriptor: impl AsFd) {
        // It would otherwise let go of a socket that reports an error, which a UDP socket does.
        let message = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        self.send(&message, Some(descriptor.as_fd()));
    }

    /// It is to close what it keeps under this name.
    pub(crate) fn remove(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    fn send(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) {
        if let Some(mut outgoing) = self.lock() {
            outgoing.send(message.as_bytes(), descriptor);
        }
    }

    /// When what waits is tried again.
    pub(crate) fn next_try(&self) -> Option<Time> {
        self.lock()?.retry_at
    }

    /// Tries again, if it is time.
    pub(crate) fn try_again(&self, now: Time) {
        if let Some(mut outgoing) = self.lock()
            && outgoing.retry_at.is_some_and(|at| now >= at)
        {
            outgoing.flush();
        }
    }

    /// Waits until the manager has dealt with everything, for `limit` at most: who has ended is not
    /// listened to. For the very end: it blocks.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        let Some(mut outgoing) = self.lock() else {
            return true;
        };
        let until = Instant::now() + limit;
        let left = || until.saturating_duration_since(Instant::now());
        let Ok((reader, writer)) = io::pipe() else {
            return false;
        };
        // Whoever does not know it closes what comes with it, which says as much.
        outgoing.send(b"BARRIER=1", Some(writer.as_fd()));
        drop(writer);
        loop {
            outgoing.flush();
            let pause = match outgoing.waiting.is_empty() {
                true => left(),
                false => left().min(RETRY),
            };
            let Ok(pause) = Timespec::try_from(pause) else {
                return false;
            };
            match poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&pause)) {
                Ok(0) | Err(Errno::INTR) if left().is_zero() => return false,
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Outgoing>> {
        let outgoing = self.0.as_ref()?;
        Some(outgoing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outgoing {
    fn send(&mut self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) {
        self.flush();
        if self.waiting.is_empty() {
            match self.socket.send(message, descriptor) {
                Ok(()) => return,
                Err(error) if is_full(&error) => {}
                Err(error) => {
                    tracing::debug!(%error, "the service manager is not told something");
                    return;
                }
            }
        }
        if self.waiting.len() >= LIMIT {
            tracing::debug!("the service manager does not listen");
            return;
        }
        let descriptor = descriptor.map(|descriptor| descriptor.try_clone_to_owned());
        match descriptor.transpose() {
            Ok(descriptor) => self.waiting.push_back((message.to_vec(), descriptor)),
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be given a descriptor");
            }
        }
        self.wait();
    }

    fn flush(&mut self) {
        while let Some((message, descriptor)) = self.waiting.front() {
            let descriptor = descriptor.as_ref().map(AsFd::as_fd);
            match self.socket.send(message, descriptor) {
                Err(error) if is_full(&error) => {
                    self.wait();
                    return;
                }
                Ok(()) => self.retry = RETRY,
                Err(error) => tracing::debug!(%error, "the service manager is not told something"),
            }
            self.waiting.pop_front();
        }
        (self.retry, self.retry_at) = (RETRY, None);
    }

    fn wait(&mut self) {
        let now = Time(clock::monotonic_millis());
        if self.retry_at.is_none_or(|at| now >= at) {
            self.retry_at = Some(now + self.retry);
            self.retry = (self.retry * 2).min(LONGEST_RETRY);
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use segue_sys::passing::receive;

    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let socket = NotifySocket::open(path.as_os_str()).unwrap();
        (directory, manager, Notifier::over(socket))
    }

    fn read(manager: &UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
        let mut bytes = [0; 256];
        let (length, descriptor) = receive(manager, &mut bytes).ok()?;
        Some((
            String::from_utf8_lossy(&bytes[..length]).into_owned(),
            descriptor,
        ))
    }

    #[test]
    fn a_manager_that_reads_late_is_told_everything_in_order() {
        let (_directory, manager, notifier) = manager();
        let null = std::fs::File::open("/dev/null").unwrap();
        let count = 2000;
        for number in 0..count {
            match number % 2 {
                0 => notifier.say(&format!("STATUS={number}")),
                _ => notifier.store(&number.to_string(), &null),
            }
        }
        let next = notifier.next_try().expect("something waits");
        assert!(next > Time(clock::monotonic_millis()) - Duration::from_secs(1));
        let mut heard = 0;
        while heard < count {
            match read(&manager) {
                Some((text, descriptor)) => {
                    let expected = match heard % 2 {
                        0 => format!("STATUS={heard}"),
                        _ => format!("FDSTORE=1\nFDPOLL=0\nFDNAME={heard}"),
                    };
                    assert_eq!((text, descriptor.is_some()), (expected, heard % 2 == 1));
                    heard += 1;
                }
                None => notifier.try_again(Time(u64::MAX)),
            }
        }
        assert_eq!(notifier.next_try(), None);
    }

    #[test]
    fn the_end_waits_for_a_manager_that_reads_and_for_no_other() {
        let (_directory, manager, notifier) = manager();
        notifier.say("STOPPING=1");
        assert!(!notifier.settle(Duration::from_millis(20)));
        let reading = std::thread::spawn(move || {
            let mut texts = Vec::new();
            manager.set_nonblocking(false).unwrap();
            while texts.last().is_none_or(|text| text != "last") {
                let mut bytes = [0; 256];
                let peeked = segue_sys::passing::peek_bytes(&manager, &mut bytes);
                if peeked.is_ok() {
                    texts.extend(read(&manager).map(|(text, _)| text));
                } else {
                    std::thread::yield_now();
                }
            }
            texts
        });
        assert!(notifier.settle(Duration::from_secs(20)));
        notifier.say("last");
        let texts = reading.join().unwrap();
        assert_eq!(texts, ["STOPPING=1", "BARRIER=1", "BARRIER=1", "last"]);
        assert!(Notifier(None).settle(Duration::ZERO));
    }

    #[test]
    fn nobody_there_is_no_failure() {
        let socket = NotifySocket::open("/no/such/socket".as_ref()).unwrap();
        let notifier = Notifier::over(socket);
        notifier.say("READY=1");
        assert_eq!(notifier.next_try(), None);
        // What was not sent holds nobody up either.
        assert!(notifier.settle(Duration::from_secs(20)));
    }
}
