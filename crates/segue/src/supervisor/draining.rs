//! Drains: what a worker's preload script is told, what it says, and the connections it lets go.

use std::time::Duration;

use segue_core::{AppPhase, Event, Leaving, Time, WorkerId};
use segue_wire::control as wire;
use segue_wire::node::{Bypass, Drain, DrainState, Hello, Idle, Totals};

use super::app_shell::AppShell;
use super::crew::address_of;
use crate::config::drain::IdleRule;
use crate::listener::Migrant;
use crate::telemetry::lines;
use crate::worker::channel::Arrival;

impl AppShell {
    /// Tells a worker's preload script to let its connections go, by an instant or, while it still
    /// accepts, in its own time.
    pub(super) fn order_drain(&self, worker: WorkerId, why: Leaving, until: Option<Time>) {
        let Some(channel) = self.crew.channel(worker) else {
            return;
        };
        let rules = &self.plan.drain;
        let deadline = match until {
            Some(until) => until.since(self.now()),
            None => self.plan.settings.drain_timeout,
        };
        channel.drain(Drain {
            accept: until.is_none(),
            idle: self.idle_rule(why),
            stall: millis(rules.stall),
            deadline: millis(deadline),
            // The rest of the time is for the peers' answers.
            websocket_after: millis(rules.websocket_after.min(deadline / 5 * 4)),
            websocket_code: rules.websocket_code,
        });
    }

    /// When the app stops or is paused there is nobody left to take a connection.
    fn idle_rule(&self, why: Leaving) -> Idle {
        let is_alone = matches!(why, Leaving::Stop | Leaving::Pause)
            || matches!(
                self.core.view().phase,
                AppPhase::Stopping | AppPhase::Paused
            );
        match self.plan.drain.idle {
            IdleRule::Migrate if !is_alone => Idle::Migrate,
            IdleRule::Migrate | IdleRule::Close => Idle::Close,
        }
    }

    pub(super) fn hear_hello(&mut self, worker: WorkerId, hello: Hello) {
        if let Some(member) = self.crew.member_mut(worker) {
            member.record.drain.hello = Some(hello);
        }
        self.crew.note(worker);
        self.feed(Event::Preloaded { worker });
    }

    pub(super) fn hear_connection(&mut self, from: WorkerId, arrival: Arrival) {
        let Arrival {
            key,
            keep_alive,
            connection,
            receipt,
        } = arrival;
        let address = address_of(&key).filter(|address| self.pool.place(*address).is_some());
        let Some(address) = address else {
            tracing::warn!(worker = %from, key, "a connection of an address that is closed: closed");
            return;
        };
        let migrant = Migrant {
            connection,
            keep_alive,
            from,
            receipt: Box::new(receipt),
        };
        self.stragglers.adopt(address, migrant);
    }

    pub(super) fn hear_drain_state(&mut self, worker: WorkerId, state: DrainState) {
        let now = self.now();
        if let Some(member) = self.crew.member_mut(worker) {
            member.record.drain.state = Some(state);
            member.record.drain.heard = now.0;
        }
        self.crew.note(worker);
    }

    pub(super) fn hear_drained(&mut self, worker: WorkerId, totals: Totals) {
        let state = DrainState {
            totals,
            ..DrainState::default()
        };
        self.hear_drain_state(worker, state);
        self.feed(Event::Drained { worker });
    }

    pub(super) fn hear_bypass(&mut self, worker: WorkerId, bypass: Bypass) {
        let place = bypass.place;
        if self.records.note_bypass(worker, &place) {
            self.say(format!(
                "{}the app listens at {place} on a socket of its own: a reload cannot hand that port over, and connections to it are lost with their worker",
                lines::PREFIX
            ));
        }
        if let Some(member) = self.crew.member_mut(worker)
            && !member.record.drain.bypasses.contains(&place)
        {
            member.record.drain.bypasses.push(place);
        }
        self.crew.note(worker);
    }

    /// What a worker's drain has said last, for people.
    pub(super) fn shown_drain(&self, worker: WorkerId) -> Option<wire::Draining> {
        let drain = &self.crew.member(worker)?.record.drain;
        let state = drain.state?;
        Some(wire::Draining {
            idle: state.idle,
            busy: state.busy,
            websocket: state.upgraded,
            tls: state.tls,
            http2: state.http2,
            other: state.other,
            outgoing: state.outgoing,
            oldest_ms: match state.oldest {
                0 => 0,
                oldest => oldest.saturating_add(millis(self.now().since(Time(drain.heard)))),
            },
            moved: state.totals.moved,
            announced: state.totals.announced,
            cut: state.totals.cut,
            stalled: state.totals.stalled,
        })
    }

    /// How a worker will let its connections go, and what is to be said of that.
    pub(super) fn drain_kind(&self, worker: WorkerId) -> (wire::Drain, Option<String>) {
        let Some(member) = self.crew.member(worker) else {
            return (wire::Drain::Unknown, None);
        };
        match (&member.record.drain.hello, &member.record.drain.no_preload) {
            (Some(hello), _) if hello.migrates || self.plan.drain.idle == IdleRule::Close => {
                (wire::Drain::Full, None)
            }
            (Some(hello), _) => {
                let note = format!(
                    "the inside of Node {} is not known, so idle connections are closed with notice instead of moved",
                    hello.node
                );
                (wire::Drain::Full, Some(note))
            }
            (None, Some(why)) => (wire::Drain::Plain, Some(why.to_string())),
            // It speaks before the app does anything; by then it should have.
            (None, None) if member.record.has_asked => {
                let note = "the preload script has not spoken".to_owned();
                (wire::Drain::Plain, Some(note))
            }
            (None, None) => (wire::Drain::Unknown, None),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
