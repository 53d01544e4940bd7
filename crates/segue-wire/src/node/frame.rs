//! Cuts a worker's byte stream into lines and reads each one: survives everything an app can
//! write to its channel, and holds at most one line.

use super::cluster::Message;

/// Longest line that is read, 8 MiB. Node itself has no limit; messages of the cluster protocol
/// are below 1 KiB, so only an app's own `process.send` can come near.
pub const LINE_LIMIT: usize = 8 << 20;

/// What is kept allocated between lines.
const KEPT_CAPACITY: usize = 64 << 10;

/// How Node begins a message that a descriptor belongs to. `cmd` is always its first member.
const HANDLE_PREFIX: &[u8] = b"{\"cmd\":\"NODE_HANDLE\",";

/// Enough to see whether a line begins so.
const LEAST_LIMIT: usize = 32;

/// Bun marks internal messages with this byte.
const BUN_MARK: u8 = 0x02;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Message(Message),
    /// Not JSON. It may have swallowed the message that followed it.
    Garbage {
        bytes: usize,
    },
    /// Longer than the limit, discarded. If it began as a message with a handle, it still has to
    /// be acknowledged: until then the worker sends nothing that carries one, nor what follows it.
    Oversized {
        starts_as_handle: bool,
    },
}

/// Incremental decoder of one worker's stream.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The line so far; never longer than `limit`.
    held: Vec<u8>,
    /// Set while the rest of an oversized line is being discarded.
    skipping: Option<Skipped>,
}

#[derive(Debug)]
struct Skipped {
    starts_as_handle: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_limit(LINE_LIMIT)
    }
}

impl Decoder {
    /// A decoder that discards lines of more than `limit` bytes (never fewer than 32, so that the start
    /// of every discarded line has been seen).
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            limit: limit.max(LEAST_LIMIT),
            held: Vec::new(),
            skipping: None,
        }
    }

    /// One that goes on where another has ended: `held` is the line so far.
    #[must_use]
    pub fn resume(held: Vec<u8>) -> Self {
        Self {
            held,
            ..Self::default()
        }
    }

    /// One that discards what is left of a line whose beginning is not known.
    #[must_use]
    pub fn skipping() -> Self {
        Self {
            skipping: Some(Skipped {
                starts_as_handle: false,
            }),
            ..Self::default()
        }
    }

    /// The line so far; `None` of one that is being discarded.
    #[must_use]
    pub fn held(&self) -> Option<&[u8]> {
        self.skipping.is_none().then_some(&self.held)
    }

    /// Takes the next bytes of the stream and reports every line they complete, in order.
    pub fn feed(&mut self, chunk: &[u8], mut report: impl FnMut(Line)) {
        let mut pieces = chunk.split(|byte| *byte == b'\n');
        // `split` yields at least one piece; the last one has no newline after it.
        let mut piece = pieces.next().unwrap_or_default();
        for next in pieces {
            report(self.complete(piece));
            piece = next;
        }
        self.hold(piece);
    }

    /// The stream is at its end: reports what is left without a newline, which is never a message.
    pub fn finish(&mut self) -> Option<Line> {
        if let Some(skipped) = self.skipping.take() {
            return Some(skipped.into());
        }
        let bytes = std::mem::take(&mut self.held).len();
        (bytes > 0).then_some(Line::Garbage { bytes })
    }

    /// The last byte was not the end of a line.
    #[must_use]
    pub fn is_within_line(&self) -> bool {
        !self.held.is_empty() || self.skipping.is_some()
    }

    fn complete(&mut self, rest: &[u8]) -> Line {
        if self.held.is_empty() && self.skipping.is_none() && rest.len() <= self.limit {
            return read(rest);
        }
        self.hold(rest);
        if let Some(skipped) = self.skipping.take() {
            return skipped.into();
        }
        let line = read(&self.held);
        self.held.clear();
        self.held.shrink_to(KEPT_CAPACITY);
        line
    }

    fn hold(&mut self, piece: &[u8]) {
        if self.skipping.is_some() {
            return;
        }
        if piece.len() <= self.limit.saturating_sub(self.held.len()) {
            self.held.extend_from_slice(piece);
            return;
        }
        let mut start = std::mem::take(&mut self.held);
        let missing = HANDLE_PREFIX.len() + 1;
        start.extend(piece.iter().take(missing.saturating_sub(start.len())));
        self.skipping = Some(Skipped {
            starts_as_handle: unmarked(&start).starts_with(HANDLE_PREFIX),
        });
    }
}

