//! Sockets that were there before the app: those behind an address's opened ones are looked after
//! until they are opened, and people are told of those that nobody asks for.

use std::time::Duration;

use segue_core::{AddressId, AppPhase, Event, SocketRef, Tend, WorkerId};

use super::app_shell::{AppShell, Input};
use crate::telemetry::lines::PREFIX;

/// How long after its start an app may come to listen where it did in an earlier life.
const PATIENCE: Duration = Duration::from_secs(10);

impl AppShell {
    pub(super) fn open(&mut self, socket: SocketRef) {
        let opened = self.pool.open(socket);
        if opened.is_ok() {
            // Whatever was looked after here is its worker's from now on.
            self.tend(socket, Tend::Leave);
        }
        self.facts.push_back(match opened {
            Ok(opened) => Event::Opened {
                socket,
                steered: opened.steered,
            },
            Err(errno) => Event::OpenFailed {
                socket,
                errno: errno.raw_os_error(),
            },
        });
    }

    pub(super) fn tend(&mut self, socket: SocketRef, how: Tend) {
        let pool = &self.pool;
        if let Err(error) = self.stragglers.tend(socket, how, || pool.lend(socket)) {
            tracing::warn!(%error, %socket, "cannot watch a queue without a worker");
        }
    }

    pub(super) fn publish(&mut self, address: AddressId, workers: Vec<WorkerId>) {
        // Until somebody takes them, connections are kept best where they are.
        let how = match workers.is_empty() {
            true => Tend::Leave,
            false => Tend::HandOver,
        };
        self.stragglers.publish(address, workers);
        for spare in self.pool.spares(address) {
            self.tend(spare, how);
        }
    }

    /// The app has come as far as it comes: what it has not asked for, it will hardly ask for.
    pub(super) fn say_unclaimed(&self) {
        for unclaimed in self.pool.unclaimed() {
            self.say(format!(
                "{PREFIX}the app does not listen at {unclaimed}, which the service manager does: connections wait there for nobody"
            ));
        }
    }

    /// Has sockets of an earlier life closed that nobody listens at in time.
    pub(super) fn await_unwanted(&self) {
        if self.pool.has_unwanted() && self.core.view().phase != AppPhase::Starting {
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                let _ = inputs.send(Input::PatienceEnded);
            });
        }
    }

    pub(super) fn close_unwanted(&mut self) {
        for closed in self.pool.close_unwanted() {
            self.say(format!(
                "{PREFIX}closed {closed}, which was kept from before: the app does not listen there any more"
            ));
        }
    }
}
