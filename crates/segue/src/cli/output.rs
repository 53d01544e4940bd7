//! Where commands write: lines on stdout and stderr, colours only where somebody sees them.
//!
//! A reader that has gone (`segue status | head -1`) is no error, and does not change what a command does.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;

use super::error::Trouble;
use crate::exit::Exit;
use crate::telemetry::log::Verbosity;

/// The two streams of a command.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) verbosity: Verbosity,
    colours: Colours,
    sinks: Rc<Sinks>,
}

struct Sinks {
    out: RefCell<Box<dyn Write>>,
    err: RefCell<Box<dyn Write>>,
    /// The first failure to write on stdout; afterwards nothing more is written there.
    failed: Cell<Option<io::ErrorKind>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Colours {
    out: bool,
    err: bool,
}

/// A colour by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Careful,
    Bad,
    Faint,
    /// An app's own: the code of a colour.
    App(u8),
}

impl Tone {
    /// An app keeps its colour, whoever runs beside it.
    pub(crate) fn of_app(name: &str) -> Self {
        // Cyan, yellow, magenta, blue, green.
        let colours = [36, 33, 35, 34, 32];
        let sum = name.bytes().map(usize::from).sum::<usize>();
        let colour = colours.into_iter().cycle().nth(sum % 5);
        Self::App(colour.unwrap_or(36))
    }
}

impl Output {
    /// Stdout and stderr; colours by terminal and environment (<https://no-color.org>).
    pub(crate) fn of_this_process(json: bool, verbosity: Verbosity) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colours = Colours {
            out: wanted && io::stdout().is_terminal(),
            err: wanted && io::stderr().is_terminal(),
        };
        Self::new(
            Box::new(io::stdout()),
            Box::new(io::stderr()),
            colours,
            json,
            verbosity,
        )
    }

    fn new(
        out: Box<dyn Write>,
        err: Box<dyn Write>,
        colours: Colours,
        json: bool,
        verbosity: Verbosity,
    ) -> Self {
        let sinks = Rc::new(Sinks {
            out: RefCell::new(out),
            err: RefCell::new(err),
            failed: Cell::new(None),
        });
        Self {
            json,
            verbosity,
            colours,
            sinks,
        }
    }

    /// One line on stdout.
    pub(crate) fn line(&self, text: &str) {
        if self.sinks.failed.get().is_some() {
            return;
        }
        let mut out = self.sinks.out.borrow_mut();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        if let Err(error) = written {
            self.sinks.failed.set(Some(error.kind()));
        }
    }

    /// One line on stdout that need not be text.
    pub(crate) fn bytes(&self, line: &[u8]) {
        if self.sinks.failed.get().is_some() {
            return;
        }
        let mut out = self.sinks.out.borrow_mut();
        let written = out.write_all(&[line, b"\n"].concat());
        if let Err(error) = written.and_then(|()| out.flush()) {
            self.sinks.failed.set(Some(error.kind()));
        }
    }

    /// One line on stderr.
    pub(crate) fn complain(&self, text: &str) {
        // There is nowhere left to say that it failed.
        let _ = writeln!(self.sinks.err.borrow_mut(), "{text}");
    }

    /// Whether what goes to stdout may have colours.
    pub(crate) fn has_colours(&self) -> bool {
        self.colours.out
    }

    /// Whether what goes to stderr may have colours.
    pub(crate) fn colours_complaints(&self) -> bool {
        self.colours.err
    }

    /// An error: what failed, why, what to do next. With `--json` as a line of JSON on stdout as well.
    pub(crate) fn trouble(&self, trouble: &Trouble) {
        if self.json {
            let error = serde_json::json!({
                "what": trouble.what, "message": trouble.why, "next": trouble.next,
                "exit": trouble.exit.code(),
            });
            self.line(&serde_json::json!({ "error": error }).to_string());
        }
        self.complain(&format!(
            "{} {trouble}",
            paint("segue:", Tone::Bad, self.colours.err)
        ));
    }

    /// A piece of a line for stdout, coloured.
    pub(crate) fn tone(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colours.out)
    }

    /// Whether nothing more can be written.
    pub(crate) fn is_broken(&self) -> bool {
        self.sinks.failed.get().is_some()
    }

    /// The exit code, given how writing went.
    pub(crate) fn finish(&self, exit: Exit) -> Exit {
        match self.sinks.failed.get() {
            None | Some(io::ErrorKind::BrokenPipe) => exit,
            Some(kind) => {
                self.complain(&format!(
                    "segue: cannot write to stdout: {kind}; check where it leads"
                ));
                if exit == Exit::Done {
                    Exit::Failed
                } else {
                    exit
                }
            }
        }
    }
}

fn paint(text: &str, tone: Tone, on: bool) -> String {
    if !on {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Careful => 33,
        Tone::Bad => 31,
        Tone::Faint => 2,
        Tone::App(colour) => colour,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// For tests: an output that is kept.
#[cfg(test)]
pub(crate) mod kept {
    use super::{Cell, Colours, Output, Rc, RefCell, Verbosity, Write, io};

    /// What was written.
    #[derive(Clone, Default)]
    pub(crate) struct Kept(Rc<RefCell<Vec<u8>>>);

    impl Kept {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Plain text, normal verbosity; stdout, then stderr.
    pub(crate) fn output() -> (Output, Kept, Kept) {
        let (out, err) = (Kept::default(), Kept::default());
        let sinks = (Box::new(out.clone()), Box::new(err.clone()));
        let output = Output::new(
            sinks.0,
            sinks.1,
            Colours::default(),
            false,
            Verbosity::Normal,
        );
        (output, out, err)
    }

    /// Fails with this kind from the first byte on, and counts the tries.
    pub(crate) struct Broken(pub(crate) io::ErrorKind, pub(crate) Rc<Cell<u32>>);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.1.set(self.1.get() + 1);
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::kept::{Broken, Kept, output};
    use super::*;

    #[test]
    fn a_reader_that_left_is_no_error() {
        for (kind, exit) in [
            (io::ErrorKind::BrokenPipe, Exit::Done),
            (io::ErrorKind::StorageFull, Exit::Failed),
        ] {
            let tries = Rc::new(Cell::new(0));
            let broken = Box::new(Broken(kind, Rc::clone(&tries)));
            let err = Box::new(Kept::default());
            let output = Output::new(broken, err, Colours::default(), false, Verbosity::Normal);
            output.line("one");
            output.line("two");
            assert_eq!(tries.get(), 1);
            assert_eq!(output.finish(Exit::Done), exit);
            assert_eq!(output.finish(Exit::Conflict), Exit::Conflict);
        }
    }

    #[test]
    fn errors_have_one_shape() {
        let (mut output, out, err) = output();
        let trouble = Trouble::new(
            "cannot reload",
            "nobody is there",
            "start it",
            Exit::NotFound,
        );
        output.trouble(&trouble);
        assert_eq!(
            err.text(),
            "segue: cannot reload: nobody is there; start it\n"
        );
        assert_eq!(out.text(), "");
        output.json = true;
        output.trouble(&trouble);
        assert!(out.text().contains("\"exit\":3"), "{}", out.text());
    }

    #[test]
    fn colours_only_where_somebody_sees_them() {
        assert_eq!(paint("x", Tone::Bad, false), "x");
        assert_eq!(paint("x", Tone::Bad, true), "\u{1b}[31mx\u{1b}[0m");
    }
}