impl From<Skipped> for Line {
    fn from(skipped: Skipped) -> Self {
        Self::Oversized {
            starts_as_handle: skipped.starts_as_handle,
        }
    }
}

fn unmarked(line: &[u8]) -> &[u8] {
    line.strip_prefix(&[BUN_MARK]).unwrap_or(line)
}

fn read(line: &[u8]) -> Line {
    Message::read(unmarked(line)).map_or(Line::Garbage { bytes: line.len() }, Line::Message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(decoder: &mut Decoder, chunks: &[&[u8]]) -> Vec<Line> {
        let mut lines = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk, |line| lines.push(line));
        }
        lines.extend(decoder.finish());
        lines
    }

    fn check(bytes: &str, expected: &[Line]) {
        assert_eq!(
            lines(&mut Decoder::with_limit(64), &[bytes.as_bytes()]),
            expected,
            "{bytes:?}"
        );
    }

    #[test]
    fn reads_lines_and_survives_the_rest() {
        let online = || Line::Message(Message::Online);
        let user = || Line::Message(Message::User);
        let line = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\"}\n";
        check(line, &[online()]);
        check(&format!("\u{2}{line}"), &[online()]);
        check(
            &format!("oops\n{line}"),
            &[Line::Garbage { bytes: 4 }, online()],
        );
        check(
            &format!("\n{line}"),
            &[Line::Garbage { bytes: 0 }, online()],
        );
        check(&format!("oops{line}"), &[Line::Garbage { bytes: 41 }]);
        check(
            "[1,2]\nnull\n1e999\n",
            &[user(), user(), Line::Garbage { bytes: 5 }],
        );
        check("{\"half\":", &[Line::Garbage { bytes: 8 }]);
        check("\"ready\"\n", &[Line::Message(Message::Ready)]);
        check(
            &format!("\"{}\"\n{line}", "x".repeat(63)),
            &[
                Line::Oversized {
                    starts_as_handle: false,
                },
                online(),
            ],
        );
        check(
            &format!(
                "{{\"cmd\":\"NODE_HANDLE\",\"msg\":\"{}\"}}\n{line}",
                "x".repeat(63)
            ),
            &[
                Line::Oversized {
                    starts_as_handle: true,
                },
                online(),
            ],
        );
        check(
            &"x".repeat(65),
            &[Line::Oversized {
                starts_as_handle: false,
            }],
        );
    }

    #[test]
    fn holds_no_more_than_the_limit() {
        let mut decoder = Decoder::default();
        for _ in 0..1024 {
            decoder.feed(&[b'x'; 64 << 10], |line| panic!("{line:?}"));
            assert!(decoder.held.capacity() <= 2 * LINE_LIMIT);
        }
        let mut found = Vec::new();
        decoder.feed(b"\n", |line| found.push(line));
        assert_eq!(
            found,
            [Line::Oversized {
                starts_as_handle: false
            }]
        );
        assert!(decoder.held.capacity() <= KEPT_CAPACITY);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}".to_vec()),
            Just(
                b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{\"a\":[1,2,3]}}"
                    .to_vec()
            ),
            Just(b"{\"cmd\":\"NODE_HANDLE_ACK\"}".to_vec()),
            Just(b"\n".to_vec()),
            Just(vec![BUN_MARK]),
            Just("\"\u{e9}\u{1f600}\"".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..80),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            bytes in stream(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            limit in 1usize..200,
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
            let whole = lines(&mut Decoder::with_limit(limit), &[&bytes]);
            prop_assert_eq!(&lines(&mut Decoder::with_limit(limit), &chunks), &whole);
            prop_assert_eq!(&lines(&mut Decoder::with_limit(limit), &bytewise), &whole);
        }
    }
}
