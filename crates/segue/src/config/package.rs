//! package.json: the app's name and its scripts, and whether a script is a plain command that
//! can be run without a shell. It runs nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::env_file::is_variable_name;

/// What is of interest in a package.json.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct Package {
    pub(crate) name: Option<String>,
    pub(crate) main: Option<String>,
    #[serde(default)]
    pub(crate) scripts: BTreeMap<String, String>,
}

/// Why a package.json cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not valid: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Package {
    /// Reads `directory/package.json`; `None` if there is none.
    ///
    /// # Errors
    /// That it cannot be read, or is not what npm would accept either.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, PackageError> {
        let path = directory.join("package.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PackageError::Read { path, source }),
        };
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        serde_json::from_slice(text)
            .map(Some)
            .map_err(|source| PackageError::Json { path, source })
    }
}

/// A script that needs no shell: assignments, then the words of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlainScript {
    pub(crate) env: Vec<(String, String)>,
    /// Not empty.
    pub(crate) words: Vec<String>,
}

/// What in a script only a shell can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotPlain {
    #[error("`{0}` needs a shell")]
    Shell(char),
    #[error("the quote {0} is not closed")]
    UnclosedQuote(char),
    #[error("it runs nothing")]
    Empty,
}

impl PlainScript {
    /// Takes a script apart as sh(1) would, as far as that is only a matter of blanks, quotes
    /// and leading assignments.
    ///
    /// # Errors
    /// The first thing that a shell would be needed for.
    pub(crate) fn parse(script: &str) -> Result<Self, NotPlain> {
        let mut plain = Self::default();
        for word in split(script)? {
            match word.assignment {
                Some(at) if plain.words.is_empty() => {
                    let (name, value) = word.text.split_at(at);
                    let value = value.strip_prefix('=').unwrap_or(value);
                    plain.env.push((name.to_owned(), value.to_owned()));
                }
                _ => plain.words.push(word.text),
            }
        }
        if plain.words.is_empty() {
            return Err(NotPlain::Empty);
        }
        Ok(plain)
    }
}

#[derive(Default)]
struct Word {
    text: String,
    /// Where the `=` of `NAME=value` is, if the name was written without quotes.
    assignment: Option<usize>,
}

fn split(script: &str) -> Result<Vec<Word>, NotPlain> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quoted = false;
    let mut chars = script.trim().chars();
    while let Some(c) = chars.next() {
        if c == ' ' || c == '\t' {
            words.extend(word.take());
            quoted = false;
            continue;
        }
        let begins = word.is_none();
        let current = word.get_or_insert_default();
        match c {
            '\'' | '"' => {
                quoted = true;
                quote(c, &mut chars, &mut current.text)?;
            }
            '\\' => {
                quoted = true;
                current
                    .text
                    .push(chars.next().ok_or(NotPlain::Shell('\\'))?);
            }
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | ']' | '{'
            | '}' | '\n' => return Err(NotPlain::Shell(c)),
            '#' | '~' | '!' if begins => return Err(NotPlain::Shell(c)),
            '=' => {
                if !quoted && current.assignment.is_none() && is_variable_name(&current.text) {
                    current.assignment = Some(current.text.len());
                }
                current.text.push(c);
            }
            _ => current.text.push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quote(quote: char, chars: &mut std::str::Chars<'_>, text: &mut String) -> Result<(), NotPlain> {
    while let Some(c) = chars.next() {
        match c {
            _ if c == quote => return Ok(()),
            '$' | '`' if quote == '"' => return Err(NotPlain::Shell(c)),
            '\\' if quote == '"' => match chars.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => text.push(escaped),
                Some(other) => text.extend(['\\', other]),
                None => break,
            },
            _ => text.push(c),
        }
    }
    Err(NotPlain::UnclosedQuote(quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    fn check(script: &str, expected: Result<Expected<'_>, NotPlain>) {
        let expected = expected.map(|(env, words)| PlainScript {
            env: env
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            words: words.iter().map(ToString::to_string).collect(),
        });
        assert_eq!(PlainScript::parse(script), expected, "{script:?}");
    }

    #[test]
    fn takes_plain_commands_apart() {
        check("node server.js", Ok((&[], &["node", "server.js"])));
        check(
            "NODE_ENV=production PORT=80 node  a.js --x=1",
            Ok((
                &[("NODE_ENV", "production"), ("PORT", "80")],
                &["node", "a.js", "--x=1"],
            )),
        );
        check(
            r#"A="b c" D='$e' node "my app.js" \# it's ok'"#,
            Ok((
                &[("A", "b c"), ("D", "$e")],
                &["node", "my app.js", "#", "its ok"],
            )),
        );
        check(
            r#"node a "" 'x"y' "\"\\\n""#,
            Ok((&[], &["node", "a", "", "x\"y", "\"\\\\n"])),
        );
        check(
            "node a#b c~d A=1",
            Ok((&[], &["node", "a#b", "c~d", "A=1"])),
        );
        check("\"A=b\" node", Ok((&[], &["A=b", "node"])));
    }

    #[test]
    fn says_what_needs_a_shell() {
        for (script, c) in [
            ("node migrate.js && node app.js", '&'),
            ("node a.js | pino", '|'),
            ("node a.js; b", ';'),
            ("node $FILE", '$'),
            ("node \"$FILE\"", '$'),
            ("node `x`", '`'),
            ("node *.js", '*'),
            ("node a.js > log", '>'),
            ("node a.js\nnode b.js", '\n'),
            ("~/bin/node a.js", '~'),
            ("(node a.js)", '('),
        ] {
            check(script, Err(NotPlain::Shell(c)));
        }
        check("node 'a.js", Err(NotPlain::UnclosedQuote('\'')));
        check("  ", Err(NotPlain::Empty));
        check("A=1", Err(NotPlain::Empty));
    }

    #[test]
    fn reads_a_package() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Package::read(directory.path()).unwrap().is_none());
        let path = directory.path().join("package.json");
        std::fs::write(
            &path,
            r#"{"name":"web","scripts":{"start":"node a.js"},"x":[1]}"#,
        )
        .unwrap();
        let package = Package::read(directory.path()).unwrap().unwrap();
        assert_eq!(package.name.as_deref(), Some("web"));
        assert_eq!(package.scripts["start"], "node a.js");
        std::fs::write(&path, "{").unwrap();
        let error = Package::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains("package.json is not valid"));
    }
}
