//! Env files: `KEY=VALUE` lines, as dotenv and Docker users write them. Values are taken
//! literally: nothing is expanded, no command is run.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Why an env file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvFileError {
    #[error("cannot read the env file {}: {source}; check the path given with --env-file", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {what}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        what: LineError,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("`{0}` has no value: write {0}=value")]
    NoEquals(String),
    #[error(
        "`{0}` is no name of a variable: use letters, digits and _, not beginning with a digit"
    )]
    BadName(String),
    #[error("the quote {0} that begins here is not closed")]
    UnclosedQuote(char),
    #[error("`{0}` follows the closing quote: put a # before a comment")]
    AfterQuote(String),
    #[error("the value holds a NUL byte")]
    Nul,
}

/// Reads an env file, in the order of its lines.
///
/// # Errors
/// That it cannot be read, or the first line that is wrong.
pub(crate) fn read_env_file(path: &Path) -> Result<Vec<(OsString, OsString)>, EnvFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| EnvFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|(line, what)| EnvFileError::Line {
        path: path.to_owned(),
        line,
        what,
    })
}

/// Whether a shell, and everybody else, can use the name.
pub(crate) fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads the text of one.
///
/// # Errors
/// The first line that is wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<(OsString, OsString)>, (usize, LineError)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let number = 1 + text[..text.len() - rest.len()].matches('\n').count();
        let fail = |what| (number, what);
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            rest = after;
            continue;
        }
        // Only the first line is looked at here: the value may go on over several.
        if !line.contains('=') {
            return Err(fail(LineError::NoEquals(line.to_owned())));
        }
        let Some((name, tail)) = rest.split_once('=') else {
            break;
        };
        let name = name.trim();
        let name = name
            .strip_prefix("export")
            .filter(|name| name.starts_with(char::is_whitespace))
            .map_or(name, str::trim_start);
        if !is_variable_name(name) {
            return Err(fail(LineError::BadName(name.to_owned())));
        }
        let (value, after) = value(tail).map_err(fail)?;
        if value.contains('\0') {
            return Err(fail(LineError::Nul));
        }
        variables.push((name.into(), value.into()));
        rest = after;
    }
    Ok(variables)
}

/// The value that `tail` begins with, and what comes after its line.
fn value(tail: &str) -> Result<(String, &str), LineError> {
    let tail = tail.trim_start_matches([' ', '\t']);
    let Some(quote) = tail
        .chars()
        .next()
        .filter(|c| matches!(c, '"' | '\'' | '`'))
    else {
        let (line, after) = tail.split_once('\n').unwrap_or((tail, ""));
        // A # begins a comment only after a blank: it is common in passwords and URLs.
        let comment = line
            .char_indices()
            .find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])));
        let line = comment.map_or(line, |(at, _)| &line[..at]);
        return Ok((line.trim().to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = tail.char_indices().skip(1);
    let end = loop {
        match chars.next() {
            None => return Err(LineError::UnclosedQuote(quote)),
            Some((at, c)) if c == quote => break at + c.len_utf8(),
            Some((_, '\\')) if quote == '"' => match chars.next() {
                None => return Err(LineError::UnclosedQuote(quote)),
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('"' | '\\' | '$'))) => value.push(c),
                Some((_, other)) => value.extend(['\\', other]),
            },
            Some((_, c)) => value.push(c),
        }
    };
    let (line, after) = tail[end..].split_once('\n').unwrap_or((&tail[end..], ""));
    let trailing = line.trim();
    if trailing.is_empty() || trailing.starts_with('#') {
        Ok((value, after))
    } else {
        Err(LineError::AfterQuote(trailing.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected = expected
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        assert_eq!(parse(text), Ok(expected), "{text:?}");
    }

    #[test]
    fn reads_what_people_write() {
        check("", &[]);
        check("\u{feff}A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]);
        check("# note\n\n  A = b c  # why\n", &[("A", "b c")]);
        check("export A=1\nexported=2\n", &[("A", "1"), ("exported", "2")]);
        check(
            "URL=http://x/?a=b#c\nEMPTY=\n#A=1",
            &[("URL", "http://x/?a=b#c"), ("EMPTY", "")],
        );
        check("A=#only a comment\nB=$HOME", &[("A", ""), ("B", "$HOME")]);
        check(
            "A='it\\n # is' # note\nB=\"a\\n\\\"b\\\" \\x\"\nC=`q`",
            &[("A", "it\\n # is"), ("B", "a\n\"b\" \\x"), ("C", "q")],
        );
        check(
            "KEY=\"-----BEGIN\nabc=\n-----END\"\nB=2",
            &[("KEY", "-----BEGIN\nabc=\n-----END"), ("B", "2")],
        );
    }

    #[test]
    fn says_which_line_is_wrong() {
        let check = |text: &str, line, what| assert_eq!(parse(text), Err((line, what)), "{text:?}");
        check("A=1\nPORT\nB=2", 2, LineError::NoEquals("PORT".into()));
        check("1A=1", 1, LineError::BadName("1A".into()));
        check("=1", 1, LineError::BadName(String::new()));
        check("A=1\n\nB='x\ny", 3, LineError::UnclosedQuote('\''));
        check("A=\"x\" y", 1, LineError::AfterQuote("y".into()));
        check("A='1\n2'\nB-C=1", 3, LineError::BadName("B-C".into()));
        check("A=\0", 1, LineError::Nul);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_env_file(Path::new("/no/such/.env")).unwrap_err();
        assert!(error.to_string().contains("/no/such/.env"));
    }
}
