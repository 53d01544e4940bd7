//! The table as lines of a given width: which columns have room, where notes stand, what is in sight.

use ratatui::text::Span;

use super::rows::{CONNECTIONS, Row, headings};
use super::state::State;
use crate::cli::output::Tone;

/// Positions of columns, those that are dropped first where there is no room; name and phase stay.
const LEAST_NEEDED: [usize; 8] = [2, 5, 9, 7, 8, 1, CONNECTIONS, 3];
/// A note begins behind its row if it has so much room there or fits, else beneath it.
const NOTE: usize = 40;
/// Lines of one note, at most.
pub(super) const NOTE_LINES: usize = 3;
pub(super) const GAP: usize = 2;

/// The table, line by line.
pub(super) struct Table {
    /// Positions and widths of the columns that have room.
    pub(super) columns: Vec<(usize, usize)>,
    pub(super) headings: [String; 10],
    pub(super) lines: Vec<TableLine>,
    /// Why there is no row.
    pub(super) empty: Option<String>,
}

pub(super) struct TableLine {
    pub(super) content: Content,
    pub(super) is_selected: bool,
}

pub(super) enum Content {
    Row(Box<Row>),
    /// What has no room behind its row.
    Note(String, Option<Tone>),
}

impl Table {
    pub(super) fn new(state: &State, width: usize) -> Self {
        let rows = state.rows();
        let selected = state.selected(&rows);
        let headings = headings();
        let columns = columns(&headings, &rows, width);
        let used: usize = columns.iter().map(|(_, width)| width + GAP).sum();
        let room = width.saturating_sub(used);
        let mut lines = Vec::new();
        for (at, mut row) in rows.into_iter().enumerate() {
            let is_selected = selected == Some(at);
            let notes = std::mem::take(&mut row.notes);
            let mut notes = notes.into_iter().peekable();
            let fits = |note: &(String, Option<Tone>)| room >= NOTE || width_of(&note.0) <= room;
            // The first one only: the others would not be told apart.
            row.notes.extend(notes.next_if(fits));
            let indented = if row.place.worker.is_some() { 6 } else { 4 };
            let is_cut = |note: &(String, Option<Tone>)| width_of(&note.0) > room;
            let mut beneath: Vec<(String, Option<Tone>)> = Vec::new();
            if let Some((note, tone)) = row.notes.first_mut().filter(|note| is_cut(note)) {
                let lines = wrapped(note, room, NOTE_LINES);
                let mut lines = lines.into_iter();
                *note = lines.next().unwrap_or_default();
                let behind = " ".repeat(used);
                beneath.extend(lines.map(|line| (format!("{behind}{line}"), *tone)));
            }
            for (note, tone) in notes {
                let lines = wrapped(&note, width.saturating_sub(indented), NOTE_LINES);
                let before = " ".repeat(indented);
                beneath.extend(
                    lines
                        .into_iter()
                        .map(|line| (format!("{before}{line}"), tone)),
                );
            }
            lines.push(TableLine {
                content: Content::Row(Box::new(row)),
                is_selected,
            });
            lines.extend(beneath.into_iter().map(|(note, tone)| TableLine {
                content: Content::Note(note, tone),
                is_selected,
            }));
        }
        Self {
            columns,
            headings,
            empty: lines.is_empty().then(|| state.emptiness()),
            lines,
        }
    }

    /// The first line that is shown, so that what is selected is.
    pub(super) fn first(&self, height: usize) -> usize {
        let Some(last) = self.lines.iter().rposition(|line| line.is_selected) else {
            return 0;
        };
        let first = self.lines.iter().position(|line| line.is_selected);
        let enough = (last + 1).saturating_sub(height);
        enough.min(first.unwrap_or(0))
    }
}

/// The columns that fit, with their widths.
fn columns(headings: &[String; 10], rows: &[Row], width: usize) -> Vec<(usize, usize)> {
    let mut columns: Vec<(usize, usize)> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| {
            let cells = rows.iter().filter_map(|row| row.cells.get(at));
            let widest = cells.chain([heading]).map(|cell| width_of(cell)).max();
            (at, widest.unwrap_or(0))
        })
        .collect();
    let counts = |row: &Row| matches!(row.cells[CONNECTIONS].as_str(), "" | "-");
    if rows.iter().all(counts) {
        columns.retain(|(at, _)| *at != CONNECTIONS);
    }
    let fits = |columns: &[(usize, usize)]| {
        let all: usize = columns.iter().map(|(_, width)| width + GAP).sum();
        all.saturating_sub(GAP) <= width
    };
    for least in LEAST_NEEDED {
        if fits(&columns) {
            break;
        }
        columns.retain(|(at, _)| *at != least);
    }
    if !fits(&columns)
        && let [(_, name), (_, phase)] = columns.as_mut_slice()
    {
        // What is left of the name, and the phase.
        *name = width.saturating_sub(GAP + *phase).max(width / 2);
    }
    columns
}

/// How many cells a text takes.
pub(super) fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text, or as much of it as there is room for.
pub(super) fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += width_of(c.encode_utf8(&mut [0; 4]));
        if used > width {
            break;
        }
        cut.push(c);
    }
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// Lines of words; what goes beyond the last one is cut off.
pub(super) fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if lines.len() + 1 >= most || width_of(rest) <= width {
            lines.push(cut(rest, width));
            break;
        }
        let mut used = 0;
        let fits = |(at, c): (usize, char)| {
            used += width_of(c.encode_utf8(&mut [0; 4]));
            (used <= width).then_some(at + c.len_utf8())
        };
        let end = rest
            .char_indices()
            .map_while(fits)
            .last()
            .unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        // Between words, unless one is as long as the line.
        let end = match line.rfind(' ') {
            Some(space) if !after.starts_with(' ') => space,
            _ => end,
        };
        let (line, after) = rest.split_at(end.max(1));
        lines.push(line.trim_end().to_owned());
        rest = after.trim_start();
    }
    lines
}
