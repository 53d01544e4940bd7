//! The simulated world: a heap of things to come and a clock that jumps from one to the next.
//!
//! It owns the core, the virtual kernel and the virtual workers, and plays the shell: it performs
//! the core's orders and reports what came of them, late and in any order that the real world
//! allows. It decides nothing; `rules` judges.

mod shell;
mod watch;
mod workers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use segue_core::{
    App, CanaryChoice, Event, ExitStatus, Generation, RequestId, SocketIndex, Time, WorkerId,
};

use crate::coverage::Coverage;
use crate::kernel::{Fate, Kernel};
use crate::plan::{Plan, Request, Step};
use crate::process::Process;
use crate::random::Random;
use crate::rules::Rules;
use crate::successor::Successors;
use crate::trace;

/// How long the world is left alone after the load has ended, in ms.
pub(crate) const CALM: u64 = 150_000;

/// No run needs more steps than this; one that does spins. Workers that always use too much memory
/// and take long to drain need the most.
const MOST_STEPS: u32 = 240_000;

/// Something that will happen.
#[derive(Clone, Debug)]
enum Happening {
    /// The core is told.
    Told(Event),
    Requested(Request),
    /// A worker comes to a step of its script.
    Stepped(WorkerId, Step),
    /// A worker has a socket in its hands.
    Given(WorkerId, u32, SocketIndex),
    Denied(WorkerId),
    Disconnected(WorkerId),
    /// A disconnecting worker looks whether it has finished.
    LookedDone(WorkerId),
    Died(WorkerId, ExitStatus),
    /// A probe reaches a worker.
    Probed(WorkerId),
    /// The shell looks whether a worker's event loop turns.
    Pinged(WorkerId),
    /// A worker's counts are read.
    Read(WorkerId),
    /// A worker looks into a queue.
    Looked(WorkerId, u32, SocketIndex),
    /// The shell looks into a queue.
    Tended(u32, SocketIndex),
    /// Any client connects.
    Load,
    Established(usize),
    Checked(WorkerId),
}

#[derive(Debug)]
struct Due {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub trace: Vec<String>,
    pub coverage: Coverage,
    pub steps: u32,
    /// Connections by what became of them.
    pub accepted: u64,
    pub handed_over: u64,
    pub reset: u64,
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub what: String,
    pub trace: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct World<'a> {
    plan: &'a Plan,
    random: Random,
    app: App,
    successors: Successors,
    now: u64,
    heap: BinaryHeap<Reverse<Due>>,
    order: u64,
    kernel: Kernel,
    processes: Vec<Process>,
    prepared: Vec<(Generation, usize)>,
    spawned: Vec<(Generation, usize)>,
    last_ask: u64,
    last_request: u64,
    steers: u32,
    rules: Rules,
    coverage: Coverage,
    is_traced: bool,
    trace: Vec<String>,
}

