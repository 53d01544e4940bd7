//! Numbers for connections that are on their way, and what a successor must know of each.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::handoff::{Deposit, InheritError, Inherited, Journal};

/// Where connections are entered. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    journal: Journal,
    last: Arc<AtomicU64>,
}

/// A connection on its way.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Traveller {
    pub(crate) address: u32,
    /// Of one that has been served before: the keep-alive time-out that its client was promised.
    pub(crate) keep_alive: Option<Duration>,
    /// The worker that has let it go.
    pub(crate) from: Option<u32>,
}

impl Registry {
    /// `above` every number that a predecessor has given.
    pub(crate) fn new(journal: Journal, above: u64) -> Self {
        Self {
            journal,
            last: Arc::new(AtomicU64::new(above)),
        }
    }

    /// Takes effect at the next commit.
    pub(super) fn enter(&self, connection: OwnedFd, traveller: &Traveller) -> Deposit {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        Deposit::make(&self.journal, number, connection, traveller)
    }

    pub(super) fn commit(&self) {
        self.journal.commit();
    }

    /// Connections that a predecessor had accepted, by their numbers.
    ///
    /// # Errors
    /// One is of another kind.
    pub(crate) fn found(
        &self,
        inherited: &mut Inherited,
    ) -> Result<Vec<(Traveller, Deposit)>, InheritError> {
        let prefix = self.journal.full("");
        let mut found = Vec::new();
        for (rest, traveller) in inherited.values::<Traveller>(&prefix)? {
            let name = format!("{prefix}{rest}");
            let number = rest
                .parse()
                .map_err(|error| InheritError::value(&name, error))?;
            match inherited.take(&name) {
                Some(connection) => {
                    found.push((traveller, Deposit::found(&self.journal, number, connection)));
                }
                // It was just being given up.
                None => self.journal.drop(&rest),
            }
        }
        Ok(found)
    }
}
