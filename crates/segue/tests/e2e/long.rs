//! The long tier: `cargo test -- --ignored`. Everything at once, again and again.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_load::{Download, Fresh, Load, Phase, Post};
use segue_wire::control::WorkerPhase;

use crate::harness::heavy;
use crate::harness::load::{Clients, render};
use crate::harness::nodes::{each_node, nodes};
use crate::harness::process::Process;
use crate::harness::run::Launch;

/// For so long; `SEGUE_TEST_MINUTES` says otherwise.
fn duration() -> Duration {
    let minutes = std::env::var("SEGUE_TEST_MINUTES")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(60 * minutes.unwrap_or(20))
}

#[test]
#[ignore = "long"]
fn reloads_broken_releases_kills_and_scaling_for_a_long_time() {
    let _turn = heavy();
    let share = duration() / u32::try_from(nodes().len()).expect("a few");
    each_node(|node| {
        let run = Launch::node("plain.js")
            .with_node(node)
            .workers("3")
            // A download outlives several of the reloads below, and none may be hurried.
            .flag("--drain-generations", "30")
            .start();
        let name = run.app().name;
        let load = Load::builder()
            .with(Fresh {
                clients: 100,
                ..Fresh::default()
            })
            .with(Post {
                clients: 10,
                fresh: true,
                ..Post::default()
            })
            .with(Download {
                clients: 4,
                over: Duration::from_secs(3),
                ..Download::default()
            });
        let clients = Clients::start(load, run.address());
        let end = Instant::now() + share;
        let mut round = 1;
        while Instant::now() < end {
            round += 1;
            let version = format!("v{round}");
            clients.mark(format!("round {round}"), Phase::Reload);
            match round % 5 {
                0 => {
                    run.roll_and_fail(&version, "throws-at-boot.js");
                }
                1 => {
                    let victim = run.ready_pids()[0];
                    clients.mark(format!("kill in round {round}"), Phase::Fault);
                    Process::open(victim)
                        .expect("a worker")
                        .signal(Signal::KILL);
                    run.until("it has a successor", |app| {
                        let ready = app
                            .workers
                            .iter()
                            .filter(|worker| worker.phase == WorkerPhase::Ready);
                        ready.filter(|worker| worker.pid != Some(victim)).count() == app.slots.len()
                    });
                }
                2 => {
                    run.segue(&["scale", &name, "+1"]).expect(0);
                    run.segue(&["scale", &name, "-1"]).expect(0);
                }
                _ => {
                    run.roll(&version, "plain.js");
                    clients.committed(&version);
                }
            }
            clients.wait_for_answers(200);
        }
        let report = clients.stop();
        eprintln!("{node}, {round} rounds: {}", render(&report));
        assert_eq!(
            report.failed(),
            report.excused(),
            "{}\n{}",
            render(&report),
            run.log.render()
        );
        assert_eq!(
            (report.stale, report.in_flight),
            (0, 0),
            "{}",
            render(&report)
        );
        run.finish();
    });
}
