//! Commands that may change what serves: each is one request to the core, and who made it is noted.

use segue_core::Event;
use segue_wire::control::{Asked, CanaryWish, Wait};

use super::app_shell::AppShell;
use super::origin;
use crate::control::command::Asker;
use crate::control::convert;

impl AppShell {
    pub(super) fn reload(&mut self, wait: Wait, canary: CanaryWish, asker: Asker) {
        let asked = origin::of_caller(asker.peer, "reload");
        self.reload_for(asked, wait, canary, asker);
    }

    /// The same, where something else than a reload was asked for.
    pub(super) fn reload_for(
        &mut self,
        asked: Asked,
        wait: Wait,
        canary: CanaryWish,
        asker: Asker,
    ) {
        let (request, is_new) = self.requests.enter(asker.key.as_deref());
        if is_new {
            self.note_asked(request, "reload", asked);
        }
        self.callers
            .reload(&self.plan.app.name, request, wait, asker.teller);
        let canary = convert::canary(canary);
        self.go_on(request, is_new, Event::ReloadRequested { request, canary });
    }

    pub(super) fn promote(&mut self, asker: Asker) {
        let (request, is_new) = self.requests.enter(asker.key.as_deref());
        self.callers.wait(request, asker.teller);
        self.go_on(request, is_new, Event::PromoteRequested { request });
    }

    pub(super) fn roll_back(&mut self, asker: Asker) {
        let (request, is_new) = self.requests.enter(asker.key.as_deref());
        if is_new {
            let asked = origin::of_caller(asker.peer, "rollback");
            self.note_asked(request, "rollback", asked);
        }
        self.callers.wait(request, asker.teller);
        self.go_on(request, is_new, Event::RollbackRequested { request });
    }

    pub(super) fn restart(&mut self, asker: Asker) {
        let (request, is_new) = self.requests.enter(asker.key.as_deref());
        if is_new {
            let asked = origin::of_caller(asker.peer, "restart");
            self.note_asked(request, "restart", asked);
        }
        self.callers.wait(request, asker.teller);
        self.go_on(request, is_new, Event::RestartRequested { request });
    }
}
