//! The packets between a supervisor and its keeper, over a `SOCK_SEQPACKET` pair of Unix sockets.
//!
//! Frozen: keepers live as long as the service does, through any number of upgrades of the
//! supervisor. A packet is one byte that says what it is, and the rest; a descriptor comes beside
//! it. Both sides ignore what they do not know. Numbers are little-endian.
//!
//! | to the keeper | | from the keeper | |
//! |---|---|---|---|
//! | `s` NAME, with a descriptor | hold it under this name | `f` NAME, with a descriptor | one that is held |
//! | `d` NAME | close what is held under it | `e` VERSION | those were all; the keeper's release |
//! | `g` | send everything that is held | `!` NAME | it cannot be held: no room |
//! | `r` | I serve | `x` PID(4) KIND(1) VALUE(4) | a process that is not your child has ended: exit code (0) or signal (1) |
//! | `l` PID(4) | when this process ends, its group is to be asked to end | `i` NUMBER(8) SIGNAL(4) | a signal for you |
//! | `n` PID(4) | it has | `H` | the terminal has gone |
//! | `a` NUMBER(8) | signals up to this one are dealt with | `o` NUMBER(8) PID(4) UID(4) | who sent the signal of this number, which comes next |
//!
//! Three names mean something to the keeper: without [`STATE`] there is nothing that another
//! supervisor could take over; [`PROGRAM`] is the executable that it starts when the supervisor has
//! died, and [`FALLBACK`] the one that it starts instead when one dies before it has said `r`.

/// Longest name, in bytes.
pub const NAME_LIMIT: usize = 255;

/// Longest packet, in bytes.
pub const PACKET_LIMIT: usize = NAME_LIMIT + 1;

/// What a supervisor has written down for its successor.
pub const STATE: &str = "state";

/// The executable that is started when the supervisor has died.
pub const PROGRAM: &str = "program";

/// The executable that is started instead when a supervisor dies before it serves.
pub const FALLBACK: &str = "fallback";

/// What a supervisor says to its keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToKeeper {
    /// Hold the descriptor that comes with this, instead of what is held under the name.
    Store(String),
    Drop(String),
    /// Send everything.
    Give,
    /// It serves: what was tried has worked.
    Ready,
    /// This process leads a group that is to end with it.
    Leads(u32),
    LeadsNoMore(u32),
    /// Every signal up to this number has been dealt with.
    Acknowledge(u64),
}

/// What a keeper says to its supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromKeeper {
    /// Held under this name; the descriptor comes with it.
    Held(String),
    /// Everything has been sent. The keeper's release.
    All(String),
    /// What was to be held under this name is not.
    NotHeld(String),
    /// A process that was not the supervisor's child has ended.
    Ended {
        pid: u32,
        end: End,
    },
    /// A signal, by its number in this system.
    Signal {
        number: u64,
        signal: i32,
    },
    /// Who sent the signal of this number, which comes next: a process, and its user.
    Origin {
        number: u64,
        pid: u32,
        uid: u32,
    },
    TerminalGone,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

