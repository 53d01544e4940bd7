//! The form of a line of output: as text behind the worker's name, or as a JSON object.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use jiff::Timestamp;
use segue_core::{Generation, SlotId, WorkerId};
use serde::Serialize;

use super::writer::Stream;
use crate::config::log::{LogFormat, LogSettings};
use crate::telemetry::terminal::{harmless, harmless_json};

/// Whose line it is.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) app: String,
    pub(crate) worker: WorkerId,
    pub(crate) slot: SlotId,
    pub(crate) generation: Generation,
}

/// A line, or a part of one that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a [u8],
    pub(super) is_continuation: bool,
    pub(super) is_cut: bool,
}

/// What lines look like, and whose they are where no worker's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) app: String,
    pub(crate) format: LogFormat,
    /// Text tells the time.
    pub(crate) time: bool,
}

/// Where lines go to, as far as it matters to their form.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reader {
    pub(super) is_terminal: bool,
    pub(super) is_coloured: bool,
    /// It reads a priority at the beginning of each line (sd-daemon(3)).
    pub(super) is_journal: bool,
}

/// Writes the lines of one batch.
#[derive(Debug)]
pub(super) struct Batch {
    format: LogFormat,
    is_harmless: bool,
    /// What each line begins with.
    head: String,
    pub(super) bytes: Vec<u8>,
}

/// Members of a line; the head of a batch is made from those before `line`.
#[derive(Serialize)]
struct Head<'a> {
    time: String,
    app: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
    stream: &'a str,
}

impl Reader {
    /// Colours are for a terminal, unless NO_COLOR or a dumb terminal say otherwise.
    pub(super) fn of(file: &OwnedFd) -> Self {
        let is_terminal = file.as_fd().is_terminal();
        Self {
            is_terminal,
            is_coloured: wants_colour(is_terminal),
            is_journal: is_journal(file),
        }
    }

    /// A stream to the journal.
    pub(super) const fn of_journal() -> Self {
        Self {
            is_terminal: false,
            is_coloured: false,
            is_journal: true,
        }
    }

    /// What a line of a worker begins with. Since there always is one, the program's own output
    /// cannot give itself another.
    const fn priority(self, printed: Stream) -> &'static str {
        match printed {
            _ if !self.is_journal => "",
            Stream::Err => "<3>",
            Stream::Out | Stream::Log => "<6>",
        }
    }
}

impl Layout {
    pub(crate) fn new(app: &str, settings: &LogSettings) -> Self {
        Self {
            app: app.to_owned(),
            format: settings.format,
            time: settings.time,
        }
    }

    /// For lines of a worker. `stream` is where it has printed them.
    pub(super) fn batch(
        &self,
        label: &Label,
        stream: Stream,
        reader: Reader,
        with_generation: bool,
    ) -> Batch {
        let said = match self.format {
            LogFormat::Text => {
                self.text_time() + &label.prefix(with_generation, reader.is_coloured)
            }
            LogFormat::Json => head(&Head {
                time: now(),
                app: &label.app,
                worker: Some(label.worker.0),
                slot: Some(label.slot.0),
                generation: Some(label.generation.0),
                stream: match stream {
                    Stream::Err => "stderr",
                    Stream::Out | Stream::Log => "stdout",
                },
            }),
        };
        Batch {
            format: self.format,
            is_harmless: reader.is_terminal,
            head: reader.priority(stream).to_owned() + &said,
            bytes: Vec::new(),
        }
    }

    /// A line of our own among them, with its newline.
    pub(super) fn note(&self, text: &str) -> Vec<u8> {
        let head = match self.format {
            LogFormat::Text => self.text_time() + "segue: ",
            LogFormat::Json => head(&Head {
                time: now(),
                app: &self.app,
                worker: None,
                slot: None,
                generation: None,
                stream: "segue",
            }),
        };
        let mut batch = Batch {
            format: self.format,
            is_harmless: false,
            head,
            bytes: Vec::new(),
        };
        batch.push(&Piece {
            text: text.as_bytes(),
            is_continuation: false,
            is_cut: false,
        });
        batch.bytes
    }

