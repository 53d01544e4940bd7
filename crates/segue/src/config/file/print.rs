//! An app as TOML: what `init` and `import` write, and what reads back as the same.

use std::fmt::Write;

use super::expand::protect;
use super::shape::{Shape, shape};
use crate::config::keys::KEYS;
use crate::config::written::Written;

/// A text in quotes, as TOML has it, that expands to itself.
pub(crate) fn quoted(text: &str) -> String {
    literal(&protect(text))
}

/// The same, with its variables left to be replaced.
pub(crate) fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A key or the name of a table; in quotes where it must be.
pub(crate) fn bare(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(fits) {
        true => name.to_owned(),
        false => literal(name),
    }
}

/// Several texts.
pub(crate) fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.map(quoted).collect();
    format!("[{}]", texts.join(", "))
}

/// A whole app.
pub(crate) fn app(name: &str, command: &str, args: &[String], settings: &Written) -> String {
    let table = format!("app.{}", bare(name));
    let mut text = format!("[{table}]\ncommand = {}\n", quoted(command));
    if !args.is_empty() {
        let args = list(args.iter().map(String::as_str));
        let _ = writeln!(text, "args = {args}");
    }
    // A table's own keys come before those of the tables in it.
    let mut tables: Vec<&str> = Vec::new();
    for key in KEYS {
        let within = key.name.split_once('.').map_or("", |(within, _)| within);
        if !tables.contains(&within) {
            tables.push(within);
        }
    }
    tables.sort_by_key(|within| !within.is_empty());
    for within in tables {
        let lines: Vec<String> = KEYS
            .iter()
            .filter(|key| key.name != "name")
            .filter_map(|key| {
                let own = match within {
                    "" => (!key.name.contains('.')).then_some(key.name),
                    _ => key.name.strip_prefix(within)?.strip_prefix('.'),
                };
                line(own?, key.name, settings)
            })
            .collect();
        if lines.is_empty() {
            continue;
        }
        if !within.is_empty() {
            let _ = write!(text, "\n[{table}.{within}]\n");
        }
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// A key with its value, if it has one.
fn line(own: &str, key: &str, settings: &Written) -> Option<String> {
    let last = settings.last(key)?;
    let value = match shape(key) {
        Shape::Variables => {
            // The last one of a name counts.
            let mut lines: Vec<(&str, &str)> = Vec::new();
            for variable in settings.values(key) {
                let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
                lines.retain(|(known, _)| *known != name);
                lines.push((name, value));
            }
            let lines = lines
                .into_iter()
                .map(|(name, value)| format!("{} = {}", bare(name), quoted(value)));
            format!("{{ {} }}", lines.collect::<Vec<_>>().join(", "))
        }
        Shape::Texts | Shape::Headers => list(settings.values(key)),
        Shape::Watch => match settings.values(key).collect::<Vec<_>>().as_slice() {
            [one @ ("on" | "off")] => (*one == "on").to_string(),
            several => list(several.iter().copied()),
        },
        Shape::Ready => {
            let rules = settings
                .values(key)
                .map(|rule| match rule.strip_prefix("http=") {
                    Some(path) => format!("{{ http = {} }}", quoted(path)),
                    None => quoted(rule),
                });
            let rules: Vec<String> = rules.collect();
            match rules.as_slice() {
                [one] => one.clone(),
                several => format!("[{}]", several.join(", ")),
            }
        }
        Shape::Switch => (last == "on").to_string(),
        Shape::Number | Shape::Amount if last.bytes().all(|b| b.is_ascii_digit()) => {
            last.trim_start_matches('0').to_owned()
        }
        Shape::Number
        | Shape::Amount
        | Shape::Text
        | Shape::Canary
        | Shape::Intensity
        | Shape::Request => quoted(last),
    };
    Some(format!("{own} = {value}"))
}
