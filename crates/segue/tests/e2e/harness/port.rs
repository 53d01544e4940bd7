//! Ports that no other test and no client connection has.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port, leased for as long as this lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lease: File,
}

impl Port {
    /// Leases a port from below the range that connect(2) takes its ports from: the load of other
    /// tests cannot sit on it. A locked file keeps other test processes away.
    pub(crate) fn lease() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let directory = super::kept("test-ports");
        std::fs::create_dir_all(&directory).expect("make the directory of leases");
        let first = 12_000;
        let range = ephemeral_start().saturating_sub(first).clamp(1, 16_000);
        for _ in 0..range {
            let number = first + NEXT.fetch_add(1, Ordering::Relaxed) % range;
            let path = directory.join(number.to_string());
            let lease = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .expect("open a lease");
            match lease.try_lock() {
                Ok(()) if is_free(number) => {
                    return Self {
                        number,
                        _lease: lease,
                    };
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("lock {}: {error}", path.display()),
            }
        }
        panic!("no free port between {first} and {}", first + range);
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok()
        && UdpSocket::bind(("127.0.0.1", port)).is_ok()
}

/// Where the ports of outgoing connections begin.
fn ephemeral_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}