/// Runs a plan to its end: load and requests, then calm, then a stop.
pub fn run(plan: &Plan, is_traced: bool) -> Result<Report, Violation> {
    let mut world = World::new(plan, is_traced);
    match world.live() {
        Ok(steps) => Ok(world.report(steps)),
        Err(what) => {
            let line = format!("{:>9}  ! {what}", Time(world.now).to_string());
            world.trace.push(line);
            Err(Violation {
                what,
                trace: world.trace,
            })
        }
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, is_traced: bool) -> Self {
        Self {
            plan,
            random: Random::new(plan.seed ^ 0x5e9e),
            app: App::new(plan.settings.clone()),
            successors: Successors::new(plan),
            now: 0,
            heap: BinaryHeap::new(),
            order: 0,
            kernel: Kernel::new(plan.places.len()),
            processes: Vec::new(),
            prepared: Vec::new(),
            spawned: Vec::new(),
            last_ask: 0,
            last_request: 0,
            steers: 0,
            rules: Rules::new(plan),
            coverage: Coverage::default(),
            is_traced,
            trace: Vec::new(),
        }
    }

    fn report(self, steps: u32) -> Report {
        let mut report = Report {
            trace: self.trace,
            coverage: self.coverage,
            steps,
            ..Report::default()
        };
        for connection in &self.kernel.connections {
            match connection.fate {
                Some(Fate::Accepted(_)) => report.accepted += 1,
                Some(Fate::HandedOver(_)) => report.handed_over += 1,
                Some(Fate::Reset) => report.reset += 1,
                Some(Fate::Refused) | None => {}
            }
        }
        report
    }

    fn live(&mut self) -> Result<u32, String> {
        let request = self.request();
        self.tell(Event::StartRequested { request })?;
        let plan = self.plan;
        for (at, request) in &plan.requests {
            self.at(*at, Happening::Requested(*request));
        }
        if plan.load > 0 {
            self.at(0, Happening::Load);
        }
        let mut steps = 0;
        self.live_until(plan.horizon + CALM, &mut steps)?;
        if !self.rules.is_finished() {
            self.rules.after_calm(&self.app, self.now, &self.kernel)?;
            let request = self.request();
            self.tell(Event::StopRequested { request })?;
            self.live_until(u64::MAX, &mut steps)?;
        }
        self.rules.at_end(&self.app, self.now, &self.kernel)?;
        if self.processes.iter().any(|process| process.is_alive) {
            return Err("a process outlived the app".into());
        }
        Ok(steps)
    }

    fn live_until(&mut self, end: u64, steps: &mut u32) -> Result<(), String> {
        loop {
            let heap = self.heap.peek().map(|Reverse(due)| due.at);
            let deadline = self.app.next_deadline().map(|Time(at)| at);
            let is_deadline = match (heap, deadline) {
                (None, None) => return Ok(()),
                (Some(heap), Some(deadline)) => deadline < heap,
                (heap, _) => heap.is_none(),
            };
            let next = heap.into_iter().chain(deadline).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return Ok(());
            }
            *steps += 1;
            if *steps > MOST_STEPS {
                return Err("no end in sight: too many steps".into());
            }
            self.now = self.now.max(next);
            if is_deadline {
                self.tell(Event::DeadlineReached)?;
                let next = self.app.next_deadline();
                if next.is_some_and(|Time(at)| at <= self.now) {
                    return Err(format!("no progress: the next deadline is {next:?}"));
                }
            } else if let Some(Reverse(due)) = self.heap.pop() {
                self.happen(due.what)?;
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.rules.asked_for(request);
        request
    }

    fn at(&mut self, at: u64, what: Happening) {
        self.order += 1;
        let order = self.order;
        self.heap.push(Reverse(Due { at, order, what }));
    }

    /// An ordinary delay: at least 1 ms.
    fn delay(&mut self) -> u64 {
        1 + self.random.below(self.plan.latency + 1)
    }

    fn soon(&mut self, what: Happening) {
        let at = self.now + self.delay();
        self.at(at, what);
    }

    fn process(&mut self, worker: WorkerId) -> Option<&mut Process> {
        self.processes.get_mut(worker.0 as usize - 1)
    }

    /// A worker says something over its channel.
    fn say(&mut self, worker: WorkerId, event: Event) {
        let at = self.now + self.delay();
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.has_channel {
            return;
        }
        process.heard_until = process.heard_until.max(at);
        let at = process.heard_until;
        self.at(at, Happening::Told(event));
    }

    fn tell(&mut self, event: Event) -> Result<(), String> {
        if self.is_traced {
            self.trace
                .push(trace::line(self.now, '>', trace::of(&event)));
        }
        self.rules.before(Time(self.now), &event);
        let told = event.clone();
        let actions = self.app.handle(Time(self.now), event);
        self.successors
            .follow(Time(self.now), &told, &self.app, &actions)?;
        for action in &actions {
            if self.is_traced {
                self.trace
                    .push(trace::line(self.now, '<', trace::of(action)));
            }
            self.coverage.count(action);
        }
        let view = self.app.view();
        self.coverage.count_phases(&view);
        self.rules
            .judge(Time(self.now), &actions, &self.app, view, &self.kernel)?;
        for action in actions {
            self.perform(action)?;
        }
        Ok(())
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.is_traced {
            self.trace.push(trace::line(self.now, ' ', what()));
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Told(event) => return self.tell(event),
            Happening::Requested(request) => return self.requested(request),
            Happening::Stepped(worker, step) => self.step(worker, step),
            Happening::Given(worker, place, index) => self.given(worker, place, index),
            Happening::Denied(worker) => {
                if self
                    .process(worker)
                    .is_some_and(|process| process.script.minds_denial)
                {
                    self.die(worker, ExitStatus::Code(1));
                }
            }
            Happening::Disconnected(worker) => self.disconnected(worker),
            Happening::LookedDone(worker) => self.look_done(worker),
            Happening::Died(worker, status) => self.die(worker, status),
            Happening::Probed(worker) => self.answer_probe(worker),
            Happening::Pinged(worker) => self.ping(worker),
            Happening::Read(worker) => self.read_counts(worker),
            Happening::Looked(worker, place, index) => return self.look(worker, place, index),
            Happening::Tended(place, index) => return self.tend(place, index),
            Happening::Load => {
                let place = u32::try_from(self.random.index(self.plan.places.len())).unwrap_or(0);
                self.connect(place);
                let next = self.now + 1 + self.random.below(2 * self.plan.load);
                if next < self.plan.horizon {
                    self.at(next, Happening::Load);
                }
            }
            Happening::Established(connection) => self.established(connection),
            Happening::Checked(worker) => self.check_settled(worker),
        }
        Ok(())
    }

    fn requested(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Reload => {
                let request = self.request();
                let canary = CanaryChoice::AsSet;
                self.tell(Event::ReloadRequested { request, canary })
            }
            Request::ReloadWith(canary) => {
                let request = self.request();
                self.tell(Event::ReloadRequested { request, canary })
            }
            Request::Promote => {
                let request = self.request();
                self.tell(Event::PromoteRequested { request })
            }
            Request::Rollback => {
                let request = self.request();
                self.tell(Event::RollbackRequested { request })
            }
            Request::Restart => {
                let request = self.request();
                self.tell(Event::RestartRequested { request })
            }
            Request::Scale(to) => {
                let request = self.request();
                self.tell(Event::ScaleRequested { request, to })
            }
            Request::Pause => {
                let request = self.request();
                self.tell(Event::PauseRequested { request })
            }
            Request::Stop => {
                let request = self.request();
                self.tell(Event::StopRequested { request })
            }
            Request::Kill => {
                let request = self.request();
                self.tell(Event::KillRequested { request })
            }
            Request::Murder(nth) => {
                let victim = self
                    .processes
                    .iter()
                    .filter(|process| process.is_alive)
                    .nth(nth as usize)
                    .map(|process| process.worker);
                if let Some(worker) = victim {
                    self.die(worker, ExitStatus::Signal(9));
                }
                Ok(())
            }
            Request::MurderAll => {
                for nth in 0..self.processes.len() {
                    let worker = self.processes[nth].worker;
                    self.die(worker, ExitStatus::Signal(9));
                }
                Ok(())
            }
            Request::Connect(place) => {
                self.connect(place);
                Ok(())
            }
        }
    }
}
