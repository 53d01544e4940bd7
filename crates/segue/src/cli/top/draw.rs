//! The screen as it should look: from the state to cells. Whatever the size, it fits, or it is cut.

use jiff::tz::TimeZone;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;
use ratatui::widgets::{Block, Borders, Clear, Widget};

use super::rows::{CONNECTIONS, PHASE, Row};
use super::state::{LogPane, Mode, News, State, shown};
use super::table::{Content, GAP, NOTE_LINES, Table, cut, width_of, wrapped};
use crate::cli::logs::NO_FILE;
use crate::cli::output::Tone;
use crate::cli::status::{memory, ms, supervisor_words};
use crate::telemetry::terminal::plain;

/// Numbers, which stand at the right of their column.
const NUMBERS: [usize; 7] = [1, 2, 3, CONNECTIONS, 7, 8, 9];
/// Below so many lines there is no pane beside the table.
const ROOMY: u16 = 8;
/// Lines of the pane of news, its title included, where the table needs the rest.
const NEWS: u16 = 8;

const KEYS: &str = "q quit  j/k select  Enter fold  l log  r reload  ? help";
const HELP: &[&str] = &[
    "up, down, j, k    select an app or a worker",
    "PgUp, PgDn, g, G  further",
    "Enter, space      fold the app, or show its workers",
    "l                 its log file, if it has one",
    "r                 reload the app, after a question",
    "^L                draw everything anew",
    "^Z                suspend",
    "q, Esc, ^C        quit",
    "",
    "CPU is of the time since the look before. RESTARTS",
    "of a worker are those of its slot since the last",
    "reload, of an app all since its start: segue why.",
];

/// How things are shown.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) has_colours: bool,
    pub(super) zone: TimeZone,
}

impl Look {
    fn style(&self, tone: Tone) -> Style {
        let colour = |colour| match self.has_colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        };
        match tone {
            Tone::Good => colour(Color::Green),
            Tone::Careful => colour(Color::Yellow),
            Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Faint => Style::new().add_modifier(Modifier::DIM),
            Tone::App(_) => Style::new(),
        }
    }

    fn time(&self, at: jiff::Timestamp) -> String {
        let at = at.to_zoned(self.zone.clone()).time();
        format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
    }
}

/// Draws all of it.
pub(super) fn draw(state: &State, look: &Look, area: Rect, buffer: &mut Buffer) {
    let mut canvas = Canvas { buffer, look };
    let mut body = area;
    canvas.text(
        take_top(&mut body, 1),
        &header(state),
        Modifier::BOLD.into(),
    );
    if let Some(silence) = silence(state, look) {
        let lines = wrapped(&silence, usize::from(area.width), NOTE_LINES);
        for line in lines {
            canvas.text(take_top(&mut body, 1), &line, look.style(Tone::Bad));
        }
    }
    // Who sees one line more of the table is better served than by keys that he knows.
    let footer = take_bottom(&mut body, u16::from(area.height > 3));
    let (text, style) = footer_of(state, look);
    canvas.text(footer, &text, style);

    let table = Table::new(state, usize::from(area.width));
    let needed = u16::try_from(table.lines.len() + 1).unwrap_or(u16::MAX);
    let panes = match (body.height < ROOMY, &state.log) {
        (true, None) => 0,
        (true, Some(_)) => body.height / 2,
        (false, log) => {
            let news = u16::try_from(state.news.len() + 1).unwrap_or(NEWS);
            let wanted = match log {
                Some(_) => body.height,
                None => news.clamp(3, NEWS),
            };
            wanted
                .min(body.height / 2)
                .max(body.height.saturating_sub(needed + 1))
        }
    };
    let mut panes = take_bottom(&mut body, panes);
    if let Some(log) = &state.log {
        let height = match panes.height < ROOMY {
            true => panes.height,
            false => panes.height * 3 / 5,
        };
        let pane = take_bottom(&mut panes, height);
        canvas.log(pane, log);
    }
    canvas.news(panes, &state.news);
    canvas.table(body, &table, state.silence.is_some());
    if state.mode == Mode::Help {
        canvas.help(area);
    }
}

