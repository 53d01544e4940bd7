//! A supervisor that is replaced again and again beside one that is not: whatever crosses the
//! replacement, both must give the same orders for ever.

use segue_core::{Action, App, Datum, Event, Settings, Time, load_event, save_event};

use crate::plan::Plan;
use crate::random::Random;

/// One schedule in so many is followed: it costs several times the schedule itself.
const FOLLOWED: u64 = 16;

/// So many events may be written down after a snapshot.
const EVENTS: u64 = 12;

#[derive(Debug)]
pub(crate) struct Successors(Option<Successor>);

#[derive(Debug)]
struct Successor {
    settings: Settings,
    random: Random,
    /// The newest of the supervisors that took over from each other.
    app: App,
    /// What the next one is made of.
    snapshot: Datum,
    events: Vec<Datum>,
}

impl Successors {
    pub(crate) fn new(plan: &Plan) -> Self {
        let settings = plan.settings.clone();
        let app = App::new(settings.clone());
        Self((plan.seed.is_multiple_of(FOLLOWED)).then(|| Successor {
            settings,
            random: Random::new(plan.seed ^ 0x5acc),
            snapshot: app.snapshot(),
            app,
            events: Vec::new(),
        }))
    }

    /// An event has been handled by the one that is never replaced.
    pub(crate) fn follow(
        &mut self,
        now: Time,
        event: &Event,
        app: &App,
        expected: &[Action],
    ) -> Result<(), String> {
        match &mut self.0 {
            Some(successor) => successor.follow(now, event, app, expected),
            None => Ok(()),
        }
    }
}

impl Successor {
    fn follow(
        &mut self,
        now: Time,
        event: &Event,
        app: &App,
        expected: &[Action],
    ) -> Result<(), String> {
        self.events.push(save_event(now, event));
        let actions = self.app.handle(now, event.clone());
        if actions != expected {
            return Err(format!(
                "a successor orders {actions:?} at {event:?} instead of {expected:?}"
            ));
        }
        if self.random.chance(100) {
            self.succeed(app, expected)?;
        }
        if self.random.below(EVENTS) == 0 {
            self.snapshot = self.app.snapshot();
            self.events.clear();
        }
        Ok(())
    }

    /// A new one is made of what has been written down.
    fn succeed(&mut self, app: &App, expected: &[Action]) -> Result<(), String> {
        let unreadable = |error| format!("a snapshot cannot be read: {error}");
        let mut next = App::restore(self.settings.clone(), &self.snapshot).map_err(unreadable)?;
        let mut last = None;
        for event in &self.events {
            let (at, event) = load_event(event).map_err(unreadable)?;
            last = Some(next.handle(at, event));
        }
        if last.is_some_and(|actions| actions != expected) {
            return Err("the last actions are not those that were given".into());
        }
        if next.snapshot() != app.snapshot() {
            return Err("a successor begins in another state".into());
        }
        if next.next_deadline() != app.next_deadline() || next.view() != app.view() {
            return Err("a successor looks different".into());
        }
        self.app = next;
        Ok(())
    }
}
