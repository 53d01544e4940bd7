//! Steering programs, run by an interpreter: who is chosen, how often, and that nobody else ever is.

mod interpreter;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use interpreter::{Packet, run, verify};
use proptest::prelude::*;
use segue_wire::steering::{
    INSTRUCTION_LIMIT, Instruction, Probe, Steering, SteeringError, WEIGHT_LIMIT, syn_drop,
};

fn program(set: &[(u16, u32)]) -> Vec<Instruction> {
    let steering = Steering::new(set).expect("a possible set");
    let program = steering.program().expect("a short program");
    verify(&program).expect("a program that the kernel takes");
    program
}

/// How often each index is returned while the number that decides goes through `0..numbers`.
fn shares(program: &[Instruction], numbers: u32) -> BTreeMap<u32, u32> {
    let mut shares = BTreeMap::new();
    for number in 0..numbers {
        *shares
            .entry(run(program, &Packet::numbered(number)))
            .or_default() += 1;
    }
    shares
}

fn packet(source: &str, random: u32) -> Packet {
    let source: SocketAddr = source.parse().expect("an address");
    let mut network = match source {
        SocketAddr::V4(source) => {
            let mut header = vec![0; 20];
            header[0] = 0x45;
            header[12..16].copy_from_slice(&source.ip().octets());
            header
        }
        SocketAddr::V6(source) => {
            let mut header = vec![0; 40];
            header[0] = 0x60;
            header[8..24].copy_from_slice(&source.ip().octets());
            header
        }
    };
    network.extend(source.port().to_be_bytes());
    network.resize(network.len() + 18, 0);
    Packet {
        network,
        data: Vec::new(),
        random,
    }
}

#[test]
fn common_sets_are_short() {
    let check = |set: &[(u16, u32)], length| assert_eq!(program(set).len(), length, "{set:?}");
    check(&[(0, 1)], 1);
    check(&[(9, 5)], 1);
    check(&[(0, 1), (1, 1)], 9);
    check(&[(4, 1), (5, 1), (6, 1), (7, 1)], 10);
    check(&[(7, 3), (5, 3), (4, 3), (6, 3)], 10);
    check(&[(0, 1), (1, 1), (3, 1)], 11);
    check(&[(0, 9), (1, 1)], 5);
}

#[test]
fn weights_are_respected() {
    let check = |set: &[(u16, u32)]| {
        let sum = set.iter().map(|(_, weight)| weight).sum();
        let expected = set
            .iter()
            .map(|(index, weight)| (u32::from(*index), *weight))
            .collect();
        assert_eq!(shares(&program(set), sum), expected, "{set:?}");
    };
    check(&[(3, 7)]);
    check(&[(0, 90), (1, 10)]);
    check(&[(0, 2), (1, 2), (2, 2), (3, 1), (4, 1), (8, 5)]);
    check(&[(1, 3), (2, 3), (10, 4), (11, 4), (12, 4)]);
    check(&[(0, 2), (u16::MAX, 1)]);
}

#[test]
fn a_client_goes_round_the_workers() {
    let program = program(&[(4, 1), (5, 1), (6, 1)]);
    for host in ["127.0.0.1", "[fd00::1]"] {
        let chosen: Vec<u32> = (0..6)
            .map(|nth| {
                let source = format!("{host}:{}", 40_000 + 2 * nth);
                run(&program, &packet(&source, 0))
            })
            .collect();
        assert_eq!(chosen, [6, 4, 5, 6, 4, 5], "{host}");
    }
}

#[test]
fn impossible_sets_are_refused() {
    let check = |set: &[(u16, u32)], error| assert_eq!(Steering::new(set), Err(error), "{set:?}");
    check(&[], SteeringError::Empty);
    check(&[(0, 1), (4, 0)], SteeringError::ZeroWeight { index: 4 });
    check(&[(4, 1), (0, 1), (4, 2)], SteeringError::Twice { index: 4 });
    check(
        &[(0, WEIGHT_LIMIT), (1, 1)],
        SteeringError::TooHeavy {
            sum: u64::from(WEIGHT_LIMIT) + 1,
        },
    );
    let scattered: Vec<_> = (0..u16::MAX).step_by(2).map(|index| (index, 1)).collect();
    assert!(matches!(
        Steering::new(&scattered).unwrap().program(),
        Err(SteeringError::TooLong { .. })
    ));
}

