//! Attaches classic BPF programs to sockets. What a program says is its author's business;
//! the kernel checks that it ends and stays in bounds.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One instruction of a classic BPF program: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    pub k: u32,
}

/// Lets `program` choose, for each new connection, the member of the `SO_REUSEPORT` group that
/// `socket` belongs to, by the index it returns. It replaces the group's former program in one
/// step and needs no privilege. Members are numbered in the order in which they began to
/// listen; an index out of range makes the kernel choose by hash among all of them.
///
/// The socket must be bound with `SO_REUSEPORT` set; it need not listen yet. See
/// `SO_ATTACH_REUSEPORT_CBPF` in socket(7).
///
/// # Errors
/// `EINVAL` for a program the kernel rejects or a socket without a group, `ENOPROTOOPT` or
/// `EPERM` where the kernel or a sandbox knows no such option.
pub fn attach_group_program(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Lets `program` say of each packet for `socket` how many of its bytes are kept; 0 drops it.
/// A filter of a listening socket sees the handshakes and is inherited by the connections
/// accepted from it. See `SO_ATTACH_FILTER` in socket(7).
///
/// # Errors
/// `EINVAL` for a program the kernel rejects, `EPERM` if the present filter is locked, or for a
/// TCP socket on newer kernels (seen on 6.18) without a capability.
pub fn attach_filter(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

/// Takes the filter of a socket away (`SO_DETACH_FILTER` in socket(7)).
///
/// # Errors
/// `ENOENT` where there is none, `EPERM` where it is locked.
pub fn detach_filter(socket: impl AsFd) -> io::Result<()> {
    let ignored: libc::c_int = 0;
    // SAFETY: `ignored` lives until the call returns; the kernel reads an integer at most.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const ignored).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn attach(socket: impl AsFd, option: libc::c_int, program: &[Instruction]) -> io::Result<()> {
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // The kernel only reads through this pointer, although the C type is not const.
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let fprog = libc::sock_fprog { len, filter };
    // SAFETY: `fprog` and the `len` instructions it points to, which have the layout of
    // `sock_filter`, live until the call returns; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const fprog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
