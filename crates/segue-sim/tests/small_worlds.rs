//! The same properties over plans that proptest makes, and cuts down when one fails.

#![forbid(unsafe_code)]

use std::time::Duration;

use proptest::prelude::*;
use segue_core::{
    AddressKind, Canary, Distribution, ExitStatus, HealthRule, ReadyRules, Scale, Settings, Surge,
};
use segue_sim::{
    Faults, OnDisconnect, OnProbe, OnStop, Plan, Prepare, Release, Request, Script, Step, run,
};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..2).prop_map(Step::Ask),
        2 => Just(Step::SayReady),
        1 => (0_u32..2).prop_map(Step::Close),
        1 => (0_u64..3_000).prop_map(Step::Block),
        1 => Just(Step::CloseChannel),
        1 => Just(Step::Exit(ExitStatus::Code(1))),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    (
        10_u64..800,
        prop::collection::vec((0_u64..5_000, step()), 0..3),
        prop::option::weighted(0.1, 1_u32..4),
        prop_oneof![
            Just(OnDisconnect::Finishes),
            Just(OnDisconnect::Lingers),
            Just(OnDisconnect::Ignores)
        ],
        prop_oneof![
            Just(OnStop::Dies),
            Just(OnStop::Finishes(300)),
            Just(OnStop::Ignores)
        ],
        any::<bool>(),
        prop_oneof![
            4 => Just(OnProbe::Passes),
            1 => (0_u64..3_000).prop_map(OnProbe::FailsUntil),
            1 => (0_u64..9_000).prop_map(OnProbe::FailsFrom),
            1 => Just(OnProbe::Hangs),
        ],
        prop_oneof![4 => Just(0_u64), 1 => Just(500_u64)],
    )
        .prop_map(
            |(
                boot,
                steps,
                dies_at_accept,
                on_disconnect,
                on_stop,
                minds_denial,
                on_probe,
                errors,
            )| {
                let mut script = Script::listening(boot, &[0]).then(boot, Step::SayReady);
                script.steps.extend(steps);
                Script {
                    dies_at_accept,
                    on_disconnect,
                    on_stop,
                    minds_denial,
                    on_probe,
                    errors,
                    ..script
                }
            },
        )
}

fn release() -> impl Strategy<Value = Release> {
    (
        prop_oneof![
            8 => Just(Prepare::Found { changed: false, is_cold: false }),
            1 => Just(Prepare::Found { changed: true, is_cold: true }),
            1 => Just(Prepare::Fails),
        ],
        prop::collection::vec(script(), 1..4),
    )
        .prop_map(|(prepare, scripts)| Release {
            prepare,
            listen: Vec::new(),
            scripts,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => Just(Request::Reload),
        1 => Just(Request::Promote),
        2 => Just(Request::Rollback),
        1 => Just(Request::Restart),
        2 => (1_u32..4).prop_map(|to| Request::Scale(Scale::To(to))),
        2 => (0_u32..4).prop_map(Request::Murder),
        1 => Just(Request::MurderAll),
        1 => Just(Request::Stop),
        4 => (0_u32..2).prop_map(Request::Connect),
    ]
}

fn kind() -> impl Strategy<Value = AddressKind> {
    prop_oneof![
        3 => Just(AddressKind::Steered),
        1 => Just(AddressKind::Path),
        1 => Just(AddressKind::Single),
    ]
}

prop_compose! {
    fn plan()(
        seed in any::<u64>(),
        workers in 1_u32..4,
        ready in prop_oneof![
            Just(ReadyRules::LISTENING),
            Just(ReadyRules::MESSAGE),
            Just(ReadyRules::ALIVE),
            Just(ReadyRules::PROBE)
        ],
        distribution in prop_oneof![Just(Distribution::Spread), Just(Distribution::Shared)],
        settle in 0_u64..1_500,
        places in prop::collection::vec(kind(), 2),
        releases in prop::collection::vec(release(), 1..4),
        requests in prop::collection::vec((0_u64..12_000, request()), 0..6),
        steer_fails in prop_oneof![3 => Just(0), 1 => Just(200_u64)],
        late_handshakes in prop_oneof![3 => Just(0), 1 => Just(200_u64)],
        max_surge in prop_oneof![Just(Surge::Percent(100)), Just(Surge::Workers(1))],
        canary in prop::option::weighted(0.3, (1_u8..100, 500_u64..4_000).prop_map(|(percent, lasts)| Canary {
            percent,
            lasts: Duration::from_millis(lasts),
            max_errors: Canary::MAX_ERRORS,
        })),
        probation in prop_oneof![2 => Just(0), 1 => Just(3_000_u64)],
        interval in prop::option::weighted(0.3, Just(Duration::from_millis(1_500))),
        unresponsive in prop::option::weighted(0.3, Just(Duration::from_millis(1_200))),
        outage in prop::option::weighted(0.2, (1_000_u64..8_000, 500_u64..4_000).prop_map(|(from, lasts)| (from, from + lasts))),
        load in prop_oneof![Just(0_u64), Just(100)],
        latency in prop_oneof![Just(0_u64), Just(100)],
    ) -> Plan {
        Plan {
            seed,
            settings: Settings {
                workers,
                ready,
                distribution,
                max_surge,
                canary,
                probation: Duration::from_millis(probation),
                health: HealthRule {
                    interval,
                    failures: 2,
                    unresponsive,
                },
                ready_timeout: Duration::from_secs(2),
                min_uptime: Duration::from_millis(500),
                settle: Duration::from_millis(settle),
                drain_timeout: Duration::from_secs(5),
                stop_timeout: Duration::from_secs(3),
                kill_after: Duration::from_secs(1),
                ..Settings::default()
            },
            places,
            releases,
            requests,
            faults: Faults { steer_fails, late_handshakes, ..Faults::default() },
            load,
            latency,
            horizon: 12_000,
            outage,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_property_holds(plan in plan()) {
        if let Err(violation) = run(&plan, true) {
            prop_assert!(false, "{}", violation.trace.join("\n"));
        }
    }
}
