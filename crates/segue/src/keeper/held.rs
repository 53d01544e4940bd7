//! What the keeper holds for supervisors, by name, and what it has to say to the present one.
//! Nothing here waits: a supervisor that does not read is told when it does.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use segue_sys::passing;
use segue_wire::handoff::FromKeeper;

#[derive(Debug, Default)]
pub(super) struct Held {
    descriptors: BTreeMap<String, OwnedFd>,
    outgoing: VecDeque<FromKeeper>,
}

impl Held {
    pub(super) fn store(&mut self, name: String, descriptor: OwnedFd) {
        self.descriptors.insert(name, descriptor);
    }

    pub(super) fn drop(&mut self, name: &str) {
        self.descriptors.remove(name);
    }

    pub(super) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&OwnedFd> {
        self.descriptors.get(name)
    }

    pub(super) fn clear(&mut self) {
        self.descriptors.clear();
    }

    /// Everything is to be sent.
    pub(super) fn give_all(&mut self, release: &str) {
        let names = self.descriptors.keys().cloned();
        self.outgoing.extend(names.map(FromKeeper::Held));
        self.outgoing.push_back(FromKeeper::All(release.to_owned()));
    }

    pub(super) fn say(&mut self, message: FromKeeper) {
        self.outgoing.push_back(message);
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whoever it was for is gone. Signals and ends are told again when the next one asks.
    pub(super) fn forget_outgoing(&mut self) {
        self.outgoing.clear();
    }

    /// Sends as much as fits.
    pub(super) fn send(&mut self, link: &OwnedFd) {
        while let Some(message) = self.outgoing.front() {
            let descriptor = match message {
                FromKeeper::Held(name) => match self.descriptors.get(name) {
                    Some(descriptor) => Some(descriptor.as_fd()),
                    // Dropped meanwhile.
                    None => {
                        self.outgoing.pop_front();
                        continue;
                    }
                },
                FromKeeper::All(_)
                | FromKeeper::NotHeld(_)
                | FromKeeper::Ended { .. }
                | FromKeeper::Signal { .. }
                | FromKeeper::Origin { .. }
                | FromKeeper::TerminalGone => None,
            };
            match passing::send_packet(link, &message.packet(), descriptor) {
                Ok(()) => {
                    self.outgoing.pop_front();
                }
                // Full, or too many descriptors under way at once (unix(7), ETOOMANYREFS): there is room when
                // the other side has read.
                Err(error)
                    if matches!(
                        Errno::from_io_error(&error),
                        Some(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS)
                    ) =>
                {
                    return;
                }
                // It is gone, which its exit tells.
                Err(_) => {
                    self.outgoing.clear();
                    return;
                }
            }
        }
    }
}
