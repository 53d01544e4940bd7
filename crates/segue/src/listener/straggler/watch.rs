//! Accepts from one socket, when there is something to accept, until told to stop.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use segue_core::AddressId;
use segue_sys::socket;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::courier::{Arriving, PATIENCE, Share, Straggler};
use super::{Registry, Tally, Traveller};

/// How long accepting pauses when descriptors or memory have run out.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A task that accepts; it ends, and its copy of the socket is closed, when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    queue: Queue,
    task: AbortHandle,
}

impl Watch {
    /// Sends what it accepts to a courier, as long as there is room.
    pub(super) fn hand_over(
        socket: OwnedFd,
        address: AddressId,
        room: &Arc<Semaphore>,
        stragglers: mpsc::UnboundedSender<Arriving>,
        registry: Registry,
    ) -> io::Result<Self> {
        let room = Arc::clone(room);
        let traveller = Traveller {
            address: address.0,
            keep_alive: None,
            from: None,
        };
        Self::spawn(socket, async move |queue: Queue| {
            // Nothing is awaited between accepting and passing on, so that the end of the task
            // cannot come with a connection in its hands.
            while let Some((connection, room)) = queue.accept(&room).await {
                let connection = registry.enter(connection, &traveller);
                // From now on it outlives this process.
                registry.commit();
                let straggler = Straggler {
                    connection,
                    keep_alive: None,
                    from: None,
                    tried: Vec::new(),
                    expires: Instant::now() + PATIENCE,
                    _share: Share::Room(room),
                };
                if stragglers.send(Arriving::Waiting(straggler)).is_err() {
                    return;
                }
            }
        })
    }

    /// Resets what it accepts.
    pub(super) fn reset(socket: OwnedFd, tally: Arc<Tally>) -> io::Result<Self> {
        Self::spawn(socket, async move |queue: Queue| {
            let room = Arc::new(Semaphore::new(1));
            while let Some((connection, _)) = queue.accept(&room).await {
                socket::reset(connection);
                tally.reset.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    fn spawn<F>(socket: OwnedFd, accept: impl FnOnce(Queue) -> F) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let queue = Queue::new(socket)?;
        let task = tokio::spawn(accept(queue.clone())).abort_handle();
        Ok(Self { queue, task })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An aborted task is dropped at its next turn only; the socket must be closed now, so
        // that its port is free once the pool has closed it too.
        self.queue.close();
        self.task.abort();
    }
}

/// A listening socket that can be closed while a task waits on it.
#[derive(Clone, Debug)]
struct Queue(Arc<Mutex<Option<AsyncFd<OwnedFd>>>>);

impl Queue {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = segue_sys::readable::watch(socket).map_err(|(_, error)| error)?;
        Ok(Self(Arc::new(Mutex::new(Some(socket)))))
    }

    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The next connection, and its place in the room, which is taken only when there seems to be
    /// a connection; `None` when the socket is closed or does not listen any more.
    async fn accept(&self, room: &Arc<Semaphore>) -> Option<(OwnedFd, OwnedSemaphorePermit)> {
        loop {
            poll_fn(|context| self.poll_readable(context)).await?;
            let place = Arc::clone(room).acquire_owned().await.ok()?;
            let accepted = poll_fn(|context| Poll::Ready(self.poll_accept(context))).await;
            let error = match accepted {
                // Somebody else took it.
                Poll::Pending => continue,
                Poll::Ready(None) => return None,
                Poll::Ready(Some(Ok(connection))) => return Some((connection, place)),
                Poll::Ready(Some(Err(error))) => error,
            };
            drop(place);
            match Errno::from_io_error(&error) {
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    tracing::warn!(%error, "cannot accept from the queue of an absent worker: trying again");
                    sleep(SHORTAGE).await;
                }
                Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => {
                    tracing::error!(%error, "a queue without a worker cannot be emptied");
                    return None;
                }
                // The runtime ends.
                None => return None,
                // The connection died in the queue, or a network error of its was passed on: see
                // accept(2). The next one may be well.
                Some(_) => {}
            }
        }
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<Option<()>> {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*queue {
            Some(socket) => socket.poll_read_ready(context).map(|_| Some(())),
            None => Poll::Ready(None),
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Option<io::Result<OwnedFd>>> {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = &*queue else {
            return Poll::Ready(None);
        };
        match ready!(socket.poll_read_ready(context)) {
            Ok(mut readiness) => match readiness.try_io(socket::accept) {
                Ok(accepted) => Poll::Ready(Some(accepted)),
                Err(_) => Poll::Pending,
            },
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
