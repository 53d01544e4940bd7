//! What a simulated run consists of: settings, releases and their workers' scripts, requests,
//! faults, load. Plain data, so that a failing plan can be printed, cut down and written as a
//! scenario. Owns no behaviour.

use std::time::Duration;

use segue_core::{
    AddressKind, Canary, CanaryChoice, Distribution, ExitStatus, GiveUp, HealthRule, Intensity,
    ProbeRule, ReadyRules, Scale, Settings, Surge,
};

use crate::random::Random;

/// Everything that happens in a run, apart from the delays that `seed` decides.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub settings: Settings,
    /// The addresses of this world; `AddressId` is the index.
    pub places: Vec<AddressKind>,
    /// What each `Prepare` finds, in turn; the last one again and again.
    pub releases: Vec<Release>,
    /// When (ms) and what is asked, or done from outside.
    pub requests: Vec<(u64, Request)>,
    pub faults: Faults,
    /// Mean gap between two connections, in ms; 0 for none.
    pub load: u64,
    /// Longest ordinary delay of an event, in ms.
    pub latency: u64,
    /// Until when load goes on, in ms.
    pub horizon: u64,
    /// Between these times (ms) everybody's probes fail: what they need is down.
    pub outage: Option<(u64, u64)>,
}

/// What a release is like.
#[derive(Clone, Debug)]
pub struct Release {
    pub prepare: Prepare,
    /// Where each worker is to listen.
    pub listen: Vec<u32>,
    /// The scripts of its workers in the order of their spawns; the last one again and again.
    pub scripts: Vec<Script>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepare {
    Found { changed: bool, is_cold: bool },
    Fails,
    Hangs,
}

/// What a virtual worker does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// When (ms after its birth) it does what.
    pub steps: Vec<(u64, Step)>,
    /// It dies on accepting this many connections.
    pub dies_at_accept: Option<u32>,
    pub on_disconnect: OnDisconnect,
    pub on_stop: OnStop,
    /// It exits when a question is answered with an error.
    pub minds_denial: bool,
    pub on_probe: OnProbe,
    /// So many in a thousand connections end in an error.
    pub errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Attach,
    Ask(u32),
    /// Asks for a place that is none of its.
    AskInVain(u32),
    SayReady,
    Exit(ExitStatus),
    CloseChannel,
    /// Closes its server at a place.
    Close(u32),
    /// Does nothing at all for so many ms.
    Block(u64),
    /// `READY=1`.
    Notify,
    /// It turns out to be a wrapper.
    Wrap,
    /// Its preload script says that it is there.
    Preload,
    /// It uses more memory than its limit.
    Grow,
}

/// How a worker answers a probe, by its age in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnProbe {
    Passes,
    FailsUntil(u64),
    FailsFrom(u64),
    FailsBetween(u64, u64),
    /// Nobody ever says what came of it.
    Hangs,
    /// Nobody can be sure to have reached it.
    Unsteerable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// Closes its servers, finishes what is open, closes the channel, exits.
    Finishes,
    /// The same, but something keeps the process alive.
    Lingers,
    Ignores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    Dies,
    /// Exits after so many ms.
    Finishes(u64),
    Ignores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Reload,
    /// With a canary of its own, or without one.
    ReloadWith(CanaryChoice),
    Promote,
    Rollback,
    Restart,
    Scale(Scale),
    Pause,
    Stop,
    Kill,
    /// SIGKILL from outside to the nth living worker.
    Murder(u32),
    MurderAll,
    /// One client connects.
    Connect(u32),
}

/// How often the world says no, per mille.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub spawn_fails: u64,
    pub open_fails: u64,
    pub steer_fails: u64,
    /// These `Steer` orders fail in any case, counted from 0.
    pub steers_that_fail: Vec<u32>,
    /// The kernel refuses the steering program.
    pub is_steering_refused: bool,
    /// Handshakes that take up to 4.5 s.
    pub late_handshakes: u64,
    /// Connections that stay open for seconds, or for ever.
    pub long_connections: u64,
    /// Processes that take seconds to die of SIGKILL.
    pub slow_deaths: u64,
}