#[test]
fn a_thousand_scattered_sockets_fit() {
    for weights in [[1, 1], [1, 2], [7, 3]] {
        let set: Vec<(u16, u32)> = (0..1024)
            .map(|n| (n * 2, weights[usize::from(n % 2)]))
            .collect();
        let program = program(&set);
        assert!(program.len() <= INSTRUCTION_LIMIT);
        assert!(
            program.iter().any(|instruction| instruction.code == 0x05),
            "long jumps are tried"
        );
        let sum = set.iter().map(|(_, weight)| weight).sum();
        let expected = set
            .iter()
            .map(|(index, weight)| (u32::from(*index), *weight))
            .collect();
        assert_eq!(shares(&program, sum), expected);
    }
}

#[test]
fn the_probe_goes_where_it_is_sent_and_nobody_else_does() {
    let check = |probe: &str, others: &[&str]| {
        let source = probe.parse().unwrap();
        let steering = Steering::new(&[(0, 2), (1, 1)]).unwrap();
        let program = steering
            .with_probe(Probe { source, index: 9 })
            .program()
            .unwrap();
        verify(&program).unwrap();
        for random in 0..6 {
            assert_eq!(run(&program, &packet(probe, random)), 9);
            for other in others {
                assert_eq!(
                    run(&program, &packet(other, random)),
                    random % 3 / 2,
                    "{other}"
                );
            }
            assert_eq!(
                run(
                    &program,
                    &Packet {
                        random,
                        network: vec![0x50],
                        ..Packet::default()
                    }
                ),
                random % 3 / 2
            );
        }
    };
    check(
        "127.0.0.7:4000",
        &[
            "127.0.0.7:4001",
            "127.0.0.8:4000",
            "[::1]:4000",
            "[::7f00:7]:4000",
        ],
    );
    check(
        "[fd00::1:2:3]:4000",
        &[
            "[fd00::1:2:3]:4001",
            "[fd00::1:2:4]:4000",
            "[fd01::1:2:3]:4000",
            "127.0.0.7:4000",
        ],
    );
}

#[test]
fn only_beginnings_are_dropped() {
    let filter = syn_drop();
    verify(&filter).unwrap();
    for flags in 0..=u8::MAX {
        let mut data = vec![0; 20];
        data[13] = flags;
        let begins = flags & 0x02 != 0 && flags & 0x10 == 0;
        let kept = run(
            &filter,
            &Packet {
                data,
                ..Packet::default()
            },
        );
        assert_eq!(kept, if begins { 0 } else { u32::MAX }, "{flags:#010b}");
    }
}

fn sets() -> impl Strategy<Value = BTreeMap<u16, u32>> {
    let weight = prop_oneof![4 => Just(1u32), 2 => 1..5u32, 1 => 1..2000u32];
    let index = prop_oneof![3 => 0..64u16, 1 => any::<u16>()];
    proptest::collection::btree_map(index, weight, 1..200)
}

proptest! {
    #[test]
    fn exactly_the_members_are_chosen(set in sets(), randoms in proptest::collection::vec(any::<u32>(), 64)) {
        let members: Vec<(u16, u32)> = set.iter().map(|(index, weight)| (*index, *weight)).collect();
        let program = program(&members);
        for random in randoms {
            let chosen = run(&program, &Packet::numbered(random));
            prop_assert!(u16::try_from(chosen).is_ok_and(|index| set.contains_key(&index)));
        }
        let sum: u32 = set.values().sum();
        let expected: BTreeMap<u32, u32> = set.iter().map(|(index, weight)| (u32::from(*index), *weight)).collect();
        let seen = shares(&program, sum);
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn a_probe_changes_nothing_for_others(set in sets(), v6: bool, random: u32) {
        let members: Vec<(u16, u32)> = set.iter().map(|(index, weight)| (*index, *weight)).collect();
        let source = if v6 { "[::1]:1" } else { "127.0.0.1:1" };
        let steering = Steering::new(&members).unwrap();
        let plain = steering.program().unwrap();
        let probed = steering.with_probe(Probe { source: source.parse().unwrap(), index: 77 }).program().unwrap();
        verify(&probed).unwrap();
        for other in ["[::1]:2", "127.0.0.1:2", "[::2]:1", "127.0.0.2:1"] {
            let packet = packet(other, random);
            prop_assert_eq!(run(&probed, &packet), run(&plain, &packet));
        }
        prop_assert_eq!(run(&probed, &packet(source, random)), 77);
    }
}