impl ToKeeper {
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        match self {
            Self::Store(name) => packet(b's', name.as_bytes()),
            Self::Drop(name) => packet(b'd', name.as_bytes()),
            Self::Give => packet(b'g', &[]),
            Self::Ready => packet(b'r', &[]),
            Self::Leads(pid) => packet(b'l', &pid.to_le_bytes()),
            Self::LeadsNoMore(pid) => packet(b'n', &pid.to_le_bytes()),
            Self::Acknowledge(number) => packet(b'a', &number.to_le_bytes()),
        }
    }

    /// `None` for what is not known.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (verb, rest) = packet.split_first()?;
        match verb {
            b's' => name(rest).map(Self::Store),
            b'd' => name(rest).map(Self::Drop),
            b'g' => Some(Self::Give),
            b'r' => Some(Self::Ready),
            b'l' => Some(Self::Leads(u32::from_le_bytes(rest.try_into().ok()?))),
            b'n' => Some(Self::LeadsNoMore(u32::from_le_bytes(rest.try_into().ok()?))),
            b'a' => Some(Self::Acknowledge(u64::from_le_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

impl FromKeeper {
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        match self {
            Self::Held(name) => packet(b'f', name.as_bytes()),
            Self::All(release) => packet(b'e', release.as_bytes()),
            Self::NotHeld(name) => packet(b'!', name.as_bytes()),
            Self::Ended { pid, end } => {
                let (kind, value) = match end {
                    End::Code(code) => (0, code),
                    End::Signal(signal) => (1, signal),
                };
                let mut rest = pid.to_le_bytes().to_vec();
                rest.push(kind);
                rest.extend(value.to_le_bytes());
                packet(b'x', &rest)
            }
            Self::Signal { number, signal } => {
                let mut rest = number.to_le_bytes().to_vec();
                rest.extend(signal.to_le_bytes());
                packet(b'i', &rest)
            }
            Self::Origin { number, pid, uid } => {
                let mut rest = number.to_le_bytes().to_vec();
                rest.extend(pid.to_le_bytes());
                rest.extend(uid.to_le_bytes());
                packet(b'o', &rest)
            }
            Self::TerminalGone => packet(b'H', &[]),
        }
    }

    /// `None` for what is not known.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (verb, rest) = packet.split_first()?;
        match verb {
            b'f' => name(rest).map(Self::Held),
            b'e' => Some(Self::All(String::from_utf8_lossy(rest).into_owned())),
            b'!' => name(rest).map(Self::NotHeld),
            b'x' => {
                let (pid, rest) = rest.split_first_chunk::<4>()?;
                let (kind, value) = rest.split_first()?;
                let value = i32::from_le_bytes(value.try_into().ok()?);
                let end = match kind {
                    0 => End::Code(value),
                    1 => End::Signal(value),
                    _ => return None,
                };
                let pid = u32::from_le_bytes(*pid);
                Some(Self::Ended { pid, end })
            }
            b'i' => {
                let (number, signal) = rest.split_first_chunk::<8>()?;
                Some(Self::Signal {
                    number: u64::from_le_bytes(*number),
                    signal: i32::from_le_bytes(signal.try_into().ok()?),
                })
            }
            b'o' => {
                let (number, rest) = rest.split_first_chunk::<8>()?;
                let (pid, uid) = rest.split_first_chunk::<4>()?;
                Some(Self::Origin {
                    number: u64::from_le_bytes(*number),
                    pid: u32::from_le_bytes(*pid),
                    uid: u32::from_le_bytes(uid.try_into().ok()?),
                })
            }
            b'H' => Some(Self::TerminalGone),
            _ => None,
        }
    }
}

fn packet(verb: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(1 + rest.len());
    packet.push(verb);
    packet.extend_from_slice(rest);
    packet
}

fn name(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || bytes.len() > NAME_LIMIT {
        return None;
    }
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes of every packet, for ever.
    #[test]
    fn the_protocol_is_frozen() {
        let to: [(ToKeeper, &[u8]); 7] = [
            (ToKeeper::Store("web/listen/0/1".into()), b"sweb/listen/0/1"),
            (ToKeeper::Drop("a".into()), b"da"),
            (ToKeeper::Give, b"g"),
            (ToKeeper::Ready, b"r"),
            (ToKeeper::Leads(0x0102), b"l\x02\x01\0\0"),
            (ToKeeper::LeadsNoMore(7), b"n\x07\0\0\0"),
            (ToKeeper::Acknowledge(9), b"a\x09\0\0\0\0\0\0\0"),
        ];
        for (message, bytes) in to {
            assert_eq!(message.packet(), bytes);
            assert_eq!(ToKeeper::read(bytes), Some(message));
        }
        let from: [(FromKeeper, &[u8]); 8] = [
            (FromKeeper::Held("state".into()), b"fstate"),
            (FromKeeper::All("0.1.0".into()), b"e0.1.0"),
            (FromKeeper::NotHeld("a".into()), b"!a"),
            (
                FromKeeper::Ended {
                    pid: 7,
                    end: End::Code(3),
                },
                b"x\x07\0\0\0\0\x03\0\0\0",
            ),
            (
                FromKeeper::Ended {
                    pid: 7,
                    end: End::Signal(9),
                },
                b"x\x07\0\0\0\x01\x09\0\0\0",
            ),
            (
                FromKeeper::Signal {
                    number: 2,
                    signal: 15,
                },
                b"i\x02\0\0\0\0\0\0\0\x0f\0\0\0",
            ),
            (
                FromKeeper::Origin {
                    number: 2,
                    pid: 7,
                    uid: 1000,
                },
                b"o\x02\0\0\0\0\0\0\0\x07\0\0\0\xe8\x03\0\0",
            ),
            (FromKeeper::TerminalGone, b"H"),
        ];
        for (message, bytes) in from {
            assert_eq!(message.packet(), bytes);
            assert_eq!(FromKeeper::read(bytes), Some(message));
        }
    }

    proptest! {
        #[test]
        fn what_is_not_known_is_nothing(packet in proptest::collection::vec(any::<u8>(), 0..400)) {
            // Whatever is understood is written as it was read.
            if let Some(message) = ToKeeper::read(&packet)
                && !matches!(message, ToKeeper::Give | ToKeeper::Ready)
            {
                prop_assert_eq!(message.packet(), &packet[..]);
            }
            let _ = FromKeeper::read(&packet);
        }
    }
}
