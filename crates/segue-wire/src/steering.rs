//! The program that says which socket of an SO_REUSEPORT group gets a new connection, and the
//! one that lets no connection begin: classic BPF, assembled here, attached elsewhere.
//!
//! ```text
//!   a probe's own address and port? ──yes──▶ the worker under test
//!            │ no
//!   r = number mod (sum of weights)       number: the client's port / 2, or with unequal
//!            │                                    weights a random one
//!   binary search over runs of neighbouring sockets with equal weights ──▶ index
//! ```
//!
//! Ports rather than chance, because a host gives successive connections to one place successive
//! even ports (`__inet_hash_connect`): the connections of a load balancer, or of any other single
//! client, then go round the workers in turn, and many clients' mix as well as random numbers do.
//!
//! The kernel hashes over *all* sockets of a group when a program returns an index out of range,
//! sockets that nobody serves included. So a program returns members of the set and nothing else,
//! whatever the packet; the caller keeps the set within the group. Facts: `net/core/filter.c`,
//! `net/core/sock_reuseport.c`, `include/uapi/linux/{bpf_common,filter}.h`.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// BPF_MAXINSNS: the kernel takes no longer program.
pub const INSTRUCTION_LIMIT: usize = 4096;

/// Largest sum of weights, 2^24. The share of a socket is wrong by at most this part of 2^32 of
/// itself, because 2^32 random numbers do not divide evenly.
pub const WEIGHT_LIMIT: u32 = 1 << 24;

/// One instruction, as `struct sock_filter` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Who gets new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    runs: Vec<Run>,
    probes: Vec<Probe>,
}

/// Connections from exactly this address and port go to exactly this socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub source: SocketAddr,
    pub index: u16,
}

/// Why a set cannot be steered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SteeringError {
    #[error("no socket to steer to: a set has at least one")]
    Empty,
    #[error("socket {index} has weight 0: leave it out of the set instead")]
    ZeroWeight { index: u16 },
    #[error("socket {index} is in the set twice: add its weights up")]
    Twice { index: u16 },
    #[error("weights sum up to {sum}, more than {WEIGHT_LIMIT}: use smaller ones")]
    TooHeavy { sum: u64 },
    #[error(
        "the program needs {instructions} instructions, the kernel takes {INSTRUCTION_LIMIT}: use fewer sockets or equal weights"
    )]
    TooLong { instructions: usize },
}

/// Neighbouring sockets `base..base + count`, each with this weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    base: u16,
    count: u32,
    weight: u32,
}

impl Run {
    fn total(self) -> u32 {
        // At most WEIGHT_LIMIT: checked for the whole set.
        self.count * self.weight
    }

    fn is_followed_by(self, index: u16, weight: u32) -> bool {
        self.weight == weight && u32::from(self.base) + self.count == u32::from(index)
    }
}

impl Steering {
    /// A set of sockets by their index in the group, with weights; in any order.
    pub fn new(set: &[(u16, u32)]) -> Result<Self, SteeringError> {
        let sum: u64 = set.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if sum > u64::from(WEIGHT_LIMIT) {
            return Err(SteeringError::TooHeavy { sum });
        }
        let unit = set
            .iter()
            .fold(0, |unit, (_, weight)| common_divisor(unit, *weight));
        let mut set = set.to_vec();
        set.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        let mut last = None;
        for (index, weight) in set {
            if weight == 0 {
                return Err(SteeringError::ZeroWeight { index });
            }
            if last.replace(index) == Some(index) {
                return Err(SteeringError::Twice { index });
            }
            let weight = weight / unit;
            match runs.last_mut() {
                Some(run) if run.is_followed_by(index, weight) => run.count += 1,
                _ => runs.push(Run {
                    base: index,
                    count: 1,
                    weight,
                }),
            }
        }
        if runs.is_empty() {
            return Err(SteeringError::Empty);
        }
        Ok(Self {
            runs,
            probes: Vec::new(),
        })
    }

    /// The same set, with a rule for one more probe before it.
    #[must_use]
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probes.push(probe);
        self
    }

    /// Assembles the program: 1 instruction for one socket, 10 or 11 for neighbours of equal weight, and
    /// 8 or 14 for each probe.
    ///
    /// The kernel charges the translated program, about twice as long at 8 bytes an instruction,
    /// against `net.core.optmem_max` (20 KiB before Linux 6.7) and says ENOMEM beyond it.
    pub fn program(&self) -> Result<Vec<Instruction>, SteeringError> {
        let rules = self.probes.iter().copied();
        let mut program: Vec<Instruction> = rules.flat_map(probe_rule).collect();
        let sum: u32 = self.runs.iter().map(|run| run.total()).sum();
        if sum > 1 {
            match self.runs.iter().all(|run| run.weight == 1) {
                true => program.extend(half_of_port()),
                // Successive numbers would come in blocks as large as a weight.
                false => program.push(plain(LOAD_WORD, RANDOM)),
            }
            program.push(plain(MODULO, sum));
        }
        program.extend(search(&self.runs, 0));
        if program.len() > INSTRUCTION_LIMIT {
            return Err(SteeringError::TooLong {
                instructions: program.len(),
            });
        }
        Ok(program)
    }
}

