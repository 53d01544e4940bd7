//! The last line of a run: how it ended, for whoever looks at the log first from below.

use segue_core::{Finish, Outcome};
use segue_wire::control::Level;

use super::app_shell::AppShell;
use crate::control::convert;
use crate::telemetry::lines::PREFIX;

impl AppShell {
    pub(super) fn bid_farewell(&mut self, finish: &Finish) {
        let (level, outcome) = match finish {
            Finish::Stopped { killed: 0 } => (Level::Info, Outcome::Stopped),
            Finish::Stopped { killed } => (Level::Warn, Outcome::StoppedHard { killed: *killed }),
            Finish::NeverStarted(failure) => {
                (Level::Error, Outcome::NeverStarted { failure: *failure })
            }
            Finish::GivenUp => {
                self.say(format!(
                    "{PREFIX}every worker of {} has been given up: ending, as --give-up exit says",
                    self.plan.app.name
                ));
                self.word.note_end("every worker has been given up");
                return;
            }
        };
        let told = convert::outcome(&outcome, self);
        self.word.note_end(&told.text);
        if !self.plan.host.verbosity.shows(level) {
            return;
        }
        self.say(format!("{PREFIX}{}", told.text));
        if !told.next.is_empty() {
            self.say(format!("{PREFIX}  what to do: {}", told.next));
        }
    }
}
