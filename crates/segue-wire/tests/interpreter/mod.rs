//! The kernel's classic-BPF machine, as far as our programs use it; strict where the kernel's
//! checker is (`bpf_check_classic`): jumps stay inside, every path returns. Shared with the fuzz target.

use segue_wire::steering::Instruction;

/// What a program can look at.
#[derive(Debug, Default)]
pub(crate) struct Packet {
    /// From the IP header on.
    pub(crate) network: Vec<u8>,
    /// What plain offsets see: the payload for a group's program, the TCP header for a filter.
    pub(crate) data: Vec<u8>,
    /// The next random number.
    pub(crate) random: u32,
}

impl Packet {
    /// One for which every number that a program may decide by is this one: the random one, and
    /// half of the client's port as far as a port goes.
    pub(crate) fn numbered(number: u32) -> Self {
        let mut network = vec![0; 40];
        network[0] = 0x45;
        let [.., high, low] = number.wrapping_mul(2).to_be_bytes();
        network[20..22].copy_from_slice(&[high, low]);
        Self {
            network,
            data: Vec::new(),
            random: number,
        }
    }
}

/// Checks the program as the kernel does on attach.
pub(crate) fn verify(program: &[Instruction]) -> Result<(), String> {
    if program.is_empty() || program.len() > 4096 {
        return Err(format!("{} instructions", program.len()));
    }
    for (at, instruction) in program.iter().enumerate() {
        let rest = program.len() - at - 1;
        let fits = match instruction.code {
            0x05 => (instruction.k as usize) < rest,
            0x15 | 0x35 => usize::from(instruction.jt) < rest && usize::from(instruction.jf) < rest,
            0x34 | 0x94 => instruction.k != 0,
            0x20 | 0x28 | 0x30 | 0x04 | 0x14 | 0x54 | 0x06 | 0x16 => true,
            code => return Err(format!("unknown code {code:#x} at {at}")),
        };
        if !fits {
            return Err(format!("{instruction:?} at {at} of {}", program.len()));
        }
    }
    match program.last().map(|last| last.code) {
        Some(0x06 | 0x16) => Ok(()),
        last => Err(format!("ends with {last:?}")),
    }
}

/// Runs the program; panics on what `verify` refuses.
pub(crate) fn run(program: &[Instruction], packet: &Packet) -> u32 {
    let mut a = 0u32;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        match code {
            0x20 | 0x28 | 0x30 => {
                let size = match code {
                    0x20 => 4,
                    0x28 => 2,
                    _ => 1,
                };
                match load(packet, k.cast_signed(), size) {
                    Some(value) => a = value,
                    None => return 0,
                }
            }
            0x04 => a = a.wrapping_add(k),
            0x14 => a = a.wrapping_sub(k),
            0x34 => a /= k,
            0x54 => a &= k,
            0x94 => a %= k,
            0x05 => at += k as usize,
            0x15 => at += usize::from(if a == k { jt } else { jf }),
            0x35 => at += usize::from(if a >= k { jt } else { jf }),
            0x06 => return k,
            0x16 => return a,
            code => panic!("unknown code {code:#x}"),
        }
    }
}

fn load(packet: &Packet, offset: i32, size: usize) -> Option<u32> {
    if offset == -0x1000 + 56 {
        return Some(packet.random);
    }
    let (bytes, offset) = match usize::try_from(offset) {
        Ok(offset) => (&packet.data, offset),
        Err(_) => (&packet.network, usize::try_from(offset + 0x10_0000).ok()?),
    };
    let bytes = bytes.get(offset..offset + size)?;
    Some(
        bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u32::from(*byte)),
    )
}
