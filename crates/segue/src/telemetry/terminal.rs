//! What an app prints, made harmless for a terminal: it may colour its own line, and nothing else.
//! Files and pipes get what was printed.

use std::borrow::Cow;
use std::fmt::Write as _;

const RESET: &str = "\x1b[0m";

/// One line without its end. What would move the cursor, hide or reorder text, or speak to the
/// terminal is written as `\x1b`, `\u{9b}`; colours stay and end with the line.
pub(crate) fn harmless(line: &[u8]) -> Cow<'_, [u8]> {
    // The end of a line on Windows: it acts on an empty rest.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Ok(text) = std::str::from_utf8(line)
        && !text.chars().any(acts)
    {
        return Cow::Borrowed(line);
    }
    let mut is_coloured = false;
    let mut safe = safe(line, |safe, colour| {
        safe.push_str(colour);
        is_coloured = true;
    });
    if is_coloured {
        safe.push_str(RESET);
    }
    Cow::Owned(safe.into_bytes())
}

/// The same without colours, for one who places every letter himself: no letter is wider than it looks.
pub(crate) fn plain(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    safe(line, |_, _| {}).replace('\t', "  ")
}

/// What would act is shown; colours are left to `coloured`.
fn safe(line: &[u8], mut coloured: impl FnMut(&mut String, &str)) -> String {
    let mut safe = String::with_capacity(line.len() + 16);
    for part in line.utf8_chunks() {
        let mut rest = part.valid();
        while let Some(c) = rest.chars().next() {
            let length = match colour(rest) {
                Some(colour) => {
                    coloured(&mut safe, colour);
                    colour.len()
                }
                None => {
                    push(&mut safe, c);
                    c.len_utf8()
                }
            };
            rest = rest.get(length..).unwrap_or_default();
        }
        for byte in part.invalid() {
            // Writing to a string does not fail.
            let _ = write!(safe, "\\x{byte:02x}");
        }
    }
    safe
}

/// The same for JSON, which means what it did before: JSON itself escapes what lies below a space.
pub(crate) fn harmless_json(json: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(json);
    if !text.chars().any(acts) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts(c) {
            // Writing to a string does not fail. All that acts is in the basic plane.
            true => drop(write!(safe, "\\u{:04x}", u32::from(c))),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe.into_bytes())
}

fn push(safe: &mut String, c: char) {
    let _ = match c {
        _ if !acts(c) => {
            safe.push(c);
            Ok(())
        }
        '\r' => write!(safe, "\\r"),
        '\0'..='\x7f' => write!(safe, "\\x{:02x}", u32::from(c)),
        _ => write!(safe, "\\u{{{:x}}}", u32::from(c)),
    };
}

fn acts(c: char) -> bool {
    let reorders = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (c.is_control() && c != '\t') || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The sequence that the text begins with, if it selects a colour or a weight and nothing that
/// hides text (ECMA-48, SGR).
fn colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let (parameters, rest) = parameters.split_at(end);
    if !rest.starts_with('m') {
        return None;
    }
    let mut numbers = parameters.split(';');
    while let Some(number) = numbers.next() {
        match number {
            "38" | "48" => {
                let more = match numbers.next()? {
                    "5" => 1,
                    "2" => 3,
                    _ => return None,
                };
                for _ in 0..more {
                    numbers.next()?.parse::<u8>().ok()?;
                }
            }
            "" => {}
            _ => match number.parse::<u8>().ok()? {
                0..=4 | 9 | 21..=24 | 29..=37 | 39..=47 | 49 | 90..=97 | 100..=107 => {}
                _ => return None,
            },
        }
    }
    text.get(.."\x1b[".len() + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_instead() {
        for (line, expected) in [
            (
                "plain, with a\ttab, äöü 漢字 🦀",
                "plain, with a\ttab, äöü 漢字 🦀",
            ),
            ("", ""),
            ("windows\r", "windows"),
            ("over\rwritten", "over\\rwritten"),
            ("up\x1b[2Ayou", "up\\x1b[2Ayou"),
            ("clear\x1b[2J\x1b[H", "clear\\x1b[2J\\x1b[H"),
            ("title\x1b]0;owned\x07", "title\\x1b]0;owned\\x07"),
            ("link\x1b]8;;http://x\x1b\\", "link\\x1b]8;;http://x\\x1b\\"),
            ("paste\x1b]52;c;cm0=\x07", "paste\\x1b]52;c;cm0=\\x07"),
            (
                "answer\x1b[6n\x1bP$q\x1b\\",
                "answer\\x1b[6n\\x1bP$q\\x1b\\",
            ),
            ("back\x08\x08\x7f", "back\\x08\\x08\\x7f"),
            ("c1 \u{9b}2J \u{90}", "c1 \\u{9b}2J \\u{90}"),
            ("bidi \u{202e}abc\u{2066}", "bidi \\u{202e}abc\\u{2066}"),
            ("nul\0bell\x07", "nul\\x00bell\\x07"),
            ("cut \x1b", "cut \\x1b"),
            ("cut \x1b[31", "cut \\x1b[31"),
            ("\x1b[31mred\x1b[39m", "\x1b[31mred\x1b[39m\x1b[0m"),
            ("\x1b[1;38;5;8mgrey", "\x1b[1;38;5;8mgrey\x1b[0m"),
            (
                "\x1b[38;2;1;2;3mrgb\x1b[m",
                "\x1b[38;2;1;2;3mrgb\x1b[m\x1b[0m",
            ),
            ("\x1b[8mhidden", "\\x1b[8mhidden"),
            ("\x1b[1;8mhidden", "\\x1b[1;8mhidden"),
            ("\x1b[5mblinks\x1b[7mturns", "\\x1b[5mblinks\\x1b[7mturns"),
            ("\x1b[38;5mshort", "\\x1b[38;5mshort"),
        ] {
            let safe = harmless(line.as_bytes());
            assert_eq!(String::from_utf8_lossy(&safe), expected, "{line:?}");
        }
        assert_eq!(&*harmless(b"\x9b2J\xff!"), b"\\x9b2J\\xff!");
    }

    #[test]
    fn plain_text_has_no_colours_either() {
        for (line, expected) in [
            (&b"plain, \xc3\xa4"[..], "plain, ä"),
            (b"a\tb\r", "a  b"),
            (b"\x1b[1;31mred\x1b[0m \x1b[8mhidden", "red \\x1b[8mhidden"),
            (b"\xff\x1b[2J", "\\xff\\x1b[2J"),
        ] {
            assert_eq!(plain(line), expected, "{line:?}");
        }
    }

    #[test]
    fn json_stays_json() {
        let json = "{\"line\":\"a\u{9b}2J \u{202e}b \\\\u\u{7f} ok\"}";
        let safe = harmless_json(json.as_bytes());
        assert_eq!(
            String::from_utf8_lossy(&safe),
            "{\"line\":\"a\\u009b2J \\u202eb \\\\u\\u007f ok\"}"
        );
        let [before, after] = [json.as_bytes(), &safe]
            .map(|json| serde_json::from_slice::<serde_json::Value>(json).unwrap());
        assert_eq!(before, after);
        assert!(matches!(
            harmless_json(b"{\"line\":\"a\"}"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn nothing_that_acts_is_left() {
        for first in 0..=255_u8 {
            for second in [b'[', b']', 0x9b, b'\r', b'c', 0x80] {
                let safe = harmless(&[first, second, b'x']).into_owned();
                let text = String::from_utf8(safe).unwrap();
                assert!(!text.chars().any(acts), "{first:x} {second:x}: {text:?}");
            }
        }
    }
}