impl Script {
    /// A worker that asks for these places and lives until it is asked to leave.
    #[must_use]
    pub fn listening(boot: u64, places: &[u32]) -> Self {
        let mut steps = vec![(boot, Step::Attach)];
        steps.extend(places.iter().map(|place| (boot, Step::Ask(*place))));
        Self {
            steps,
            dies_at_accept: None,
            on_disconnect: OnDisconnect::Finishes,
            on_stop: OnStop::Dies,
            minds_denial: true,
            on_probe: OnProbe::Passes,
            errors: 0,
        }
    }

    #[must_use]
    pub fn then(mut self, at: u64, step: Step) -> Self {
        self.steps.push((at, step));
        self
    }
}

impl Release {
    #[must_use]
    pub fn of(scripts: Vec<Script>) -> Self {
        Self {
            prepare: Prepare::Found {
                changed: false,
                is_cold: false,
            },
            listen: Vec::new(),
            scripts,
        }
    }

    /// Its workers are to listen at these places, and may listen nowhere else; with none, anywhere.
    #[must_use]
    pub fn confined_to(mut self, places: &[u32]) -> Self {
        if places.is_empty() {
            return self;
        }
        self.listen = places.to_vec();
        for (_, step) in self.scripts.iter_mut().flat_map(|script| &mut script.steps) {
            if let Step::Ask(place) = *step
                && !places.contains(&place)
            {
                *step = Step::AskInVain(place);
            }
        }
        self
    }
}

impl Plan {
    /// A calm world with one steered address, for scenarios.
    #[must_use]
    pub fn calm(workers: u32, releases: Vec<Release>) -> Self {
        Self {
            seed: 0,
            settings: Settings {
                workers,
                ..Settings::default()
            },
            places: vec![AddressKind::Steered],
            releases,
            requests: Vec::new(),
            faults: Faults::default(),
            load: 0,
            latency: 0,
            horizon: 0,
            outage: None,
        }
    }

    #[must_use]
    pub fn at(mut self, seconds: f64, request: Request) -> Self {
        let at = Duration::from_secs_f64(seconds).as_millis();
        self.requests
            .push((u64::try_from(at).unwrap_or(u64::MAX), request));
        self
    }

    /// A world out of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let r = &mut random;
        let settings = settings(r);
        let places: Vec<AddressKind> = (0..r.within(1, 3))
            .map(|_| {
                r.pick(&[
                    AddressKind::Steered,
                    AddressKind::Steered,
                    AddressKind::Steered,
                    AddressKind::Path,
                    AddressKind::Single,
                ])
            })
            .collect();
        let usual: Vec<u32> = (0..places.len() as u32)
            .filter(|_| !r.chance(250))
            .collect();
        let horizon = r.within(3_000, 25_000);
        let badness = r.pick(&[0, 100, 100, 400, 700]);
        let releases = (0..r.within(1, 5))
            .map(|nth| release(r, &settings, places.len() as u32, &usual, badness, nth == 0))
            .collect();
        // Chance of its own, so that older seeds are what they were.
        let c = &mut Random::new(seed.rotate_left(17));
        let releases: Vec<Release> = releases;
        let releases = releases
            .into_iter()
            .map(|release| match c.chance(100) {
                true => {
                    let places: Vec<u32> = (0..places.len() as u32)
                        .filter(|place| c.chance(if usual.contains(place) { 900 } else { 200 }))
                        .collect();
                    release.confined_to(&places)
                }
                false => release,
            })
            .collect();
        let requests = (0..r.within(0, 6))
            .map(|_| (r.below(horizon), request(r)))
            .collect();
        let is_faulty = r.chance(400);
        let mut rate = |most: u64| {
            if is_faulty && r.chance(400) {
                r.within(1, most)
            } else {
                0
            }
        };
        let faults = Faults {
            spawn_fails: rate(200),
            open_fails: rate(200),
            steer_fails: rate(400),
            steers_that_fail: Vec::new(),
            is_steering_refused: rate(1000) > 700,
            late_handshakes: rate(300),
            long_connections: rate(200),
            slow_deaths: rate(300),
        };
        Self {
            seed,
            settings,
            places,
            releases,
            requests,
            faults,
            // A canary's errors take many connections to show.
            load: match r.chance(40) {
                true => 20,
                false => r.pick(&[0, 50, 200, 200, 500]),
            },
            latency: r.pick(&[0, 5, 50, 300]),
            horizon,
            outage: r.chance(200).then(|| {
                let from = r.below(horizon);
                (from, from + r.within(500, 8_000))
            }),
        }
    }
}