    fn text_time(&self) -> String {
        match self.time {
            true => now() + " ",
            false => String::new(),
        }
    }
}

impl Label {
    pub(super) fn prefix(&self, with_generation: bool, coloured: bool) -> String {
        let Self {
            app,
            slot: SlotId(slot),
            generation: Generation(generation),
            ..
        } = self;
        let name = if with_generation {
            format!("{app}.{slot} g{generation} |")
        } else {
            format!("{app}.{slot} |")
        };
        if coloured {
            // Cyan, yellow, green, magenta, blue: a slot keeps its colour.
            let colours = [36, 33, 32, 35, 34];
            let colour = colours.into_iter().cycle().nth(*slot as usize % 5);
            format!("\x1b[{}m{name}\x1b[0m ", colour.unwrap_or(36))
        } else {
            format!("{name} ")
        }
    }
}

impl Batch {
    /// What a line has beyond its text.
    pub(super) fn overhead(&self) -> usize {
        self.head.len() + "{}\"\"\n".len()
    }

    pub(super) fn push(&mut self, piece: &Piece<'_>) {
        self.bytes.extend_from_slice(self.head.as_bytes());
        match self.format {
            LogFormat::Text => self.push_text(piece),
            LogFormat::Json => self.push_json(piece),
        }
    }

    fn push_text(&mut self, piece: &Piece<'_>) {
        if piece.is_continuation {
            self.bytes.extend_from_slice("… ".as_bytes());
        }
        match self.is_harmless {
            true => self.bytes.extend_from_slice(&harmless(piece.text)),
            false => self.bytes.extend_from_slice(piece.text),
        }
        let end = if piece.is_cut { " …\n" } else { "\n" };
        self.bytes.extend_from_slice(end.as_bytes());
    }

    fn push_json(&mut self, piece: &Piece<'_>) {
        let line = String::from_utf8_lossy(piece.text);
        let is_text = matches!(line, std::borrow::Cow::Borrowed(_));
        // A string always has a JSON form, and memory takes it.
        let from = self.bytes.len();
        let _ = serde_json::to_writer(&mut self.bytes, &line);
        if self.is_harmless {
            let safe = harmless_json(self.bytes.get(from..).unwrap_or_default()).into_owned();
            self.bytes.truncate(from);
            self.bytes.extend_from_slice(&safe);
        }
        for (is_so, member) in [
            (!is_text, ",\"invalid_utf8\":true"),
            (piece.is_continuation, ",\"continues\":true"),
            (piece.is_cut, ",\"cut\":true"),
        ] {
            if is_so {
                self.bytes.extend_from_slice(member.as_bytes());
            }
        }
        self.bytes.extend_from_slice(b"}\n");
    }
}

/// An object that lacks its last member and its end.
fn head(head: &Head<'_>) -> String {
    // Strings and numbers always have a JSON form.
    let mut text = serde_json::to_string(head).unwrap_or_default();
    text.pop();
    text.push_str(",\"line\":");
    text
}

/// RFC 3339, in milliseconds.
fn now() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{now:.3}")
}

fn wants_colour(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !set("NO_COLOR") && !dumb
}