/// The filter for a listening TCP socket that lets no connection begin: it drops what asks for
/// one, and passes what belongs to one that has begun.
///
/// Socket filters of TCP see the packet from the TCP header on (`tcp_filter`); the flags are its
/// byte 13.
#[must_use]
pub fn syn_drop() -> Vec<Instruction> {
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    vec![
        plain(LOAD_BYTE, 13),
        plain(AND, SYN | ACK),
        Instruction {
            code: JUMP_EQUAL,
            jt: 0,
            jf: 1,
            k: SYN,
        },
        plain(RETURN, 0),
        plain(RETURN, u32::MAX),
    ]
}

// BPF_LD|BPF_ABS with a size, BPF_ALU|op|BPF_K, BPF_JMP|op|BPF_K, BPF_RET|src.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const ADD: u16 = 0x04;
const SUBTRACT: u16 = 0x14;
const DIVIDE: u16 = 0x34;
const AND: u16 = 0x54;
const MODULO: u16 = 0x94;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// SKF_AD_OFF + SKF_AD_RANDOM. A hash of the packet would not do: network cards need not give one.
const RANDOM: u32 = (-0x1000_i32 + 56).cast_unsigned();
/// SKF_NET_OFF: offsets from here are in the IP header. Plain offsets begin at the payload, because
/// the group's program runs with the TCP header already pulled.
const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();

fn plain(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Loads half of the client's port. IPv4 options and IPv6 extension headers make it another number
/// of the same client; a listener sees no packet that is too short for either.
fn half_of_port() -> Vec<Instruction> {
    vec![
        plain(LOAD_BYTE, NETWORK),
        plain(AND, 0xf0),
        Instruction {
            code: JUMP_EQUAL,
            jt: 0,
            jf: 2,
            k: 0x40,
        },
        plain(LOAD_HALF, NETWORK.wrapping_add(20)),
        plain(JUMP, 1),
        plain(LOAD_HALF, NETWORK.wrapping_add(40)),
        plain(DIVIDE, 2),
    ]
}

/// Compares field by field, leaving the rule at the first difference. Ports are where they are
/// without IP options and extension headers; our own probe sends none.
fn probe_rule(probe: Probe) -> Vec<Instruction> {
    let mut fields: Vec<(u16, u32, u32)> = Vec::new();
    match probe.source.ip() {
        IpAddr::V4(address) => {
            fields.push((LOAD_WORD, 12, address.to_bits()));
            fields.push((LOAD_HALF, 20, probe.source.port().into()));
        }
        IpAddr::V6(address) => {
            // The port first: it tells the probe from nearly everything else.
            fields.push((LOAD_HALF, 40, probe.source.port().into()));
            let words = address.octets();
            for (offset, word) in (8..).step_by(4).zip(words.chunks_exact(4)) {
                let word = word
                    .iter()
                    .fold(0, |word, byte| word << 8 | u32::from(*byte));
                fields.push((LOAD_WORD, offset, word));
            }
        }
    }
    // A load beyond the packet ends the program with 0, which need not be in the set: so the
    // version comes before everything that only one version has.
    let version = if probe.source.is_ipv4() { 0x40 } else { 0x60 };
    let mut remaining = 1 + 2 * u8::try_from(fields.len()).unwrap_or(u8::MAX);
    let mut rule = vec![
        plain(LOAD_BYTE, NETWORK),
        plain(AND, 0xf0),
        Instruction {
            code: JUMP_EQUAL,
            jt: 0,
            jf: remaining,
            k: version,
        },
    ];
    for (load, offset, value) in fields {
        remaining -= 2;
        rule.push(plain(load, NETWORK.wrapping_add(offset)));
        rule.push(Instruction {
            code: JUMP_EQUAL,
            jt: 0,
            jf: remaining,
            k: value,
        });
    }
    rule.push(plain(RETURN, probe.index.into()));
    rule
}

/// Finds the run that A falls into, where A counts from the start of the whole set and the first
/// of these runs begins at `start`.
fn search(runs: &[Run], start: u32) -> Vec<Instruction> {
    let (left, right) = runs.split_at(runs.len() / 2);
    if left.is_empty() {
        return right
            .first()
            .map(|run| choose(*run, start))
            .unwrap_or_default();
    }
    let boundary = start + left.iter().map(|run| run.total()).sum::<u32>();
    let left = search(left, start);
    let mut program = match u8::try_from(left.len()) {
        Ok(over) => vec![Instruction {
            code: JUMP_AT_LEAST,
            jt: over,
            jf: 0,
            k: boundary,
        }],
        // Conditional jumps reach 255 instructions far, plain ones as far as need be.
        Err(_) => vec![
            Instruction {
                code: JUMP_AT_LEAST,
                jt: 0,
                jf: 1,
                k: boundary,
            },
            plain(JUMP, u32::try_from(left.len()).unwrap_or(u32::MAX)),
        ],
    };
    program.extend(left);
    program.extend(search(right, boundary));
    program
}

/// Turns an A within this run, which begins at `start`, into the index of a socket.
fn choose(run: Run, start: u32) -> Vec<Instruction> {
    let base = u32::from(run.base);
    if run.count == 1 {
        return vec![plain(RETURN, base)];
    }
    let mut program = Vec::new();
    if run.weight == 1 {
        let shift = base.wrapping_sub(start);
        program.extend((shift != 0).then(|| plain(ADD, shift)));
    } else {
        program.extend((start != 0).then(|| plain(SUBTRACT, start)));
        program.push(plain(DIVIDE, run.weight));
        program.extend((base != 0).then(|| plain(ADD, base)));
    }
    program.push(plain(RETURN_A, 0));
    program
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