fn settings(r: &mut Random) -> Settings {
    let ms = Duration::from_millis;
    let backoff_max = r.pick(&[1_000, 30_000]);
    // A row of failures must come to an end: by the intensity, or by waits beyond 5 s.
    let within = if backoff_max < 5_000 { 60_000 } else { 10_000 };
    let max_surge = r.pick(&[
        Surge::Percent(100),
        Surge::Percent(100),
        Surge::Percent(25),
        Surge::Percent(50),
        Surge::Workers(1),
    ]);
    // Each batch waits for the drains of the one before.
    let longest_drain = match max_surge {
        Surge::Percent(100) => 100_000,
        Surge::Percent(_) | Surge::Workers(_) => 10_000,
    };
    Settings {
        workers: u32::try_from(r.within(1, 4)).unwrap_or(1),
        ready: r.pick(&[
            ReadyRules::LISTENING,
            ReadyRules::LISTENING,
            ReadyRules::MESSAGE,
            ReadyRules::ALIVE,
            ReadyRules::NOTIFY,
            ReadyRules::PROBE,
            ReadyRules::PROBE,
            ReadyRules::PROBE,
            ReadyRules {
                message: true,
                ..ReadyRules::PROBE
            },
        ]),
        probe: ProbeRule {
            interval: ms(r.pick(&[50, 250])),
            successes: r.pick(&[1, 1, 2]),
        },
        ready_timeout: ms(r.pick(&[1_000, 3_000])),
        min_uptime: ms(r.pick(&[0, 200, 2_000])),
        max_surge,
        canary: r.chance(300).then(|| canary(r)),
        probation: ms(r.pick(&[0, 0, 0, 1_000, 6_000])),
        health: HealthRule {
            interval: r.pick(&[None, None, None, Some(ms(2_000)), Some(ms(10_000))]),
            failures: r.pick(&[1, 2, 3]),
            unresponsive: r.pick(&[None, Some(ms(1_500)), Some(ms(4_000))]),
        },
        distribution: r.pick(&[
            Distribution::Spread,
            Distribution::Spread,
            Distribution::Shared,
        ]),
        settle: ms(r.pick(&[0, 100, 1_000])),
        drain_timeout: ms(r.pick(&[500, 10_000, longest_drain])),
        drain_generations: u32::try_from(r.within(1, 3)).unwrap_or(1),
        stop_timeout: ms(r.pick(&[300, 2_000, 8_000])),
        stop_delay: ms(r.pick(&[0, 0, 0, 1_500])),
        max_age: r.pick(&[None, None, Some(ms(4_000))]),
        kill_after: ms(r.pick(&[100, 2_000])),
        backoff_min: ms(100),
        backoff_max: ms(backoff_max),
        intensity: Intensity {
            restarts: u32::try_from(r.within(1, 6)).unwrap_or(1),
            within: ms(within),
        },
        give_up: r.pick(&[GiveUp::Stay, GiveUp::Exit]),
    }
}

fn canary(r: &mut Random) -> Canary {
    Canary {
        percent: r.pick(&[1, 10, 50, 99]),
        lasts: Duration::from_millis(r.pick(&[500, 3_000, 8_000])),
        max_errors: r.pick(&[0, 10, 100]),
    }
}

fn request(r: &mut Random) -> Request {
    let small = u32::try_from(r.below(5)).unwrap_or(0);
    match r.below(30) {
        0..=8 => Request::Reload,
        20 => Request::Pause,
        21..=23 => Request::Rollback,
        24..=25 => Request::Promote,
        26 => Request::Restart,
        27 => Request::ReloadWith(CanaryChoice::Off),
        28 => Request::ReloadWith(CanaryChoice::With(canary(r))),
        9..=10 => Request::Scale(Scale::To(small)),
        11 => Request::Scale(Scale::Up(small)),
        12 => Request::Scale(Scale::Down(small)),
        13..=16 => Request::Murder(small),
        17 => Request::MurderAll,
        18 => Request::Stop,
        _ => Request::Kill,
    }
}

