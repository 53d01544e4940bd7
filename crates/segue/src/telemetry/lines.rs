//! A notice as lines of text: what happened, the worker's last words, what to do next.

use segue_wire::control::{Failure, Notice};

/// What the supervisor's own lines begin with, so that they stand apart from the workers'.
pub(crate) const PREFIX: &str = "segue: ";

/// What is said of an app, where there are others.
pub(crate) fn of_app(app: &str, text: &str) -> String {
    match text.strip_prefix(app) {
        // It names its app itself.
        Some(rest) if app.is_empty() || rest.starts_with([' ', ':']) => text.to_owned(),
        _ => format!("{app}: {text}"),
    }
}

/// The lines of a notice, each with [`PREFIX`]. Never empty, no line ends inside.
pub(crate) fn notice(notice: &Notice) -> Vec<String> {
    let mut lines = vec![format!("{PREFIX}{}", notice.text)];
    if let Some(failure) = &notice.failure {
        let details = self::failure(failure);
        lines.extend(details.into_iter().map(|line| format!("{PREFIX}{line}")));
    }
    lines
}

/// What is known of a failure beyond its text: the last lines on stderr, and what to do.
fn failure(failure: &Failure) -> Vec<String> {
    let mut lines = tail(&failure.stderr);
    if !failure.next.is_empty() {
        lines.push(format!("  what to do: {}", failure.next));
    }
    lines
}

/// A worker's last lines on stderr, with a heading; nothing if there are none.
pub(crate) fn tail<'a>(stderr: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let quoted = stderr
        .into_iter()
        .map(|line| format!("  | {}", printable(line)));
    let mut lines = vec!["  its last lines on stderr:".to_owned()];
    lines.extend(quoted);
    if lines.len() == 1 {
        lines.clear();
    }
    lines
}

// What an app prints must not move the cursor or recolour the operator's terminal.
fn printable(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            // A control sequence (ECMA-48, 5.4): up to its final byte.
            '\u{1b}' => {
                let mut sequence = rest.clone();
                if sequence.next() == Some('[') {
                    rest = sequence;
                    rest.by_ref().find(|c| matches!(c, '@'..='~'));
                }
            }
            '\t' => shown.push(c),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_cannot_play_with_the_terminal() {
        for (line, expected) in [
            ("Error: no such table", "Error: no such table"),
            ("\u{1b}[31mred\u{1b}[0m\tplain", "red\tplain"),
            ("\u{1b}[2J\u{1b}[1;1Hgone", "gone"),
            ("a\rb\u{7}", "a\u{fffd}b\u{fffd}"),
            ("\u{1b}c", "c"),
            ("open \u{1b}[", "open "),
        ] {
            assert_eq!(printable(line), expected);
        }
    }
}
