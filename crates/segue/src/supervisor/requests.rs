//! Requests that a caller may make again because the supervisor was replaced in between: each is
//! carried out once, and its outcome is kept for whoever asks again. Bounded: the oldest are
//! forgotten.

use std::collections::VecDeque;

use segue_core::RequestId;
use segue_wire::control::Outcome;
use serde::{Deserialize, Serialize};

use super::succession::by_name;
use crate::handoff::{InheritError, Inherited, Journal};

/// So many are remembered.
const REMEMBERED: usize = 64;

/// Names of requests begin so.
const PREFIX: &str = "request/";

#[derive(Debug)]
pub(super) struct Requests {
    known: VecDeque<Known>,
    journal: Journal,
    /// The number that was given last.
    last: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Known {
    /// What makes it known again.
    key: String,
    request: u64,
    outcome: Option<Outcome>,
}

impl Requests {
    /// Numbers begin above `first`.
    pub(super) fn new(journal: Journal, first: u64) -> Self {
        Self {
            known: VecDeque::new(),
            journal,
            last: first,
        }
    }

    /// Those of a predecessor.
    ///
    /// # Errors
    /// One is of another kind.
    pub(super) fn restore(
        journal: Journal,
        first: u64,
        inherited: &Inherited,
    ) -> Result<Self, InheritError> {
        let mut known: Vec<Known> = by_name(inherited, &journal.full(PREFIX))?;
        known.sort_by_key(|known| known.request);
        Ok(Self {
            known: known.into(),
            journal,
            last: first,
        })
    }

    /// A number that nobody asks for again.
    pub(super) fn next(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }

    /// The number of a request, and whether it is a new one.
    pub(super) fn enter(&mut self, key: Option<&str>) -> (RequestId, bool) {
        if let Some(request) = key.and_then(|key| self.known(key)) {
            return (request, false);
        }
        let next = self.next();
        let Some(key) = key else {
            return (next, true);
        };
        let known = Known {
            key: key.to_owned(),
            request: next.0,
            outcome: None,
        };
        self.note(&known);
        self.known.push_back(known);
        while self.known.len() > REMEMBERED {
            if let Some(oldest) = self.known.pop_front() {
                self.journal.drop(&format!("{PREFIX}{}", oldest.request));
            }
        }
        (next, true)
    }

    /// The request that was made with this key.
    pub(super) fn known(&self, key: &str) -> Option<RequestId> {
        let known = self.known.iter().find(|known| known.key == key)?;
        Some(RequestId(known.request))
    }

    /// What has come of a request that was made before.
    pub(super) fn outcome_of(&self, request: RequestId) -> Option<Outcome> {
        let known = self.known.iter();
        known
            .filter(|known| known.request == request.0)
            .find_map(|known| known.outcome.clone())
    }

    pub(super) fn keep_outcome(&mut self, request: RequestId, outcome: &Outcome) {
        let mut known = self.known.iter_mut();
        if let Some(known) = known.find(|known| known.request == request.0) {
            known.outcome = Some(outcome.clone());
        }
        if let Some(known) = self.known.iter().find(|known| known.request == request.0) {
            self.note(known);
        }
    }

    fn note(&self, known: &Known) {
        self.journal
            .put(&format!("{PREFIX}{}", known.request), known);
    }
}
