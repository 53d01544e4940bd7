//! WebSocket frames (RFC 6455, 5): pure, total, and strict about what a server may send. Messages
//! are put together elsewhere.

/// Longest payload that is believed; the load's own messages are far shorter.
const PAYLOAD_LIMIT: u64 = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// One frame of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) is_final: bool,
    pub(crate) opcode: Opcode,
    pub(crate) payload: Vec<u8>,
}

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Frame {
    /// Reads one frame. `None`: more bytes are needed. Also says how many bytes it took.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err("a frame with reserved bits, and no extension was agreed on".to_owned());
        }
        let opcode = Opcode::of(first & 0x0f)
            .ok_or_else(|| format!("a frame with opcode {}", first & 0x0f))?;
        let is_final = first & 0x80 != 0;
        if second & 0x80 != 0 {
            return Err("a masked frame from a server".to_owned());
        }
        let short = second & 0x7f;
        if opcode.is_control() && (!is_final || short > 125) {
            return Err("a control frame that is fragmented or too long".to_owned());
        }
        let Some((length, used)) = length(short, rest)? else {
            return Ok(None);
        };
        let payload = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(used..used.checked_add(length)?));
        Ok(payload.map(|payload| {
            let frame = Self {
                is_final,
                opcode,
                payload: payload.to_vec(),
            };
            (frame, 2 + used + payload.len())
        }))
    }

    /// The code of a close frame; none if it has no payload.
    pub(crate) fn close_code(&self) -> Result<Option<u16>, String> {
        match self.payload.as_slice() {
            [] => Ok(None),
            [_] => Err("a close frame with half a code".to_owned()),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                // 1004 to 1006 and 1015 are never sent (RFC 6455, 7.4.1).
                if !(1000..5000).contains(&code) || matches!(code, 1004..=1006 | 1015) {
                    return Err(format!("a close frame with code {code}"));
                }
                match std::str::from_utf8(reason) {
                    Ok(_) => Ok(Some(code)),
                    Err(_) => Err("a close frame whose reason is not UTF-8".to_owned()),
                }
            }
        }
    }
}

/// The payload's length, and how many bytes told it beyond the first two.
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, String> {
    let (length, used, shortest) = match short {
        126 => match rest.first_chunk() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2, 126),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8, 65_536),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, 0),
    };
    if length < shortest {
        return Err("a length that is not told in the shortest way".to_owned());
    }
    if length > PAYLOAD_LIMIT {
        return Err(format!("a frame of {length} bytes"));
    }
    Ok(Some((length, used)))
}

/// A whole frame of a client, masked.
pub(crate) fn masked(opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode.bits()];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(bytes: &[u8], why: &str) {
        let error = Frame::parse(bytes).unwrap_err();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn reads_frames_of_every_length_and_waits_for_the_rest() {
        for length in [0_usize, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            // A client's frame without its mask is a server's.
            let mut bytes = masked(Opcode::Text, &payload, [0; 4]);
            let at = bytes.len() - length - 4;
            bytes.drain(at..at + 4);
            bytes[1] &= 0x7f;
            let (frame, used) = Frame::parse(&bytes).unwrap().unwrap();
            assert_eq!((frame.payload.len(), used), (length, bytes.len()));
            assert!(frame.is_final);
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(
                        Frame::parse(&bytes[..cut]),
                        Ok(None),
                        "{length} cut at {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn masks() {
        // The masked "Hello" of RFC 6455, 5.7.
        let bytes = masked(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        let example = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(bytes, example);
    }

    #[test]
    fn refuses_what_a_server_must_not_send() {
        refused(&[0xc1, 0], "reserved bits");
        refused(&[0x83, 0], "opcode 3");
        refused(&[0x81, 0x80, 0, 0, 0, 0], "masked");
        refused(&[0x09, 0], "fragmented");
        refused(&[0x88, 126, 0, 126], "too long");
        refused(&[0x81, 126, 0, 125], "shortest");
        refused(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], "shortest");
        refused(&[0x82, 127, 1, 0, 0, 0, 0, 0, 0, 0], "bytes");
    }

    #[test]
    fn reads_codes() {
        let code = |payload: &[u8]| {
            let frame = Frame {
                is_final: true,
                opcode: Opcode::Close,
                payload: payload.to_vec(),
            };
            frame.close_code()
        };
        assert_eq!(code(&[]), Ok(None));
        assert_eq!(code(&[3, 0xf4, b'b', b'y', b'e']), Ok(Some(1012)));
        for payload in [&[3][..], &[0, 1], &[3, 0xee], &[3, 0xe8, 0xff]] {
            assert!(code(payload).is_err(), "{payload:?}");
        }
    }
}
