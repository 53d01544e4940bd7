//! What has been read from a worker and not been heard. It is written down before it is taken out
//! of the socket, and how far it has been heard line by line: so that nothing is lost or heard twice
//! when a successor goes on in the middle.

use serde::{Deserialize, Serialize};

use crate::handoff::text::Word;

/// A longer piece of one line is not written down: no message that matters is as long.
const LONGEST_NOTED: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// How far it has been heard.
    heard: usize,
    /// It has been taken out of the socket.
    is_consumed: bool,
}

/// How far it has been heard. The bytes are written down once, by themselves: a worker that says
/// thousands of things in one breath must not have all of them written again for each.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Record {
    heard: usize,
    is_consumed: bool,
}

impl Inbox {
    /// These come next, and are still in the socket.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.heard = 0;
        self.is_consumed = false;
    }

    pub(super) fn consumed(&mut self) {
        self.is_consumed = true;
    }

    /// What may still be in the socket.
    pub(super) fn begun(&self) -> Option<Vec<u8>> {
        (!self.is_consumed && !self.is_empty()).then(|| self.rest().to_vec())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// The next line, its end included, or what is left without one.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = rest
            .get(..end.map_or(rest.len(), |end| end + 1))
            .unwrap_or_default()
            .to_vec();
        self.heard += line.len();
        if self.is_empty() {
            // Nothing is kept allocated for an idle worker.
            *self = Self::default();
        }
        Some(line)
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.heard..).unwrap_or_default()
    }

    /// The bytes, if they are worth writing down.
    pub(super) fn bytes(&self) -> Option<Word> {
        self.is_noted().then(|| Word::from_bytes(&self.bytes))
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.is_noted().then_some(Record {
            heard: self.heard,
            is_consumed: self.is_consumed,
        })
    }

    fn is_noted(&self) -> bool {
        let rest = self.rest();
        !rest.is_empty() && (self.bytes.len() <= LONGEST_NOTED || self.bytes.contains(&b'\n'))
    }

    pub(super) fn restore(bytes: Word, record: &Record) -> Self {
        Self {
            bytes: bytes.into_bytes(),
            heard: record.heard,
            is_consumed: record.is_consumed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_heard_one_by_one() {
        let mut inbox = Inbox::default();
        assert!(inbox.next_line().is_none() && inbox.record().is_none());
        inbox.fill(b"one\ntwo\nthr");
        assert_eq!(inbox.begun().unwrap(), b"one\ntwo\nthr");
        inbox.consumed();
        assert_eq!(inbox.begun(), None);
        assert_eq!(inbox.next_line().unwrap(), b"one\n");
        let record = inbox.record().unwrap();
        let mut successor = Inbox::restore(inbox.bytes().unwrap(), &record);
        assert_eq!(successor.begun(), None);
        for expected in [&b"two\n"[..], b"thr"] {
            assert_eq!(successor.next_line().unwrap(), expected);
        }
        assert!(successor.is_empty() && successor.next_line().is_none());
    }

    #[test]
    fn a_long_piece_of_a_line_is_not_written_down() {
        let mut inbox = Inbox::default();
        inbox.fill(&vec![b'x'; LONGEST_NOTED + 1]);
        assert!(inbox.record().is_none() && inbox.bytes().is_none());
        inbox.fill(b"short");
        assert!(inbox.record().is_some() && inbox.bytes().is_some());
    }
}
