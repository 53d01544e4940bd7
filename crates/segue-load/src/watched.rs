//! What an HTTP/2 server says about the end of a connection and of its streams, read from its frames
//! as they pass by (RFC 9113, 4.1). Judges nothing, and does not disturb the bytes.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEADER: usize = 9;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const REFUSED_STREAM: u32 = 7;

/// What has been said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The last stream and the code of the last GOAWAY.
    goaway: Option<(u32, u32)>,
    /// The codes of the streams that were reset.
    resets: BTreeMap<u32, u32>,
}

impl Said {
    pub(crate) fn is_leaving(&self) -> bool {
        self.goaway.is_some()
    }

    /// Whether the server has said that nothing was done for this stream (RFC 9113, 8.7).
    pub(crate) fn has_refused(&self, stream: u32) -> bool {
        self.goaway.is_some_and(|(last, _)| stream > last)
            || self.resets.get(&stream) == Some(&REFUSED_STREAM)
    }
}

/// The frame that is passing by.
#[derive(Debug, Default)]
struct Passing {
    /// Its header and, of the two kinds that matter, the first bytes of its payload.
    kept: Vec<u8>,
    /// Bytes of it that are still to come behind those kept.
    left: usize,
}

impl Passing {
    fn feed(&mut self, mut bytes: &[u8], said: &Mutex<Said>) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (byte, rest) = bytes.split_at(1);
            self.kept.extend_from_slice(byte);
            bytes = rest;
            self.take(said);
        }
    }

    /// Looks at what is kept; when it is all that matters of a frame, the rest is to be skipped.
    fn take(&mut self, said: &Mutex<Said>) {
        let Some(&[high, middle, low, kind, _, ref stream @ ..]) =
            self.kept.first_chunk::<HEADER>()
        else {
            return;
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let stream = u32::from_be_bytes(*stream) & 0x7fff_ffff;
        let matters = match kind {
            RST_STREAM => 4,
            GOAWAY => 8,
            _ => 0,
        };
        if matters <= length && self.kept.len() < HEADER + matters {
            return;
        }
        let payload = self.kept.get(HEADER..).unwrap_or_default();
        let word = |at: usize| {
            let bytes = payload.get(at..).and_then(|bytes| bytes.first_chunk());
            bytes.map(|bytes| u32::from_be_bytes(*bytes))
        };
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        match (kind, word(0), word(4)) {
            (RST_STREAM, Some(code), _) => {
                said.resets.insert(stream, code);
            }
            (GOAWAY, Some(last), Some(code)) => said.goaway = Some((last & 0x7fff_ffff, code)),
            _ => {}
        }
        self.left = length - payload.len();
        self.kept.clear();
    }
}

/// A byte stream whose incoming frames are noted.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    passing: Passing,
    said: Notes,
}

/// Where it is noted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Said>>);

impl Notes {
    pub(crate) fn read(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S) -> (Self, Notes) {
        let said = Notes::default();
        let watched = Self {
            stream,
            passing: Passing::default(),
            said: said.clone(),
        };
        (watched, said)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        this.passing.feed(fresh, &this.said.0);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn notes_what_matters_however_the_bytes_come() {
        let mut bytes = frame(4, 0, &[]);
        bytes.extend(frame(0, 1, &[7; 300]));
        bytes.extend(frame(RST_STREAM, 5, &REFUSED_STREAM.to_be_bytes()));
        bytes.extend(frame(RST_STREAM, 7, &8_u32.to_be_bytes()));
        bytes.extend(frame(
            GOAWAY,
            0,
            &[0, 0, 0, 9, 0, 0, 0, 0, b'b', b'y', b'e'],
        ));
        bytes.extend(frame(0, 9, b"last"));
        for size in [1, 2, 3, 7, 9, 64, bytes.len()] {
            let said = Mutex::default();
            let mut passing = Passing::default();
            for piece in bytes.chunks(size) {
                passing.feed(piece, &said);
            }
            let said: Said = said.into_inner().unwrap();
            assert_eq!(said.goaway, Some((9, 0)), "pieces of {size}");
            assert!(said.is_leaving());
            assert_eq!(said.resets.len(), 2);
            let refused: Vec<u32> = (1..13)
                .step_by(2)
                .filter(|&id| said.has_refused(id))
                .collect();
            assert_eq!(refused, [5, 11]);
            assert!(passing.kept.is_empty() && passing.left == 0);
        }
    }

    #[test]
    fn a_frame_too_short_for_its_kind_is_passed_over() {
        let said = Mutex::default();
        let mut passing = Passing::default();
        passing.feed(&frame(GOAWAY, 0, &[1, 2]), &said);
        passing.feed(&frame(RST_STREAM, 3, &7_u32.to_be_bytes()), &said);
        let said = said.into_inner().unwrap();
        assert!(!said.is_leaving());
        assert!(said.has_refused(3));
    }
}
