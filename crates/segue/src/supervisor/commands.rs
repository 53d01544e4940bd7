//! Commands that may change what serves: each is one request to the core, and who made it is noted.

use segue_core::Event;
use segue_wire::control::{CanaryWish, Wait};

use super::origin;
use super::run::Supervisor;
use crate::control::command::Caller;
use crate::control::convert;

impl Supervisor {
    pub(super) fn reload(&mut self, wait: Wait, canary: CanaryWish, caller: Caller) {
        let (request, is_new) = self.enter_request(caller.key());
        if is_new {
            let asked = origin::of_caller(caller.peer(), "reload");
            self.note_asked(request, "reload", asked);
        }
        self.callers
            .reload(&self.plan.app.name, request, wait, caller.accept());
        let canary = convert::canary(canary);
        self.go_on(request, is_new, Event::ReloadRequested { request, canary });
    }

    pub(super) fn promote(&mut self, caller: Caller) {
        let (request, is_new) = self.enter_request(caller.key());
        self.callers.wait(request, caller.accept());
        self.go_on(request, is_new, Event::PromoteRequested { request });
    }

    pub(super) fn roll_back(&mut self, caller: Caller) {
        let (request, is_new) = self.enter_request(caller.key());
        if is_new {
            let asked = origin::of_caller(caller.peer(), "rollback");
            self.note_asked(request, "rollback", asked);
        }
        self.callers.wait(request, caller.accept());
        self.go_on(request, is_new, Event::RollbackRequested { request });
    }

    pub(super) fn restart(&mut self, caller: Caller) {
        let (request, is_new) = self.enter_request(caller.key());
        if is_new {
            let asked = origin::of_caller(caller.peer(), "restart");
            self.note_asked(request, "restart", asked);
        }
        self.callers.wait(request, caller.accept());
        self.go_on(request, is_new, Event::RestartRequested { request });
    }
}
