//! Waiting for descriptors to become readable, within a tokio runtime. What is then read, and
//! how, is the caller's business.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::notify::NotifyListener;
use crate::signal::{Chosen, Signals};

/// A type that owns one descriptor, open and the same from its making until its drop.
/// Implemented here only, where that can be seen.
pub trait Steady: AsRawFd + private::Sealed {}

impl Steady for OwnedFd {}
impl Steady for Signals {}
impl Steady for Chosen {}
impl Steady for NotifyListener {}

mod private {
    pub trait Sealed {}
    impl Sealed for super::OwnedFd {}
    impl Sealed for super::Signals {}
    impl Sealed for super::Chosen {}
    impl Sealed for super::NotifyListener {}
}

/// Registers a descriptor with the runtime's epoll, for reading. To be called within a runtime.
///
/// # Errors
/// `ENOSPC` or `ENOMEM` of epoll_ctl(2), or `EPERM` for a file that cannot be waited for; the
/// descriptor comes back with it.
pub fn watch<T: Steady>(descriptor: T) -> Result<AsyncFd<T>, (T, io::Error)> {
    // SAFETY: by `Steady` the descriptor is open and does not change until the value is dropped,
    // and the `AsyncFd` owns the value.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        .map_err(tokio::io::unix::AsyncFdRegisterError::into_parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_becomes_readable_and_a_file_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let reader = watch(reader).unwrap();
            rustix::io::write(&writer, b"x").unwrap();
            drop(reader.readable().await.unwrap());
            let file: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
            let (_, error) = watch(file).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        });
    }
}