/// Whether it is the one that `JOURNAL_STREAM` names (systemd.exec(5)): others may have been put in its
/// place since.
fn is_journal(file: &OwnedFd) -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = rustix::fs::fstat(file);
    found.is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn label() -> Label {
        Label {
            app: "web".into(),
            worker: WorkerId(3),
            slot: SlotId(1),
            generation: Generation(7),
        }
    }

    fn printed(layout: &Layout, text: &[u8], reader: Reader) -> Vec<u8> {
        let mut batch = layout.batch(&label(), Stream::Err, reader, false);
        batch.push(&Piece {
            text,
            is_continuation: false,
            is_cut: false,
        });
        batch.bytes
    }

    #[test]
    fn a_label_is_short_and_stable() {
        let label = label();
        assert_eq!(label.prefix(false, false), "web.1 | ");
        assert_eq!(label.prefix(true, false), "web.1 g7 | ");
        assert_eq!(label.prefix(false, true), "\x1b[33mweb.1 |\x1b[0m ");
    }

    #[test]
    fn json_says_everything_and_is_one_line() {
        let layout = Layout {
            app: "web".into(),
            format: LogFormat::Json,
            time: false,
        };
        for (text, line, invalid) in [
            (&b"hello"[..], "hello", false),
            (b"", "", false),
            (
                b"a \"quote\" \\ \t \x1b[2J \x00",
                "a \"quote\" \\ \t \x1b[2J \0",
                false,
            ),
            (b"{\"level\":30}", "{\"level\":30}", false),
            (
                b"\xff\xfebinary\x80",
                "\u{fffd}\u{fffd}binary\u{fffd}",
                true,
            ),
        ] {
            let bytes = printed(&layout, text, Reader::default());
            assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["line"], line);
            assert_eq!(value.get("invalid_utf8").is_some(), invalid);
            assert_eq!(value["app"], "web");
            assert_eq!(value["worker"], 3);
            assert_eq!(value["slot"], 1);
            assert_eq!(value["generation"], 7);
            assert_eq!(value["stream"], "stderr");
            let time = value["time"].as_str().unwrap();
            assert_eq!(time.len(), "2026-01-01T00:00:00.000Z".len());
            assert!(time.parse::<Timestamp>().is_ok(), "{time}");
        }
        let note: Value = serde_json::from_slice(&layout.note("… 3 lines lost")).unwrap();
        assert_eq!(
            (&note["stream"], &note["line"]),
            (&"segue".into(), &"… 3 lines lost".into())
        );
    }

    #[test]
    fn only_a_terminal_is_protected() {
        let terminal = Reader {
            is_terminal: true,
            ..Reader::default()
        };
        let mut layout = Layout::default();
        let evil = "\x1b[2J\u{9b}J".as_bytes();
        let plain = printed(&layout, evil, Reader::default());
        assert_eq!(plain, ["web.1 | ".as_bytes(), evil, b"\n"].concat());
        assert_eq!(
            printed(&layout, evil, terminal),
            b"web.1 | \\x1b[2J\\u{9b}J\n"
        );
        layout.format = LogFormat::Json;
        let bytes = printed(&layout, evil, terminal);
        assert!(bytes.ends_with(b"\"line\":\"\\u001b[2J\\u009bJ\"}\n"));
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["line"].as_str().map(str::as_bytes), Some(evil));
    }

    #[test]
    fn a_journal_is_told_the_priority_and_the_program_cannot_change_it() {
        let journal = Reader {
            is_journal: true,
            ..Reader::default()
        };
        let mut layout = Layout::default();
        // `printed` prints to stderr.
        assert_eq!(printed(&layout, b"<0>x", journal), b"<3>web.1 | <0>x\n");
        assert_eq!(journal.priority(Stream::Out), "<6>");
        layout.format = LogFormat::Json;
        let bytes = printed(&layout, b"<0>x", journal);
        let object = bytes.strip_prefix(b"<3>").unwrap();
        let value: Value = serde_json::from_slice(object).unwrap();
        assert_eq!(value["line"], "<0>x");
    }

    #[test]
    fn text_tells_the_time_if_asked_to() {
        let layout = Layout {
            time: true,
            ..Layout::default()
        };
        let bytes = printed(&layout, b"x", Reader::default());
        let text = String::from_utf8(bytes).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.parse::<Timestamp>().is_ok(), "{text}");
        assert_eq!(rest, "web.1 | x\n");
    }
}
