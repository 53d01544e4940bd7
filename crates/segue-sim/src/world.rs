//! The simulated world: a heap of things to come and a clock that jumps from one to the next.
//!
//! It owns the core, the virtual kernel and the virtual workers, and plays the shell: it performs
//! the core's orders and reports what came of them, late and in any order that the real world
//! allows. It decides nothing; `rules` judges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use segue_core::{
    Action, AddressId, AddressKind, App, AskId, Event, ExitStatus, Generation, RequestId, Signal,
    SocketIndex, Tend, Time, WorkerId,
};

use crate::coverage::Coverage;
use crate::kernel::{Fate, Kernel};
use crate::plan::{OnDisconnect, OnStop, Plan, Prepare, Request, Script, Step};
use crate::process::Process;
use crate::random::Random;
use crate::rules::Rules;
use crate::trace;

/// How long the world is left alone after the load has ended, in ms.
pub(crate) const CALM: u64 = 150_000;

/// No run needs more steps than this; one that does spins.
const MOST_STEPS: u32 = 60_000;

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
        self.rules.before(&event);
        let actions = self.app.handle(Time(self.now), event);
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
                self.tell(Event::ReloadRequested { request })
            }
            Request::Scale(to) => {
                let request = self.request();
                self.tell(Event::ScaleRequested { request, to })
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

    // ---- the shell ------------------------------------------------------------------------

    fn perform(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Prepare { generation } => self.prepare(generation),
            Action::Spawn {
                worker, generation, ..
            } => self.spawn(worker, generation),
            Action::Open { socket } => self.open(socket.address, socket.index)?,
            Action::Give {
                worker,
                socket: segue_core::SocketRef { address, index },
                ..
            } => self.soon(Happening::Given(worker, address.0, index)),
            Action::Deny { worker, .. } => self.soon(Happening::Denied(worker)),
            Action::Steer { address, set } => self.steer(address, set),
            Action::Publish { address, workers } => {
                if let Some(group) = self.kernel.group_mut(address.0) {
                    group.published = workers;
                }
                self.tend_all(address.0);
            }
            Action::Tend { socket, how } => {
                if let Some(found) = self.kernel.socket_mut(socket.address.0, socket.index) {
                    found.tend = how;
                }
                self.soon(Happening::Tended(socket.address.0, socket.index));
            }
            Action::ShutGate { address } => {
                if let Some(group) = self.kernel.group_mut(address.0) {
                    group.is_shut = true;
                }
            }
            Action::Close { address } => {
                let is_served = self
                    .kernel
                    .group(address.0)
                    .is_some_and(|group| !group.published.is_empty());
                let reset = self.kernel.close(address.0);
                if reset > 0 {
                    if is_served && !self.rules.is_stopping() {
                        return Err(format!("{address} is closed while somebody serves it"));
                    }
                    self.rules.reset(address)?;
                    self.note(|| format!("{reset} queued connections reset at {address}"));
                }
            }
            Action::BeginSettle { worker } => {
                let noted: Vec<usize> = self
                    .sockets_of(worker)
                    .into_iter()
                    .flat_map(|(place, index)| self.kernel.pending(place, index))
                    .collect();
                if let Some(process) = self.process(worker) {
                    process.noted = noted;
                }
            }
            Action::CheckSettled { worker } => self.soon(Happening::Checked(worker)),
            Action::Disconnect { worker } => self.soon(Happening::Disconnected(worker)),
            Action::Signal { worker, signal } => self.signal(worker, signal),
            Action::Forget { .. }
            | Action::Reply { .. }
            | Action::Notify(_)
            | Action::Finish(_) => {}
        }
        Ok(())
    }

    /// The sockets that the core gave to a worker.
    fn sockets_of(&self, worker: WorkerId) -> Vec<(u32, SocketIndex)> {
        self.app
            .holders()
            .filter(|(_, holder)| *holder == worker)
            .map(|(socket, _)| (socket.address.0, socket.index))
            .collect()
    }

    fn prepare(&mut self, generation: Generation) {
        let nth = self.prepared.len();
        let last = self.plan.releases.len() - 1;
        self.prepared.push((generation, nth.min(last)));
        self.spawned.push((generation, 0));
        let event = match self.plan.releases[nth.min(last)].prepare {
            Prepare::Found { changed } => Event::Prepared {
                generation,
                changed,
            },
            Prepare::Fails => Event::PrepareFailed { generation },
            Prepare::Hangs => return,
        };
        self.soon(Happening::Told(event));
    }

    fn script(&mut self, generation: Generation) -> Option<Script> {
        let (_, release) = self.prepared.iter().find(|(id, _)| *id == generation)?;
        let scripts = &self.plan.releases[*release].scripts;
        let (_, nth) = self.spawned.iter_mut().find(|(id, _)| *id == generation)?;
        let script = scripts.get((*nth).min(scripts.len() - 1))?.clone();
        *nth += 1;
        Some(script)
    }

    fn spawn(&mut self, worker: WorkerId, generation: Generation) {
        let Some(script) = self.script(generation) else {
            return;
        };
        let steps = script.steps.clone();
        let mut process = Process::born(worker, script);
        if self.random.chance(self.plan.faults.spawn_fails) {
            process.is_alive = false;
            process.has_channel = false;
            self.processes.push(process);
            self.soon(Happening::Told(Event::SpawnFailed { worker }));
            return;
        }
        self.processes.push(process);
        self.say(worker, Event::Spawned { worker });
        for (at, step) in steps {
            self.at(self.now + 1 + at, Happening::Stepped(worker, step));
        }
    }

    fn open(&mut self, address: AddressId, index: SocketIndex) -> Result<(), String> {
        let socket = segue_core::SocketRef { address, index };
        if self.random.chance(self.plan.faults.open_fails) {
            let errno = 13;
            self.soon(Happening::Told(Event::OpenFailed { socket, errno }));
            return Ok(());
        }
        let Some(kind) = self.plan.places.get(address.0 as usize).copied() else {
            return Err(format!("{address} does not exist"));
        };
        let steered = match kind {
            AddressKind::Steered => !self.plan.faults.is_steering_refused,
            AddressKind::Path | AddressKind::Single => true,
        };
        let real = self.kernel.open(address.0, kind, steered);
        if real != usize::from(index.0) {
            return Err(format!("{socket} was opened as #{real}"));
        }
        self.soon(Happening::Told(Event::Opened { socket, steered }));
        Ok(())
    }

    fn steer(&mut self, address: AddressId, set: Vec<SocketIndex>) {
        let nth = self.steers;
        self.steers += 1;
        let faults = &self.plan.faults;
        if faults.steers_that_fail.contains(&nth) || self.random.chance(faults.steer_fails) {
            self.soon(Happening::Told(Event::SteerFailed { address }));
            return;
        }
        if let Some(group) = self.kernel.group_mut(address.0) {
            group.set = set;
        }
        self.soon(Happening::Told(Event::Steered { address }));
    }

    fn check_settled(&mut self, worker: WorkerId) {
        let is_queue_empty = self.sockets_of(worker).into_iter().all(|(place, index)| {
            self.kernel
                .socket_mut(place, index)
                .is_none_or(|socket| socket.queue.is_empty())
        });
        let noted = self
            .process(worker)
            .map(|process| process.noted.clone())
            .unwrap_or_default();
        let is_over = noted.iter().all(|id| {
            let connection = &self.kernel.connections[*id];
            connection.entered.is_some() || connection.fate.is_some()
        });
        let clear = is_queue_empty && is_over;
        self.soon(Happening::Told(Event::SettleChecked { worker, clear }));
    }

    fn signal(&mut self, worker: WorkerId, signal: Signal) {
        let now = self.now;
        match signal {
            Signal::Kill => {
                let is_slow = self.random.chance(self.plan.faults.slow_deaths);
                let after = if is_slow { 3_000 } else { 1 };
                self.at(now + after, Happening::Died(worker, ExitStatus::Signal(9)));
            }
            Signal::Stop => {
                let Some(process) = self.process(worker) else {
                    return;
                };
                let blocked_until = process.blocked_until;
                match process.script.on_stop {
                    OnStop::Dies => {
                        self.at(now + 1, Happening::Died(worker, ExitStatus::Signal(15)));
                    }
                    OnStop::Finishes(after) => {
                        let at = blocked_until.max(now) + 1 + after;
                        self.at(at, Happening::Died(worker, ExitStatus::Code(0)));
                    }
                    OnStop::Ignores => {}
                }
            }
        }
    }

    fn tend_all(&mut self, place: u32) {
        let sockets = self
            .kernel
            .group(place)
            .map_or(0, |group| group.sockets.len());
        for index in 0..u16::try_from(sockets).unwrap_or(0) {
            self.soon(Happening::Tended(place, SocketIndex(index)));
        }
    }

    /// The shell looks into a queue that the core told it to tend.
    fn tend(&mut self, place: u32, index: SocketIndex) -> Result<(), String> {
        let Some(group) = self.kernel.group(place) else {
            return Ok(());
        };
        let Some(socket) = group.sockets.get(usize::from(index.0)) else {
            return Ok(());
        };
        if socket.queue.is_empty() {
            return Ok(());
        }
        let (how, published) = (socket.tend, group.published.clone());
        match how {
            Tend::Leave => {
                let is_served = !published.is_empty();
                return self.rules.left_alone(&self.app, place, index, is_served);
            }
            Tend::Reset => {
                while let Some(connection) = self.dequeue(place, index) {
                    self.kernel.resolve(connection, Fate::Reset);
                    self.note(|| format!("connection {connection} reset"));
                    self.rules.reset(AddressId(place))?;
                }
            }
            Tend::HandOver => {
                let able: Vec<WorkerId> = published
                    .into_iter()
                    .filter(|worker| {
                        self.process(*worker)
                            .is_some_and(|process| process.has_channel && process.listens_at(place))
                    })
                    .collect();
                // Who has died will be reported; then somebody else is published.
                while !able.is_empty() {
                    let Some(connection) = self.dequeue(place, index) else {
                        break;
                    };
                    let worker = self.random.pick(&able);
                    self.kernel.resolve(connection, Fate::HandedOver(worker));
                    self.note(|| format!("connection {connection} handed to {worker}"));
                    self.serve(worker, place)?;
                }
            }
        }
        Ok(())
    }

    fn dequeue(&mut self, place: u32, index: SocketIndex) -> Option<usize> {
        self.kernel.socket_mut(place, index)?.queue.pop_front()
    }

    // ---- clients --------------------------------------------------------------------------

    fn connect(&mut self, place: u32) {
        let Some(connection) = self.kernel.syn(place, &mut self.random) else {
            return;
        };
        let is_path = self
            .kernel
            .group(place)
            .is_some_and(|group| group.kind == AddressKind::Path);
        let is_late = !is_path && self.random.chance(self.plan.faults.late_handshakes);
        let after = match (is_path, is_late) {
            (true, _) => 0,
            (false, true) => self.random.within(100, 4_500),
            (false, false) => self.random.within(1, 3),
        };
        self.at(self.now + after, Happening::Established(connection));
    }

    fn established(&mut self, connection: usize) {
        if !self.kernel.establish(connection, self.now) {
            return;
        }
        let (place, index) = {
            let connection = &self.kernel.connections[connection];
            (connection.place, connection.index)
        };
        self.note(|| {
            format!(
                "connection {connection} queued at {}",
                trace::socket(place, index)
            )
        });
        self.wake_acceptors(place, index);
        self.soon(Happening::Tended(place, index));
    }

    fn wake_acceptors(&mut self, place: u32, index: SocketIndex) {
        let acceptors: Vec<WorkerId> = self
            .processes
            .iter()
            .filter(|process| process.accepts_from(place, index))
            .map(|process| process.worker)
            .collect();
        for worker in acceptors {
            self.soon(Happening::Looked(worker, place, index));
        }
    }

    // ---- workers --------------------------------------------------------------------------

    fn look(&mut self, worker: WorkerId, place: u32, index: SocketIndex) -> Result<(), String> {
        let now = self.now;
        loop {
            let Some(process) = self.process(worker) else {
                return Ok(());
            };
            if !process.accepts_from(place, index) {
                return Ok(());
            }
            if process.blocked_until > now {
                let at = process.blocked_until;
                self.at(at, Happening::Looked(worker, place, index));
                return Ok(());
            }
            let Some(connection) = self.dequeue(place, index) else {
                return Ok(());
            };
            self.note(|| format!("connection {connection} accepted by {worker}"));
            self.kernel.resolve(connection, Fate::Accepted(worker));
            self.serve(worker, place)?;
        }
    }

    /// A connection is in a worker's hands.
    fn serve(&mut self, worker: WorkerId, place: u32) -> Result<(), String> {
        let now = self.now;
        let is_long = self.random.chance(self.plan.faults.long_connections);
        let lasts = match (is_long, self.random.chance(200)) {
            (false, _) => self.random.within(1, 100),
            (true, false) => self.random.within(1_000, 10_000),
            (true, true) => 10_000_000,
        };
        let Some(process) = self.process(worker) else {
            return Ok(());
        };
        process.busy_until = process.busy_until.max(now + lasts);
        process.accepted += 1;
        if process
            .script
            .dies_at_accept
            .is_some_and(|limit| process.accepted >= limit)
        {
            self.die(worker, ExitStatus::Signal(11));
        }
        self.rules.served(worker, place, &self.kernel)
    }

    fn step(&mut self, worker: WorkerId, step: Step) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        if process.blocked_until > now {
            let at = process.blocked_until;
            self.at(at, Happening::Stepped(worker, step));
            return;
        }
        match step {
            Step::Attach => self.say(worker, Event::Attached { worker }),
            Step::Ask(place) => {
                let process_can_ask = process.has_channel && !process.is_disconnecting;
                if process_can_ask && let Some(kind) = self.plan.places.get(place as usize).copied()
                {
                    self.last_ask += 1;
                    let ask = AskId(self.last_ask);
                    let address = AddressId(place);
                    self.rules.put(ask, worker, now);
                    self.say(
                        worker,
                        Event::Asked {
                            worker,
                            ask,
                            address,
                            kind,
                        },
                    );
                }
            }
            Step::SayReady => self.say(worker, Event::SaidReady { worker }),
            Step::Exit(status) => self.die(worker, status),
            Step::CloseChannel => self.end_channel(worker),
            Step::Close(place) => {
                self.rules.disturbed(Time(now));
                self.close_server(worker, place);
            }
            Step::Block(lasts) => process.blocked_until = now + lasts,
            Step::Wrap => self.say(worker, Event::FoundWrapper { worker }),
        }
    }

    fn given(&mut self, worker: WorkerId, place: u32, index: SocketIndex) {
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive || !process.has_channel || process.is_disconnecting {
            return;
        }
        process.listening.push((place, index));
        let address = AddressId(place);
        self.say(worker, Event::Listened { worker, address });
        self.soon(Happening::Looked(worker, place, index));
    }

    fn close_server(&mut self, worker: WorkerId, place: u32) {
        let Some(process) = self.process(worker) else {
            return;
        };
        if process.listens_at(place) {
            process.listening.retain(|(at, _)| *at != place);
            let address = AddressId(place);
            self.say(worker, Event::Closed { worker, address });
        }
    }

    fn disconnected(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive
            || !process.has_channel
            || process.script.on_disconnect == OnDisconnect::Ignores
        {
            return;
        }
        if process.blocked_until > now {
            let at = process.blocked_until;
            self.at(at, Happening::Disconnected(worker));
            return;
        }
        process.is_disconnecting = true;
        let places: Vec<u32> = process.listening.iter().map(|(place, _)| *place).collect();
        for place in places {
            self.close_server(worker, place);
        }
        self.look_done(worker);
    }

    fn look_done(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        let until = process.busy_until.max(process.blocked_until);
        if until > now {
            self.at(until, Happening::LookedDone(worker));
            return;
        }
        let lingers = process.script.on_disconnect == OnDisconnect::Lingers;
        self.end_channel(worker);
        if !lingers {
            self.soon(Happening::Died(worker, ExitStatus::Code(0)));
        }
    }

    fn end_channel(&mut self, worker: WorkerId) {
        self.say(worker, Event::ChannelEnded { worker });
        if let Some(process) = self.process(worker) {
            process.has_channel = false;
        }
    }

    fn die(&mut self, worker: WorkerId, status: ExitStatus) {
        let now = Time(self.now);
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        process.is_alive = false;
        let is_serving = !process.listening.is_empty() && !process.is_disconnecting;
        process.listening.clear();
        if is_serving {
            self.rules.disturbed(now);
        }
        self.note(|| format!("{worker} dies"));
        self.end_channel(worker);
        // Before or after the end of its channel is seen.
        self.soon(Happening::Told(Event::Exited { worker, status }));
    }
}
