//! Requests that a caller may make again because the supervisor was replaced in between: each is
//! carried out once, and its outcome is kept for whoever asks again. Bounded: the oldest are
//! forgotten.

use std::collections::VecDeque;

use segue_core::RequestId;
use segue_wire::control::Outcome;
use serde::{Deserialize, Serialize};

use super::run::Supervisor;
use super::succession::by_name;
use crate::handoff::{InheritError, Inherited, Journal};

/// So many are remembered.
const REMEMBERED: usize = 64;

/// Names of requests begin so.
const PREFIX: &str = "request/";

#[derive(Debug, Default)]
pub(super) struct Requests(VecDeque<Known>);

#[derive(Debug, Deserialize, Serialize)]
struct Known {
    /// What makes it known again.
    key: String,
    request: u64,
    outcome: Option<Outcome>,
}

impl Requests {
    /// Those of a predecessor.
    ///
    /// # Errors
    /// One is of another kind.
    pub(super) fn restore(journal: &Journal, inherited: &Inherited) -> Result<Self, InheritError> {
        let mut known: Vec<Known> = by_name(inherited, &journal.full(PREFIX))?;
        known.sort_by_key(|known| known.request);
        Ok(Self(known.into()))
    }

    fn find(&self, key: &str) -> Option<&Known> {
        self.0.iter().find(|known| known.key == key)
    }
}

impl Supervisor {
    /// The number of a request, and whether it is a new one.
    pub(super) fn enter_request(&mut self, key: Option<&str>) -> (RequestId, bool) {
        if let Some(known) = key.and_then(|key| self.requests.find(key)) {
            return (RequestId(known.request), false);
        }
        let request = self.new_request();
        if let Some(key) = key {
            let known = Known {
                key: key.to_owned(),
                request: request.0,
                outcome: None,
            };
            self.note_request(&known);
            self.requests.0.push_back(known);
            while self.requests.0.len() > REMEMBERED {
                if let Some(oldest) = self.requests.0.pop_front() {
                    self.journal.drop(&format!("{PREFIX}{}", oldest.request));
                }
            }
        }
        (request, true)
    }

    /// What has come of a request that was made before.
    pub(super) fn outcome_of(&self, request: RequestId) -> Option<Outcome> {
        let known = self.requests.0.iter();
        known
            .filter(|known| known.request == request.0)
            .find_map(|known| known.outcome.clone())
    }

    pub(super) fn keep_outcome(&mut self, request: RequestId, outcome: &Outcome) {
        let index = self
            .requests
            .0
            .iter()
            .position(|known| known.request == request.0);
        if let Some(known) = index.and_then(|index| self.requests.0.get_mut(index)) {
            known.outcome = Some(outcome.clone());
        }
        if let Some(known) = index.and_then(|index| self.requests.0.get(index)) {
            self.note_request(known);
        }
    }

    fn note_request(&self, known: &Known) {
        self.journal
            .put(&format!("{PREFIX}{}", known.request), known);
    }
}
