//! A descriptor that a successor finds, together with what it must know of it, until it is given
//! up here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;

use super::journal::Journal;

#[derive(Debug)]
pub(crate) struct Deposit {
    number: u64,
    descriptor: OwnedFd,
    journal: Journal,
}

impl Deposit {
    /// Has it held, and writes down what it is; that takes effect at the next commit.
    pub(crate) fn make(
        journal: &Journal,
        number: u64,
        descriptor: OwnedFd,
        what: &impl Serialize,
    ) -> Self {
        let name = number.to_string();
        journal.hold(&name, &descriptor);
        journal.put(&name, what);
        Self::found(journal, number, descriptor)
    }

    /// One of a predecessor's.
    pub(crate) fn found(journal: &Journal, number: u64, descriptor: OwnedFd) -> Self {
        Self {
            number,
            descriptor,
            journal: journal.clone(),
        }
    }

    /// What it is known by.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Gives it up, for whatever else is to be done with it.
    pub(crate) fn copy(&self) -> std::io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }
}

impl AsFd for Deposit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        // What a panic takes away, a successor is to find.
        if !std::thread::panicking() {
            let name = self.number.to_string();
            self.journal.drop(&name);
            self.journal.release_now(&name);
        }
    }
}
