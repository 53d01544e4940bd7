//! Bytes of a terminal in raw mode, as keys.

/// What the view knows of a keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// Enter or space.
    Fold,
    Letter(char),
    Escape,
    /// ^C
    Interrupt,
    /// ^Z
    Suspend,
    /// ^L
    Redraw,
}

const ESCAPE: u8 = 0x1b;
/// No sequence of a keyboard is longer; what is has lost its end.
const LONGEST: usize = 16;

/// Puts together what comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Keyboard {
    /// The beginning of a sequence, or the escape key.
    begun: Vec<u8>,
}

impl Keyboard {
    /// The keys that these bytes complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        bytes.iter().filter_map(|byte| self.byte(*byte)).collect()
    }

    /// Whether a sequence has begun, unless it was the escape key.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Nothing more has come for a while: it was the escape key, or nothing.
    pub(super) fn settle(&mut self) -> Option<Key> {
        let begun = std::mem::take(&mut self.begun);
        (begun == [ESCAPE]).then_some(Key::Escape)
    }

    fn byte(&mut self, byte: u8) -> Option<Key> {
        match self.begun.as_slice() {
            [] => match byte {
                ESCAPE => {
                    self.begun.push(byte);
                    None
                }
                _ => plain(byte),
            },
            [ESCAPE] => match byte {
                b'[' | b'O' => {
                    self.begun.push(byte);
                    None
                }
                // Twice: the first one was the key.
                ESCAPE => Some(Key::Escape),
                // Alt and a key, which means nothing here.
                _ => {
                    self.begun.clear();
                    None
                }
            },
            // Up to its final byte (ECMA-48, 5.4).
            [_, _, parameters @ ..] => {
                if !matches!(byte, b'@'..=b'~') {
                    self.begun.push(byte);
                    if self.begun.len() > LONGEST {
                        self.begun.clear();
                    }
                    return None;
                }
                let key = sequence(parameters, byte);
                self.begun.clear();
                key
            }
            [_] => self.settle(),
        }
    }
}

fn plain(byte: u8) -> Option<Key> {
    match byte {
        0x03 => Some(Key::Interrupt),
        0x0c => Some(Key::Redraw),
        0x1a => Some(Key::Suspend),
        b'\r' | b'\n' | b' ' => Some(Key::Fold),
        b'!'..=b'~' => Some(Key::Letter(char::from(byte))),
        _ => None,
    }
}

fn sequence(parameters: &[u8], last: u8) -> Option<Key> {
    match (last, parameters) {
        (b'A', _) => Some(Key::Up),
        (b'B', _) => Some(Key::Down),
        (b'H', _) | (b'~', b"1" | b"7") => Some(Key::First),
        (b'F', _) | (b'~', b"4" | b"8") => Some(Key::Last),
        (b'~', b"5") => Some(Key::PageUp),
        (b'~', b"6") => Some(Key::PageDown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_keys() {
        for (bytes, expected) in [
            (&b"jk"[..], &[Key::Letter('j'), Key::Letter('k')][..]),
            (b"\r \n", &[Key::Fold, Key::Fold, Key::Fold]),
            (
                b"\x03\x1a\x0c",
                &[Key::Interrupt, Key::Suspend, Key::Redraw],
            ),
            (b"\x1b[A\x1b[B", &[Key::Up, Key::Down]),
            (b"\x1bOA\x1bOB", &[Key::Up, Key::Down]),
            (b"\x1b[1;5A", &[Key::Up]),
            (b"\x1b[5~\x1b[6~", &[Key::PageUp, Key::PageDown]),
            (
                b"\x1b[H\x1b[F\x1b[1~\x1b[4~",
                &[Key::First, Key::Last, Key::First, Key::Last],
            ),
            (b"\x1bq?", &[Key::Letter('?')]),
            (b"\x1b[15~\x1b[3~q", &[Key::Letter('q')]),
            ("äq".as_bytes(), &[Key::Letter('q')]),
            (b"\x00\x7f\x01", &[]),
            (
                b"\x1b[11111111111111111111q",
                &[
                    Key::Letter('1'),
                    Key::Letter('1'),
                    Key::Letter('1'),
                    Key::Letter('1'),
                    Key::Letter('1'),
                    Key::Letter('q'),
                ],
            ),
        ] {
            let mut whole = Keyboard::default();
            assert_eq!(whole.feed(bytes), expected, "{bytes:?}");
            assert!(!whole.has_begun(), "{bytes:?}");
            let mut pieces = Keyboard::default();
            let keys: Vec<Key> = bytes
                .iter()
                .flat_map(|byte| pieces.feed(&[*byte]))
                .collect();
            assert_eq!(keys, expected, "{bytes:?} in pieces");
        }
    }

    #[test]
    fn escape_is_a_key_when_nothing_follows() {
        let mut keyboard = Keyboard::default();
        assert_eq!(keyboard.feed(b"\x1b"), []);
        assert!(keyboard.has_begun());
        assert_eq!(keyboard.settle(), Some(Key::Escape));
        assert_eq!(keyboard.settle(), None);
        assert_eq!(keyboard.feed(b"\x1b\x1b"), [Key::Escape]);
        assert_eq!(keyboard.feed(b"[A"), [Key::Up]);
        keyboard.feed(b"\x1b[");
        assert_eq!(keyboard.settle(), None);
        assert_eq!(keyboard.feed(b"A"), [Key::Letter('A')]);
    }
}
