//! A service manager for one test: the socket that it is told things at, and what it was told.

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

    /// A barrier's descriptor is closed once it has been heard.
    fn hear(&self, text: String, _descriptor: Option<OwnedFd>) {
        let at = self.begun.elapsed();
        self.heard().push(Message { text, at });
        self.changed.notify_all();
    }
}
