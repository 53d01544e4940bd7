//! Cuts a failing plan down to what it needs to fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use segue_core::{ReadyRules, Surge};

use crate::plan::{Faults, OnDisconnect, OnProbe, OnStop, Plan};
use crate::world::{Report, Violation, run};

/// Runs a plan; a panic of the core is a violation like any other.
pub fn attempt(plan: &Plan, is_traced: bool) -> Result<Report, Violation> {
    catch_unwind(AssertUnwindSafe(|| run(plan, is_traced))).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic".into());
        let trace = Vec::new();
        Err(Violation { what, trace })
    })
}

/// The smallest plan found by leaving things out that still fails.
#[must_use]
pub fn shrink(mut plan: Plan) -> Plan {
    loop {
        let Some(smaller) = simpler(&plan)
            .into_iter()
            .find(|candidate| attempt(candidate, false).is_err())
        else {
            return plan;
        };
        plan = smaller;
    }
}

/// Plans with one thing less, the largest cuts first.
fn simpler(plan: &Plan) -> Vec<Plan> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut candidate = plan.clone();
        change(&mut candidate);
        if format!("{candidate:?}") != format!("{plan:?}") {
            found.push(candidate);
        }
    };
    with(&|plan| plan.load = 0);
    with(&|plan| plan.horizon /= 2);
    with(&|plan| plan.latency = 0);
    with(&|plan| plan.outage = None);
    with(&|plan| plan.settings.canary = None);
    with(&|plan| plan.settings.probation = Duration::ZERO);
    with(&|plan| plan.settings.max_surge = Surge::Percent(100));
    with(&|plan| plan.settings.health.interval = None);
    with(&|plan| plan.settings.health.unresponsive = None);
    with(&|plan| plan.settings.max_age = None);
    with(&|plan| plan.settings.ready = ReadyRules::LISTENING);
    with(&|plan| plan.faults = Faults::default());
    with(&|plan| plan.faults.spawn_fails = 0);
    with(&|plan| plan.faults.open_fails = 0);
    with(&|plan| plan.faults.steer_fails = 0);
    with(&|plan| plan.faults.late_handshakes = 0);
    with(&|plan| plan.faults.long_connections = 0);
    with(&|plan| plan.faults.slow_deaths = 0);
    with(&|plan| plan.faults.is_steering_refused = false);
    with(&|plan| plan.settings.workers = (plan.settings.workers - 1).max(1));
    for nth in 0..plan.requests.len() {
        with(&|plan| {
            plan.requests.remove(nth);
        });
    }
    for release in 0..plan.releases.len() {
        if plan.releases.len() > 1 {
            with(&|plan| {
                plan.releases.remove(release);
            });
        }
        for script in 0..plan.releases[release].scripts.len() {
            if plan.releases[release].scripts.len() > 1 {
                with(&|plan| {
                    plan.releases[release].scripts.remove(script);
                });
            }
            with(&|plan| plan.releases[release].scripts[script].on_stop = OnStop::Dies);
            with(&|plan| {
                plan.releases[release].scripts[script].on_disconnect = OnDisconnect::Finishes;
            });
            with(&|plan| plan.releases[release].scripts[script].dies_at_accept = None);
            with(&|plan| plan.releases[release].scripts[script].on_probe = OnProbe::Passes);
            with(&|plan| plan.releases[release].scripts[script].errors = 0);
            for step in 0..plan.releases[release].scripts[script].steps.len() {
                with(&|plan| {
                    plan.releases[release].scripts[script].steps.remove(step);
                });
            }
        }
    }
    found
}