fn header(state: &State) -> String {
    let mut supervisor = state.status.supervisor.clone();
    if supervisor.keeper_version.as_ref() == Some(&supervisor.version) {
        // Room is scarce, and there is nothing to be seen to.
        supervisor.keeper_version = None;
    }
    let mut header = supervisor_words(&supervisor);
    if let Some(bytes) = supervisor.memory {
        header.push_str(&format!(", {}", memory(bytes)));
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let apps = state.apps().count();
    let workers: usize = state.apps().map(|app| app.workers.len()).sum();
    header.push_str(&format!(
        ", {apps} app{}, {workers} worker{}",
        plural(apps),
        plural(workers)
    ));
    plain(header.as_bytes())
}

fn silence(state: &State, look: &Look) -> Option<String> {
    let silence = state.silence.as_ref()?;
    let since = look.time(silence.since.wall);
    let lasts = state.now.at.saturating_duration_since(silence.since.at);
    let lasts = ms(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
    let why = silence.why.as_ref();
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    Some(format!("no answer since {since}, for {lasts}{why}"))
}

fn footer_of(state: &State, look: &Look) -> (String, Style) {
    match (&state.mode, &state.said) {
        (Mode::Question(app), _) => (format!("reload {}? y/n", shown(app)), Modifier::BOLD.into()),
        (Mode::Table | Mode::Help, Some((said, tone))) => (said.clone(), look.style(*tone)),
        (Mode::Table | Mode::Help, None) => (KEYS.to_owned(), look.style(Tone::Faint)),
    }
}

/// Where things are drawn, and how.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    look: &'a Look,
}

impl Canvas<'_> {
    /// One line of text in the first line of the area, cut if need be; gives its end.
    fn text(&mut self, area: Rect, text: &str, style: Style) -> u16 {
        let area = area.intersection(self.buffer.area);
        if area.is_empty() {
            return area.x;
        }
        let text = cut(text, usize::from(area.width));
        let width = usize::from(area.width);
        let (end, _) = self.buffer.set_stringn(area.x, area.y, text, width, style);
        end
    }

    fn table(&mut self, mut area: Rect, table: &Table, is_old: bool) {
        let faint = self.look.style(Tone::Faint);
        if let Some(empty) = &table.empty {
            self.text(area, empty, faint);
            return;
        }
        let heading = take_top(&mut area, 1);
        self.cells(heading, table, &table.headings, |_| faint);
        let first = table.first(usize::from(area.height));
        for line in table.lines.iter().skip(first) {
            let place = take_top(&mut area, 1);
            if place.is_empty() {
                break;
            }
            match &line.content {
                Content::Row(row) => self.row(place, table, row),
                Content::Note(note, tone) => {
                    let style = tone.map_or(faint, |tone| self.look.style(tone));
                    self.text(place, note, style);
                }
            }
            let mut over = Style::new();
            if line.is_selected {
                over = over.add_modifier(Modifier::REVERSED);
            }
            if is_old {
                over = over.add_modifier(Modifier::DIM);
            }
            self.buffer.set_style(place, over);
        }
    }

    fn row(&mut self, place: Rect, table: &Table, row: &Row) {
        let tone = self.look.style(row.tone);
        let of_app = match row.place.worker {
            Some(_) => Style::new(),
            None => Modifier::BOLD.into(),
        };
        let style = |at| if at == PHASE { tone } else { of_app };
        let used = self.cells(place, table, &row.cells, style);
        if let Some((note, tone)) = row.notes.first() {
            let mut rest = place;
            take_left(&mut rest, used);
            let style = tone.map_or_else(Style::new, |tone| self.look.style(tone));
            self.text(rest, note, style);
        }
    }

    /// Cells in their columns; gives the width of all.
    fn cells(
        &mut self,
        mut place: Rect,
        table: &Table,
        cells: &[String; 10],
        style: impl Fn(usize) -> Style,
    ) -> u16 {
        let before = place.x;
        for (at, width) in &table.columns {
            let (Some(cell), Ok(column)) = (cells.get(*at), u16::try_from(*width)) else {
                continue;
            };
            let mut column = take_left(&mut place, column);
            take_left(&mut place, GAP as u16);
            if NUMBERS.contains(at) {
                let before = width.saturating_sub(width_of(cell));
                take_left(&mut column, u16::try_from(before).unwrap_or(0));
            }
            self.text(column, cell, style(*at));
        }
        place.x - before
    }

    fn news<'a>(
        &mut self,
        area: Rect,
        news: impl IntoIterator<Item = &'a News, IntoIter: DoubleEndedIterator>,
    ) {
        let area = self.titled(area, "events");
        let faint = self.look.style(Tone::Faint);
        let mut news = news.into_iter().rev().peekable();
        if news.peek().is_none() {
            self.text(area, "nothing has happened since this view began", faint);
        }
        let latest: Vec<&News> = news.take(usize::from(area.height)).collect();
        let mut area = area;
        for News { at, text, tone } in latest.into_iter().rev() {
            let mut line = take_top(&mut area, 1);
            if let Some(at) = at {
                let end = self.text(line, &format!("{} ", self.look.time(*at)), faint);
                let used = end - line.x;
                take_left(&mut line, used);
            }
            let style = tone.map_or_else(Style::new, |tone| self.look.style(tone));
            self.text(line, text, style);
        }
    }

    fn log(&mut self, area: Rect, pane: &LogPane) {
        let app = shown(&pane.app);
        let Some(log) = &pane.log else {
            let area = self.titled(area, &format!("log of {app}"));
            self.text(area, NO_FILE, self.look.style(Tone::Faint));
            return;
        };
        let mut area = self.titled(area, &format!("log of {app}: {}", shown(&log.path)));
        if let Some(trouble) = &pane.trouble {
            let style = self.look.style(Tone::Bad);
            self.text(take_bottom(&mut area, 1), trouble, style);
        }
        let lines = pane.lines.len();
        let first = lines.saturating_sub(usize::from(area.height));
        for line in pane.lines.iter().skip(first) {
            self.text(take_top(&mut area, 1), line, Style::new());
        }
    }

    /// Draws the title of a pane; gives what is left of it.
    fn titled(&mut self, area: Rect, title: &str) -> Rect {
        let title = cut(title, usize::from(area.width.saturating_sub(4)));
        let title = Span::styled(format!(" {title} "), Modifier::BOLD);
        let faint = self.look.style(Tone::Faint);
        let block = Block::new().borders(Borders::TOP).border_style(faint);
        let block = block.title(title);
        let inner = block.inner(area);
        block.render(area, self.buffer);
        inner
    }

    fn help(&mut self, area: Rect) {
        let widest = HELP.iter().map(|line| width_of(line)).max().unwrap_or(0);
        let [width, height] = [widest + 4, HELP.len() + 2];
        let [width, height] = [width, height].map(|it| u16::try_from(it).unwrap_or(u16::MAX));
        let place = area.centered(
            ratatui::layout::Constraint::Length(width),
            ratatui::layout::Constraint::Length(height),
        );
        let place = place.intersection(area);
        Clear.render(place, self.buffer);
        let block = Block::bordered().title(" keys ");
        let mut inner = block.inner(place);
        block.render(place, self.buffer);
        for line in HELP {
            let mut line_place = take_top(&mut inner, 1);
            take_left(&mut line_place, 1);
            self.text(line_place, line, Style::new());
        }
    }
}

fn take_top(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    let taken = Rect { height, ..*area };
    area.y += height;
    area.height -= height;
    taken
}

fn take_bottom(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    area.height -= height;
    let y = area.y + area.height;
    Rect { y, height, ..*area }
}

fn take_left(area: &mut Rect, width: u16) -> Rect {
    let width = width.min(area.width);
    let taken = Rect { width, ..*area };
    area.x += width;
    area.width -= width;
    taken
}
