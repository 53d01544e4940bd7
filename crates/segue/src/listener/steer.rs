//! Who of a group of TCP sockets gets new connections: turns a set into a program of the kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use segue_sys::socket;
use segue_sys::steering::{Instruction, attach_filter, attach_group_program};
use segue_wire::steering::{self, Probe, Steering};

/// Whether the environment allows steering. `SEGUE_STEERING=off` stands for a kernel that
/// refuses it: every address then has one socket that all workers share.
pub(crate) fn allowed_by_environment() -> bool {
    std::env::var_os("SEGUE_STEERING").is_none_or(|value| value != "off")
}

/// Sends new connections of the group that `member` belongs to, to exactly these of its
/// sockets, evenly, from one moment on.
pub(super) fn send_to(member: impl AsFd, set: &[u16]) -> io::Result<()> {
    let weighted: Vec<(u16, u32)> = set.iter().map(|&index| (index, 1)).collect();
    send_by_weight(member, &weighted, &[])
}

/// The same by weight, except that connections from a probe's source go where it says.
pub(super) fn send_by_weight(
    member: impl AsFd,
    set: &[(u16, u32)],
    probes: &[Probe],
) -> io::Result<()> {
    let program = Steering::new(set).and_then(|steering| {
        let probes = probes.iter().copied();
        probes.fold(steering, Steering::with_probe).program()
    });
    let program = program.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    attach(member, &program)
}

/// Puts a program in charge of the group that `member` belongs to.
pub(super) fn attach(member: impl AsFd, program: &[steering::Instruction]) -> io::Result<()> {
    attach_group_program(member, &for_kernel(program))
}

/// Lets the kernel spread new connections over the whole group, by a hash.
pub(super) fn send_anywhere(member: impl AsFd) -> io::Result<()> {
    // An index that no group has.
    attach_group_program(member, &[RETURN_NOBODY])
}

const RETURN_NOBODY: Instruction = Instruction {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: u32::MAX,
};

/// Whether this kernel, or a sandbox, lets programs be attached to groups at all.
pub(super) fn is_possible() -> bool {
    let tried = || {
        let nowhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        send_to(socket::join_tcp(nowhere, false)?, &[0])
    };
    tried().is_ok()
}

/// Lets no new connection begin at this socket; handshakes under way go on. Needs a privilege on
/// newer kernels.
pub(super) fn drop_new(socket: impl AsFd) -> io::Result<()> {
    attach_filter(socket, &for_kernel(&steering::syn_drop()))
}

fn for_kernel(program: &[steering::Instruction]) -> Vec<Instruction> {
    program
        .iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect()
}
