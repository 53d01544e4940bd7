//! An app in one line, for `systemctl status`.

use segue_core::{AppPhase, AppView, Generation, WorkerPhase, WorkerView};

use super::told::Phase;

/// Whether the app has come as far as its first start brings it: every worker is ready, or is one
/// that fails while others serve.
pub(crate) fn is_up(view: &AppView) -> bool {
    let is_ready = |slot: &segue_core::SlotView| {
        view.workers
            .iter()
            .any(|worker| Some(worker.worker) == slot.worker && worker.phase == WorkerPhase::Ready)
    };
    match view.phase {
        AppPhase::Starting => {
            let slots = || view.slots.iter();
            slots().any(is_ready) && slots().all(|slot| is_ready(slot) || slot.restarts > 0)
        }
        AppPhase::Running | AppPhase::Paused => true,
        AppPhase::Stopping | AppPhase::Finished => false,
    }
}

/// What goes on, in words. `addresses` are names, in the order of the view's; `failed` is what came of
/// the last reload, if that was nothing.
pub(crate) fn line(
    app: &str,
    view: &AppView,
    phase: Phase,
    addresses: &[String],
    failed: Option<&str>,
) -> String {
    let slots = view.slots.len();
    let serving = workers(view, view.serving);
    let places = match addresses {
        [] => String::new(),
        addresses => format!(" at {}", addresses.join(", ")),
    };
    let mut line = match (phase, view.reload) {
        (Phase::Starting, _) => format!("{app} starts: {serving} of {slots} workers ready"),
        (Phase::Stopping, _) => match view.workers.len() {
            0 => format!("{app} stops"),
            1 => format!("{app} stops: 1 worker is left"),
            left => format!("{app} stops: {left} workers are left"),
        },
        (Phase::Reloading(_), Some(reload)) => format!(
            "{app} reloads: {} of {slots} workers of generation {} ready; generation {} serves{places}",
            workers(view, reload.generation),
            reload.generation.0,
            view.serving.0
        ),
        (Phase::Reloading(_) | Phase::Running, _) if view.phase == AppPhase::Paused => {
            format!("{app} is paused: clients wait for a reload{places}")
        }
        (Phase::Reloading(_) | Phase::Running, _) => {
            let count = match (serving, slots) {
                (1, 1) => "1 worker".to_owned(),
                (ready, slots) if ready == slots => format!("{ready} workers"),
                (ready, slots) => format!("{ready} of {slots} workers"),
            };
            let does = if serving == 0 {
                "does not serve"
            } else {
                "serves"
            };
            format!(
                "{app} {does}: {count} of generation {}{places}",
                view.serving.0
            )
        }
    };
    if phase == Phase::Running {
        let is_leaving = |worker: &&WorkerView| match worker.phase {
            WorkerPhase::Booting | WorkerPhase::Ready => false,
            WorkerPhase::Quiet
            | WorkerPhase::Draining
            | WorkerPhase::Stopping
            | WorkerPhase::Killed => true,
        };
        match view.workers.iter().filter(is_leaving).count() {
            0 => {}
            1 => line.push_str("; 1 worker drains"),
            leaving => line.push_str(&format!("; {leaving} workers drain")),
        }
        let names = view.addresses.iter().zip(addresses);
        for (_, name) in names.filter(|(address, _)| address.refusing) {
            line.push_str(&format!("; refuses connections at {name}"));
        }
        match view.slots.iter().filter(|slot| slot.given_up).count() {
            0 => {}
            count => line.push_str(&format!("; {count} given up")),
        }
    }
    if let Some(failed) = failed {
        line.push_str(&format!("; {failed}"));
    }
    line
}

/// How many of a generation are ready.
fn workers(view: &AppView, generation: Generation) -> usize {
    let is_ready = |worker: &&WorkerView| {
        worker.generation == generation && worker.phase == WorkerPhase::Ready
    };
    view.workers.iter().filter(is_ready).count()
}

#[cfg(test)]
mod tests {
    use segue_core::{
        AddressId, AddressView, ReloadId, ReloadStep, ReloadView, SlotId, SlotView, Time, WorkerId,
    };

    use super::*;

