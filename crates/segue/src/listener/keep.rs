//! Listening sockets as the service manager keeps them for us, so that connections wait in their
//! queues when all our processes have died. It has a copy of every socket of every address: of a
//! group of which one was closed, what is left has other numbers, and what was in that one's queue is
//! reset.

use std::collections::BTreeSet;

use segue_core::AddressId;

use super::inherit::stored_name;
use super::pool::{Gate, Nature, Open, Pool};
use crate::service::Notifier;

/// The way to the keeper of our sockets.
#[derive(Debug, Default)]
pub(super) struct Kept {
    notifier: Notifier,
    /// It is to have all of them when we are gone, paths too, although we end in order.
    stays: bool,
}

impl Pool {
    /// Has every socket kept from now on, those that are open already included: it has each once.
    pub(crate) fn keep_in(&mut self, notifier: Notifier) {
        self.kept.notifier = notifier;
        for (address, open) in &self.open {
            for index in 0..open.sockets.len() {
                self.keep(*address, open, index);
            }
        }
    }

    /// What is closed from now on stays kept, for the service that will be started in our place.
    pub(crate) fn leave_kept(&mut self) {
        self.kept.stays = true;
    }

    pub(super) fn keep(&self, address: AddressId, open: &Open, index: usize) {
        // Their order is not known: they must not come back as if it were.
        let is_one_of_many = index > 0 && matches!(open.nature, Nature::Alone { .. });
        if !self.kept.notifier.is_there() || is_one_of_many {
            return;
        }
        if let Some(name) = self.kept_name(address, index)
            && let Some(socket) = open.sockets.get(index)
        {
            self.kept.notifier.store(&name, socket);
        }
    }

    /// The address is on its way out: who listens there afterwards must find it free. Unless it is
    /// the whole app that ends: whether that is a stop or a restart only the service manager knows,
    /// which closes what it keeps when it is a stop. A path is taken away in either case.
    pub(super) fn keep_no_more(&self, address: AddressId, open: &Open) {
        let app_ends = !matches!(open.gate, Gate::Open);
        let is_path = matches!(open.nature, Nature::Path(_));
        let stays = self.kept.stays || (app_ends && !is_path);
        if !self.kept.notifier.is_there() || stays {
            return;
        }
        let names = (0..open.sockets.len()).filter_map(|index| self.kept_name(address, index));
        for name in names {
            self.kept.notifier.remove(&name);
        }
    }

    /// These are known under names that mean nothing any more.
    pub(super) fn keep_none_of(&self, names: &[String]) {
        for name in names {
            self.kept.notifier.remove(name);
        }
    }

    /// Closes what was kept from an earlier life and nobody listens at in this one. Says what it was.
    pub(crate) fn close_unwanted(&mut self) -> BTreeSet<String> {
        let unwanted = self.inheritance.take_unwanted();
        for (name, _) in &unwanted {
            self.kept.notifier.remove(name);
        }
        unwanted
            .into_iter()
            .map(|(_, described)| described)
            .collect()
    }

    fn kept_name(&self, address: AddressId, index: usize) -> Option<String> {
        stored_name(self.places.place(address)?, u16::try_from(index).ok()?)
    }
}
