//! A keeper for tests: holds what it is given, for one supervisor after another, and can have a
//! supervisor end at any step of what it writes down.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};

use segue_sys::memory;
use segue_wire::handoff::keeper::STATE;
use segue_wire::handoff::{Contents, log};

use super::inherited::Inherited;
use super::journal::{Hold, Journal};

/// Descriptors by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cupboard(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

/// One supervisor's way to it, until that ends.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    cupboard: Cupboard,
    life: Arc<Mutex<Life>>,
}

#[derive(Debug)]
struct Life {
    /// It takes so many steps more.
    left: Option<usize>,
    has_ended: bool,
}

/// What ends a supervisor, as a panic that says nothing.
#[derive(Debug)]
pub(crate) struct Cut;

impl Cupboard {
    /// For a supervisor that ends where `steps` of it are done; each thing that it has held,
    /// written down or released is a step, and so is what it does after that.
    pub(crate) fn lease(&self, steps: Option<usize>) -> Lease {
        let life = Life {
            left: steps,
            has_ended: false,
        };
        Lease {
            cupboard: self.clone(),
            life: Arc::new(Mutex::new(life)),
        }
    }

    /// A journal of a supervisor that takes as many steps as it likes.
    pub(crate) fn begin(&self, contents: &Contents) -> Journal {
        Journal::begin(Box::new(self.lease(None)), contents).unwrap()
    }

    /// Puts something in that nobody has a journal for.
    pub(crate) fn put(&self, name: &str, descriptor: impl AsFd) {
        let copy = descriptor.as_fd().try_clone_to_owned().unwrap();
        self.held().insert(name.to_owned(), copy);
    }

    pub(crate) fn remove(&self, name: &str) -> Option<OwnedFd> {
        self.held().remove(name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.held().keys().cloned().collect()
    }

    /// What has been written down.
    pub(crate) fn contents(&self) -> Contents {
        log::read(&self.state()).unwrap()
    }

    /// The bytes of it.
    pub(crate) fn state(&self) -> Vec<u8> {
        let file = File::from(self.held()[STATE].try_clone().unwrap());
        memory::read_all(&file).unwrap()
    }

    /// What the next supervisor finds.
    pub(crate) fn inherited(&self) -> Inherited {
        let held = self.held();
        let copies = held
            .iter()
            .map(|(name, descriptor)| (name.clone(), descriptor.try_clone().unwrap()));
        Inherited::of(copies.collect()).unwrap().unwrap()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.0.lock().unwrap()
    }
}

impl Lease {
    pub(crate) fn has_ended(&self) -> bool {
        self.life.lock().unwrap().has_ended
    }

    /// As a signal would end it: nothing that it does from now on is seen.
    pub(crate) fn end(&self) {
        self.life.lock().unwrap().has_ended = true;
    }

    /// From now on it may take so many steps, or as many as it likes.
    pub(crate) fn grant(&self, steps: Option<usize>) {
        self.life.lock().unwrap().left = steps;
    }

    fn step(&self) {
        let mut life = self.life.lock().unwrap();
        match &mut life.left {
            Some(0) => life.has_ended = true,
            Some(left) => *left -= 1,
            None => {}
        }
        let has_ended = life.has_ended;
        drop(life);
        if has_ended {
            resume_unwind(Box::new(Cut));
        }
    }

    /// Whether there is still somebody who takes steps. Of one that has ended only what it takes
    /// down on its way is to be passed over in silence; it must not go on.
    fn is_alive(&self, name: &str) -> bool {
        let is_over = self.has_ended();
        if is_over && name == STATE && !std::thread::panicking() {
            resume_unwind(Box::new(Cut));
        }
        !is_over
    }
}

impl Hold for Lease {
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) {
        if self.is_alive(name) {
            self.step();
            self.cupboard.put(name, descriptor);
            self.step();
        }
    }

    fn release(&self, name: &str) {
        if self.is_alive(name) {
            self.step();
            self.cupboard.remove(name);
            self.step();
        }
    }
}