    /// Each worker by its slot, generation and phase; the last one of a slot is the slot's.
    fn view(phase: AppPhase, slots: u32, workers: &[(u32, u32, WorkerPhase)]) -> AppView {
        let workers = (1..)
            .zip(workers)
            .map(|(id, &(slot, generation, phase))| WorkerView {
                worker: WorkerId(id),
                slot: SlotId(slot),
                generation: Generation(generation),
                phase,
                since: Time(0),
                until: None,
                blocked_since: None,
                failing: None,
                is_unhealthy: false,
            });
        let workers: Vec<_> = workers.collect();
        let slot = |slot| SlotView {
            slot: SlotId(slot),
            worker: workers
                .iter()
                .rev()
                .find(|worker| worker.slot == SlotId(slot))
                .map(|worker| worker.worker),
            restarts: 0,
            given_up: false,
            respawn_at: None,
        };
        AppView {
            phase,
            serving: Generation(1),
            previous: None,
            is_health_shared: false,
            reload: None,
            slots: (0..slots).map(slot).collect(),
            addresses: vec![AddressView {
                address: AddressId(0),
                sockets: 2,
                set: Vec::new(),
                serving: Vec::new(),
                steered: true,
                refusing: false,
            }],
            workers,
        }
    }

    fn check(view: &AppView, phase: Phase, expected: &str) {
        let addresses = ["[::]:80".to_owned()];
        assert_eq!(line("web", view, phase, &addresses, None), expected);
    }

    #[test]
    fn each_phase_in_words() {
        use WorkerPhase::{Booting, Draining, Ready};
        let starting = view(AppPhase::Starting, 2, &[(0, 1, Ready), (1, 1, Booting)]);
        check(
            &starting,
            Phase::Starting,
            "web starts: 1 of 2 workers ready",
        );
        let mut running = view(AppPhase::Running, 2, &[(0, 1, Ready), (1, 1, Ready)]);
        check(
            &running,
            Phase::Running,
            "web serves: 2 workers of generation 1 at [::]:80",
        );
        running.reload = Some(ReloadView {
            reload: ReloadId(1),
            generation: Generation(2),
            since: Time(0),
            step: ReloadStep::Proving,
            step_since: Time(0),
            until: None,
            canary: None,
        });
        check(
            &running,
            Phase::Reloading(ReloadId(1)),
            "web reloads: 0 of 2 workers of generation 2 ready; generation 1 serves at [::]:80",
        );
        check(&running, Phase::Stopping, "web stops: 2 workers are left");
        let mut worse = view(
            AppPhase::Running,
            3,
            &[(0, 1, Ready), (1, 1, Draining), (1, 1, Draining)],
        );
        worse.addresses[0].refusing = true;
        worse.slots[2].given_up = true;
        check(
            &worse,
            Phase::Running,
            "web serves: 1 of 3 workers of generation 1 at [::]:80; 2 workers drain; refuses connections at [::]:80; 1 given up",
        );
        let paused = view(AppPhase::Paused, 2, &[(0, 1, Draining)]);
        check(
            &paused,
            Phase::Running,
            "web is paused: clients wait for a reload at [::]:80; 1 worker drains",
        );
        let alone = view(AppPhase::Running, 1, &[(0, 1, Ready)]);
        assert_eq!(
            line("web", &alone, Phase::Running, &[], Some("reload 3 failed")),
            "web serves: 1 worker of generation 1; reload 3 failed"
        );
        let nobody = view(AppPhase::Running, 1, &[(0, 1, Booting)]);
        assert_eq!(
            line("web", &nobody, Phase::Running, &[], None),
            "web does not serve: 0 of 1 workers of generation 1"
        );
    }

    #[test]
    fn a_worker_that_keeps_failing_does_not_keep_the_others_from_being_up() {
        use WorkerPhase::{Booting, Ready};
        let mut some = view(AppPhase::Starting, 2, &[(0, 1, Ready), (1, 1, Booting)]);
        assert!(!is_up(&some), "it may be slow");
        some.slots[1].restarts = 1;
        assert!(is_up(&some));
        some.workers[0].phase = Booting;
        assert!(!is_up(&some));
        assert!(is_up(&view(AppPhase::Running, 1, &[])));
        assert!(!is_up(&view(AppPhase::Starting, 0, &[])));
        assert!(!is_up(&view(AppPhase::Stopping, 1, &[(0, 1, Ready)])));
    }
}
