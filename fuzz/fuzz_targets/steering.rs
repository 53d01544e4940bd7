//! Any set with any weights gives a program that the kernel takes and that returns members only.

#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use segue_wire::steering::{Probe, Steering};

#[path = "../../crates/segue-wire/tests/interpreter/mod.rs"]
mod interpreter;

use interpreter::{Packet, run, verify};

type Input = (Vec<(u16, u32)>, Option<(bool, u16)>, Vec<(u32, Vec<u8>)>);

fuzz_target!(|input: Input| {
    let (set, probe, packets) = input;
    let Ok(mut steering) = Steering::new(&set) else {
        return;
    };
    if let Some((v6, index)) = probe {
        let source: SocketAddr = if v6 {
            ([0; 16], 0).into()
        } else {
            ([0; 4], 0).into()
        };
        steering = steering.with_probe(Probe { source, index });
    }
    let Ok(program) = steering.program() else {
        return;
    };
    verify(&program).unwrap();

    let members: BTreeMap<u32, u32> = set.iter().map(|(i, w)| (u32::from(*i), *w)).collect();
    let probed = probe.map(|(_, index)| u32::from(index));
    for (random, mut network) in packets {
        // The kernel has pulled both headers before it runs the program.
        network.resize(network.len().max(80), 0);
        let chosen = run(
            &program,
            &Packet {
                network,
                data: Vec::new(),
                random,
            },
        );
        assert!(members.contains_key(&chosen) || Some(chosen) == probed);
    }

    let sum: u32 = members.values().sum();
    if probe.is_none() && sum <= 4096 {
        let mut shares = BTreeMap::new();
        for random in 0..sum {
            let chosen = run(&program, &Packet::numbered(random));
            *shares.entry(chosen).or_default() += 1;
        }
        assert_eq!(shares, members);
    }
});