fn release(
    r: &mut Random,
    settings: &Settings,
    places: u32,
    usual: &[u32],
    badness: u64,
    is_first: bool,
) -> Release {
    let prepare = match r.below(if is_first { 200 } else { 30 }) {
        0 => Prepare::Fails,
        1 => Prepare::Hangs,
        found => Prepare::Found {
            changed: found <= 6,
            is_cold: r.chance(200),
        },
    };
    let boot = r.within(5, 800);
    let is_bad = r.chance(badness);
    let errors = r.pick(&[0, 0, 0, 0, 0, 0, 0, 50, 500]);
    let scripts = (0..r.within(1, 6))
        .map(|_| {
            let is_bad = if is_bad { r.chance(600) } else { r.chance(40) };
            let mut script = script(r, settings, places, usual, boot, is_bad);
            script.errors = script.errors.max(errors);
            script
        })
        .collect();
    Release {
        prepare,
        listen: Vec::new(),
        scripts,
    }
}

fn script(
    r: &mut Random,
    settings: &Settings,
    places: u32,
    usual: &[u32],
    boot: u64,
    is_bad: bool,
) -> Script {
    let boot = boot + r.below(200);
    let mut script = Script::listening(boot, usual);
    let ready_timeout = u64::try_from(settings.ready_timeout.as_millis()).unwrap_or(1);
    let ready_at = boot + r.below(ready_timeout);
    if settings.ready.message || r.chance(100) {
        script.steps.push((ready_at, Step::SayReady));
    }
    if settings.ready.notify {
        script.steps.push((ready_at, Step::Notify));
    }
    if r.chance(500) {
        // Before its servers, as a preload does.
        script.steps.insert(1, (boot, Step::Preload));
    }
    if r.chance(50) {
        script.steps.push((boot + r.within(100, 3_000), Step::Grow));
    }
    if r.chance(150) {
        script.on_disconnect = r.pick(&[OnDisconnect::Lingers, OnDisconnect::Ignores]);
    }
    if r.chance(300) {
        script.on_stop = r.pick(&[
            OnStop::Finishes(50),
            OnStop::Finishes(1_000),
            OnStop::Ignores,
        ]);
    }
    let place = u32::try_from(r.below(u64::from(places))).unwrap_or(0);
    let later = boot + r.below(10_000);
    // Oddities that a good app may have.
    match r.below(12) {
        0 => script.steps.push((later, Step::Ask(place))),
        1 => {
            script.steps.push((later, Step::Close(place)));
            script
                .steps
                .push((later + r.below(8_000), Step::Ask(place)));
        }
        2 => {
            script.minds_denial = false;
            script.steps.push((later, Step::Ask(place)));
            script.steps.push((later, Step::Ask(place)));
        }
        3 => script.steps.push((later, Step::Block(r.below(5_000)))),
        4 => script.on_probe = OnProbe::FailsUntil(boot + r.below(1_500)),
        5 => script.on_probe = OnProbe::FailsBetween(later, later + r.below(6_000)),
        6 => script.errors = r.within(1, 100),
        _ => {}
    }
    if !is_bad {
        return script;
    }
    match r.below(17) {
        12 => script.on_probe = OnProbe::FailsFrom(r.pick(&[0, later])),
        13 => script.on_probe = r.pick(&[OnProbe::Hangs, OnProbe::Unsteerable]),
        14 => script.errors = 1_000,
        15 => script.steps.push((later, Step::Block(30_000))),
        16 => script
            .steps
            .push((boot + r.below(1_000), Step::Block(30_000))),
        0 => script.steps = vec![(boot, Step::Exit(ExitStatus::Code(1)))],
        1 => script
            .steps
            .push((boot, Step::Exit(ExitStatus::Signal(11)))),
        2 => script
            .steps
            .push((ready_at + 1, Step::Exit(ExitStatus::Code(0)))),
        3 => script.steps.push((later, Step::Exit(ExitStatus::Code(1)))),
        4 => script.steps.retain(|(_, step)| *step == Step::Attach),
        5 => script.steps.retain(|(_, step)| *step != Step::Ask(place)),
        6 => script.steps = Vec::new(),
        7 => script.steps = vec![(boot, Step::Attach), (boot, Step::Wrap)],
        8 => script.steps.push((later, Step::CloseChannel)),
        9 => script.steps.push((boot, Step::CloseChannel)),
        10 => {
            script.dies_at_accept = Some(u32::try_from(r.within(1, 3)).unwrap_or(1));
        }
        _ => script
            .steps
            .retain(|(_, step)| !matches!(step, Step::SayReady | Step::Notify)),
    }
    script
}
