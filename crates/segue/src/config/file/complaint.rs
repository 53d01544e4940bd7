//! What is wrong with a file: where, what, and what to write instead; as a report for people, and as
//! one line for logs.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) what: String,
    /// The bytes it is about.
    pub(crate) span: Range<usize>,
    /// What to do about it.
    pub(crate) help: String,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// In the order of the file; not empty.
    pub(crate) complaints: Vec<Complaint>,
}

/// Why there is nothing to run in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}: {source}; name the file with -c FILE, or write one with segue init", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Refused(Box<Refused>),
    #[error("there is no app {app} in {}; it has {apps}", path.display())]
    NoSuchApp {
        path: PathBuf,
        app: String,
        apps: String,
    },
    #[error(
        "{} has several apps ({apps}), and one supervisor runs one of them: name it, as in segue run {first}",
        path.display()
    )]
    Several {
        path: PathBuf,
        apps: String,
        first: String,
    },
    #[error("{0}")]
    Other(String),
}

impl FileError {
    /// All of it, with the lines that are meant.
    pub(crate) fn report(&self, colours: bool) -> String {
        match self {
            Self::Refused(refused) => refused.report(colours),
            Self::Read { .. } | Self::NoSuchApp { .. } | Self::Several { .. } | Self::Other(_) => {
                self.to_string()
            }
        }
    }
}

impl Refused {
    pub(crate) fn new(path: &Path, text: &str, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| complaint.span.start);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            complaints,
        }
    }

    /// Each complaint with its line.
    pub(crate) fn report(&self, colours: bool) -> String {
        let renderer = match colours {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let path = self.path.display().to_string();
        let reports = self.complaints.iter().map(|complaint| {
            let span = self.clamped(&complaint.span);
            let snippet = Snippet::source(self.text.as_str())
                .path(path.as_str())
                .annotation(AnnotationKind::Primary.span(span));
            let mut report = vec![
                Group::with_title(Level::ERROR.primary_title(complaint.what.as_str()))
                    .element(snippet),
            ];
            if !complaint.help.is_empty() {
                let help = Level::HELP.secondary_title(complaint.help.as_str());
                report.push(Group::with_title(help));
            }
            renderer.render(&report)
        });
        reports.collect::<Vec<_>>().join("\n\n")
    }

    /// A span within the text, of whole characters.
    fn clamped(&self, span: &Range<usize>) -> Range<usize> {
        let text = &self.text;
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
        start..end
    }

    /// Line and column, from 1, in characters.
    fn position(&self, complaint: &Complaint) -> (usize, usize) {
        let start = self.clamped(&complaint.span).start;
        let before = self.text.get(..start).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default();
        (line, 1 + column.chars().count())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.complaints.first() else {
            return Ok(());
        };
        let (line, column) = self.position(first);
        write!(f, "{}:{line}:{column}: {}", self.path.display(), first.what)?;
        if !first.help.is_empty() {
            write!(f, "; {}", first.help)?;
        }
        match self.complaints.len() {
            0 | 1 => Ok(()),
            all => write!(f, " (and {} more; segue check shows all)", all - 1),
        }
    }
}

impl std::error::Error for Refused {}
