//! A service manager for one test: the socket that it is told things at, what it was told, and the
//! descriptors that it keeps.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::run::LIMIT;

/// It listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Manager {
    path: PathBuf,
    shared: Arc<Shared>,
    /// Its end is the listener's.
    _going_on: std::io::PipeWriter,
}

#[derive(Debug)]
struct Shared {
    heard: Mutex<Vec<Message>>,
    /// By name, each once, in the order in which they came.
    store: Mutex<Vec<(String, OwnedFd)>>,
    changed: Condvar,
    begun: Instant,
}

/// One datagram.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) text: String,
    at: Duration,
}

impl Message {
    /// The value of a line `NAME=value`.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Manager {
    /// In this directory.
    pub(crate) fn start(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the manager's socket");
        let (ended, going_on) = std::io::pipe().expect("make a pipe");
        let shared = Arc::new(Shared {
            heard: Mutex::default(),
            store: Mutex::default(),
            changed: Condvar::new(),
            begun: Instant::now(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            loop {
                let mut polled = [
                    PollFd::new(&socket, PollFlags::IN),
                    PollFd::new(&ended, PollFlags::IN),
                ];
                poll(&mut polled, None).expect("wait for messages");
                if !polled[0].revents().contains(PollFlags::IN) {
                    return;
                }
                let mut bytes = [0; 4096];
                let received = segue_sys::passing::receive(&socket, &mut bytes);
                let (length, descriptor) = received.expect("receive a message");
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                theirs.hear(text, descriptor);
            }
        });
        Self {
            path,
            shared,
            _going_on: going_on,
        }
    }

    /// What `NOTIFY_SOCKET` is to say.
    pub(crate) fn address(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    /// Everything so far.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.shared.heard().clone()
    }

    /// How many messages there are: a point to look from later.
    pub(crate) fn mark(&self) -> usize {
        self.shared.heard().len()
    }

    /// The first message after `mark` with this line, waited for.
    #[track_caller]
    pub(crate) fn wait_for(&self, mark: usize, line: &str) -> Message {
        match self.heard_within(mark, line, LIMIT) {
            Some(message) => message,
            None => panic!(
                "no {line:?} within {LIMIT:?}; it was told\n{}",
                self.render()
            ),
        }
    }

    /// The same, if it comes within `limit`.
    pub(crate) fn heard_within(&self, mark: usize, line: &str, limit: Duration) -> Option<Message> {
        let has = |message: &&Message| message.text.lines().any(|told| told.starts_with(line));
        let heard = self.shared.heard();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(heard, limit, |heard| {
                !heard.iter().skip(mark).any(|m| has(&m))
            });
        let (heard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        heard.iter().skip(mark).find(has).cloned()
    }

    /// Copies of what it keeps.
    pub(crate) fn kept(&self) -> Vec<(String, OwnedFd)> {
        let copy = |(name, descriptor): &(String, OwnedFd)| {
            let descriptor = descriptor.try_clone().expect("copy a descriptor");
            (name.clone(), descriptor)
        };
        self.shared.store().iter().map(copy).collect()
    }

    /// Names of what it keeps, sorted.
    pub(crate) fn kept_names(&self) -> Vec<String> {
        let store = self.shared.store();
        let mut names: Vec<String> = store.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Closes what it keeps under names that begin so, as if there had been no room for it.
    pub(crate) fn forget(&self, prefix: &str) {
        self.shared
            .store()
            .retain(|(name, _)| !name.starts_with(prefix));
    }

    /// The words that change the service's state, in order.
    pub(crate) fn states(&self) -> Vec<String> {
        let messages = self.messages();
        let lines = messages.iter().flat_map(|message| message.text.lines());
        lines
            .filter_map(|line| line.strip_suffix("=1"))
            .filter(|word| ["READY", "RELOADING", "STOPPING"].contains(word))
            .map(str::to_owned)
            .collect()
    }

    /// All messages, for people.
    pub(crate) fn render(&self) -> String {
        self.messages()
            .iter()
            .fold(String::new(), |mut all, message| {
                let text = message.text.replace('\n', " · ");
                // Writing to a String cannot fail.
                let _ = writeln!(all, "{:>9.3}s {text}", message.at.as_secs_f64());
                all
            })
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Vec<Message>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As systemd does: what it has it keeps under its first name; a name may stand for several. A
    /// barrier's descriptor is closed once it has been heard.
    fn hear(&self, text: String, descriptor: Option<OwnedFd>) {
        let at = self.begun.elapsed();
        let message = Message { text, at };
        let name = message.value("FDNAME").unwrap_or("stored").to_owned();
        let inode = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).expect("look").st_ino;
        let mut store = self.store();
        if message.value("FDSTOREREMOVE") == Some("1") {
            store.retain(|(kept, _)| *kept != name);
        } else if message.value("FDSTORE") == Some("1")
            && let Some(descriptor) = descriptor
            && store
                .iter()
                .all(|(_, kept)| inode(kept) != inode(&descriptor))
        {
            store.push((name, descriptor));
        }
        drop(store);
        self.heard().push(message);
        self.changed.notify_all();
    }
}
