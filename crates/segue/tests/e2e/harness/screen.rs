//! What a terminal makes of the bytes that it gets: a screen. It knows what a view of the whole screen needs,
//! and remembers everything else that it is told.

use std::fmt;

/// Larger than any terminal of a test.
const COLUMNS: usize = 300;
const ROWS: usize = 100;

/// A screen at one moment.
#[derive(Debug)]
pub(crate) struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    /// The one that leaves the other as it was.
    pub(crate) is_alternate: bool,
    pub(crate) has_cursor: bool,
    pub(crate) has_colours: bool,
    /// Sequences that it does not know.
    pub(crate) strange: Vec<String>,
}

impl Screen {
    /// After all of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut screen = Self {
            cells: vec![vec![' '; COLUMNS]; ROWS],
            at: (0, 0),
            is_alternate: false,
            has_cursor: true,
            has_colours: false,
            strange: Vec::new(),
        };
        let text = String::from_utf8_lossy(bytes);
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\x1b' => screen.sequence(&mut rest),
                '\r' => screen.at.1 = 0,
                '\n' => screen.at.0 += 1,
                c if c.is_control() => screen.strange.push(format!("{c:?}")),
                c => screen.put(c),
            }
        }
        screen
    }

    /// Its lines, without what is blank at their ends.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let lines = self.cells.iter().map(|cells| cells.iter().collect());
        lines.map(|line: String| line.trim_end().to_owned())
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        self.lines().any(|line| line.contains(text))
    }

    /// The line that begins so, in words.
    pub(crate) fn line(&self, beginning: &str) -> Option<Vec<String>> {
        let line = self.lines().find(|line| line.starts_with(beginning))?;
        Some(line.split_whitespace().map(str::to_owned).collect())
    }

    fn put(&mut self, c: char) {
        let (row, column) = self.at;
        if let Some(cell) = self.cells.get_mut(row).and_then(|row| row.get_mut(column)) {
            *cell = c;
        }
        self.at.1 += 1;
    }

    fn sequence(&mut self, rest: &mut std::str::Chars<'_>) {
        // It may not have come as a whole yet.
        match rest.next() {
            Some('[') => {}
            Some(other) => return self.strange.push(format!("ESC {other:?}")),
            None => return,
        }
        let mut parameters = String::new();
        let last = loop {
            match rest.next() {
                Some(c @ '@'..='~') => break c,
                Some(c) => parameters.push(c),
                None => return,
            }
        };
        let numbers = parameters.split(';');
        let numbers: Vec<usize> = numbers.map(|it| it.parse().unwrap_or(0)).collect();
        match (last, parameters.as_str()) {
            ('H', _) => {
                let number = |at: usize| numbers.get(at).copied().unwrap_or(1).max(1) - 1;
                self.at = (number(0), number(1));
            }
            ('J', "2") => self.clear(0, 0),
            ('J', "" | "0") => self.clear(self.at.0, self.at.1),
            ('m', _) => {
                let is_colour = |number: &usize| matches!(number, 30..=37 | 40..=47 | 90..=107);
                self.has_colours |= numbers.iter().any(is_colour) || parameters.contains(";5;");
            }
            ('h' | 'l', "?1049") => self.is_alternate = last == 'h',
            ('h' | 'l', "?25") => self.has_cursor = last == 'h',
            // Bracketed paste, of a shell.
            ('h' | 'l', "?2004") => {}
            _ => self.strange.push(format!("ESC [ {parameters} {last}")),
        }
    }

    fn clear(&mut self, row: usize, column: usize) {
        for (at, cells) in self.cells.iter_mut().enumerate().skip(row) {
            let first = if at == row { column } else { 0 };
            cells.iter_mut().skip(first).for_each(|cell| *cell = ' ');
        }
    }
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines().collect();
        let last = lines.iter().rposition(|line| !line.is_empty());
        for line in lines.iter().take(last.map_or(0, |last| last + 1)) {
            writeln!(f, "| {line}")?;
        }
        write!(f, "alternate: {}", self.is_alternate)
    }
}
