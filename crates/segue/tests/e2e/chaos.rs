//! Everything that can be asked of a background supervisor, in any order, while it is killed in the
//! middle of it: nothing is lost, and nothing hangs. Long tier; the seed is printed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_load::Phase;
use segue_wire::control::{App, AppPhase, Status, WorkerPhase};

use crate::background::Desk;
use crate::harness::heavy;
use crate::harness::load::render;
use crate::harness::process::Process;

/// A command, the killed supervisors in it included.
const PATIENCE: Duration = Duration::from_secs(60);

/// For so long; `SEGUE_TEST_MINUTES` says otherwise.
fn duration() -> Duration {
    let minutes = std::env::var("SEGUE_TEST_MINUTES").ok();
    let minutes = minutes.and_then(|text| text.parse().ok());
    Duration::from_secs(60 * minutes.unwrap_or(10))
}

/// Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// Every worker serves, or finishes its connections within its time.
fn is_settled(app: &App, workers: usize) -> bool {
    let phase = |wanted| app.workers.iter().filter(move |it| it.phase == wanted);
    app.phase == AppPhase::Running
        && app.reload.is_none()
        && phase(WorkerPhase::Ready).count() == workers
        && phase(WorkerPhase::Ready).count() + phase(WorkerPhase::Draining).count()
            == app.workers.len()
}

fn victim(status: &Status, name: &str) -> Option<u32> {
    let app = status.apps.iter().find(|app| app.name == name)?;
    let mut ready = app
        .workers
        .iter()
        .filter(|it| it.phase == WorkerPhase::Ready);
    ready.next()?.pid
}

/// What is done in a round: a command with the codes that it may end with.
fn command(desk: &Desk, random: &mut Random, round: u64, wanted: &mut [usize; 2]) -> Command {
    let (name, at) = match random.below(2) {
        0 => ("web", 0),
        _ => ("api", 1),
    };
    let version = format!("v{}", round + 1);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match random.below(9) {
        0..=2 => {
            desk.site.deploy(&version, "plain.js");
            Command::of(words(&["reload", name]), &[0])
        }
        3 => {
            desk.site.deploy(&version, "throws-at-boot.js");
            Command {
                turns_back: true,
                ..Command::of(words(&["reload", name]), &[1])
            }
        }
        4 => {
            wanted[at] = 1 + usize::try_from(random.below(4)).expect("small");
            let workers = wanted[at].to_string();
            Command::of(words(&["scale", name, &workers]), &[0])
        }
        5 => {
            let args = format!("args = [\"{}\"]", random.below(1000));
            desk.file_with(*wanted, &args);
            Command::of(words(&["apply"]), &[0])
        }
        6 => {
            desk.file_with(
                *wanted,
                &format!("limits.max_age = \"{}h\"", 1 + random.below(99)),
            );
            Command::of(words(&["apply"]), &[0])
        }
        // It may be in the way of itself: who took over goes on with it, or has given it up.
        _ => Command::of(words(&["upgrade"]), &[0, 1, 4]),
    }
}

struct Command {
    words: Vec<String>,
    codes: Vec<i32>,
    /// The link is to lead to where it did before.
    turns_back: bool,
}

impl Command {
    fn of(words: Vec<String>, codes: &[i32]) -> Self {
        Self {
            words,
            codes: codes.to_vec(),
            turns_back: false,
        }
    }
}

#[test]
#[ignore = "long"]
fn whatever_is_asked_and_whoever_is_killed_nothing_is_lost_and_nothing_hangs() {
    let _turn = heavy();
    let seed = std::env::var("SEGUE_TEST_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        let since = now
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        u64::from(since.subsec_nanos())
    });
    eprintln!("SEGUE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let desk = Desk::new();
    let mut wanted = [2, 2];
    desk.file_with(wanted, "");
    desk.segue(&["start"]).expect(0);
    let clients = [desk.load(desk.web()), desk.load(desk.api())];
    let end = Instant::now() + duration();
    let mut round = 0;
    let mut last = "v1".to_owned();
    let mut killed = std::collections::BTreeMap::new();
    while Instant::now() < end {
        round += 1;
        let asked = command(&desk, &mut random, round, &mut wanted);
        let words: Vec<&str> = asked.words.iter().map(String::as_str).collect();
        let status = desk.status();
        let pending = desk.begin(&words);
        let fault = random.below(6);
        std::thread::sleep(random.millis(600));
        let (who, target) = match fault {
            0 | 1 => ("supervisor", Some(status.supervisor.pid)),
            2 => ("main process", status.supervisor.keeper_pid),
            3 => {
                for clients in &clients {
                    clients.mark(format!("kill in round {round}"), Phase::Fault);
                }
                ("worker", victim(&status, "web"))
            }
            _ => ("nobody", None),
        };
        if let Some(process) = target.and_then(Process::open) {
            process.signal(Signal::KILL);
            *killed.entry(who).or_insert(0) += 1;
        }
        let outcome = pending.wait(PATIENCE);
        let code = outcome.code.expect("it exits");
        assert!(
            asked.codes.contains(&code),
            "round {round}, {words:?} with {who} killed ended with {code}:\n{}\n{}",
            outcome.out,
            outcome.err
        );
        if asked.turns_back {
            desk.site.turn(&last);
        } else if words.first() == Some(&"reload") {
            last = format!("v{}", round + 1);
        }
        desk.until("all is well again", |status| {
            let apps = ["web", "api"].into_iter().zip(wanted);
            apps.into_iter().all(|(name, workers)| {
                let app = status.apps.iter().find(|app| app.name == name);
                app.is_some_and(|app| is_settled(app, workers))
            })
        });
        for clients in &clients {
            clients.mark(format!("after round {round}"), Phase::Reload);
            clients.wait_for_answers(50);
        }
    }
    for clients in clients {
        let report = clients.stop();
        eprintln!("{round} rounds, killed {killed:?}: {}", render(&report));
        assert_eq!(report.failed(), report.excused(), "{}", render(&report));
    }
    desk.segue(&["shutdown"]).expect(0);
}
