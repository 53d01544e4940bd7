//! Reading Rust, manifests and Markdown, as far as the rules need it: imports, flags, protocol
//! paths, links. No parser: enough for code that rustfmt has formatted.

use crate::rules::floor_of;

/// A flag of the command line, and its default where the table of settings names one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) long: String,
    pub(crate) default: Option<String>,
}

/// Every long flag that a file defines, hidden ones excepted: by clap's derive attributes, or in the
/// table of settings, as `key(name, flag, value, default, …)` or `repeated(name, flag, …)`.
pub(crate) fn flags(text: &str) -> Vec<Flag> {
    let mut found = Vec::new();
    let code = text
        .lines()
        .take(lines_apart(text).0)
        .collect::<Vec<_>>()
        .join("\n");
    for (at, opening) in code.match_indices("#[arg(") {
        let rest = &code[at + opening.len()..];
        let (attribute, after) = rest.split_at(closing_parenthesis(rest));
        let words = split_top(attribute);
        let long = words.iter().find_map(|word| match word.split_once('=') {
            Some((key, value)) if key.trim() == "long" => Some(unquoted(value)?.to_owned()),
            None if word.trim() == "long" => field_name(after).map(|field| field.replace('_', "-")),
            _ => None,
        });
        let hidden = |word: &&str| matches!(word.replace(' ', "").as_str(), "hide" | "hide=true");
        found.extend(long.filter(|_| !words.iter().any(hidden)).map(|long| Flag {
            long,
            default: None,
        }));
    }
    for opening in [" key(", "..key(", " repeated("] {
        for (at, _) in code.match_indices(opening) {
            let rest = &code[at + opening.len()..];
            let words = split_top(&rest[..closing_parenthesis(rest)]);
            let [_, long, _, default, ..] = words.as_slice() else {
                continue;
            };
            let Some(long) = unquoted(long) else { continue };
            let default = default
                .trim()
                .strip_prefix("Some(")
                .and_then(|d| unquoted(d.trim_end_matches(')')));
            found.push(Flag {
                long: long.to_owned(),
                default: default.map(str::to_owned),
            });
        }
    }
    found
}

fn unquoted(word: &str) -> Option<&str> {
    word.trim().strip_prefix('"')?.strip_suffix('"')
}

/// Every path under `/v1/` that a file names outside its tests, in code or in documentation,
/// with `{}` for its variable parts; a variable at the end is left out.
pub(crate) fn protocol_paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().take(lines_apart(text).0) {
        for (at, _) in line.match_indices("/v1/") {
            let path: String = line[at..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || "/-_{}".contains(*c))
                .collect();
            found.push(
                without_variables(&path)
                    .trim_end_matches(['/', '{', '}'])
                    .to_owned(),
            );
        }
    }
    found.retain(|path| path != "/v1");
    found.sort();
    found.dedup();
    found
}

/// The same text with the names between braces left out.
pub(crate) fn without_variables(text: &str) -> String {
    let mut inside = false;
    text.chars()
        .filter(|c| {
            inside = *c == '{' || inside && *c != '}';
            !inside || *c == '{'
        })
        .collect()
}

/// Targets of the relative links and images of a Markdown text.
pub(crate) fn relative_links(text: &str) -> Vec<String> {
    let links = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    let images = text.match_indices("src=\"").map(|(at, _)| &text[at + 5..]);
    links
        .chain(images)
        .filter_map(|rest| rest.split([')', '"', ' ', '\n']).next())
        .filter(|target| {
            !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")
        })
        .filter_map(|target| target.split('#').next())
        .map(str::to_owned)
        .collect()
}

/// `worker/launch.rs` is the module `worker::launch`, `main.rs` the root.
pub(crate) fn module_path(path: &str) -> Vec<String> {
    let mut modules: Vec<String> = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if modules
        .last()
        .is_some_and(|last| last == "mod" || last == "main")
    {
        modules.pop();
    }
    modules
}

/// The part of the crate that a module belongs to.
pub(crate) fn unit_of(modules: &[String]) -> String {
    let pair = modules
        .iter()
        .take(2)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("::");
    if floor_of(&pair).is_some() {
        pair
    } else {
        modules.first().cloned().unwrap_or_default()
    }
}

/// What a module imports from other parts of its crate, by `use` or by a path in its code:
/// line and part. Paths through `super` count where they leave the part.
pub(crate) fn imports(modules: &[String], text: &str) -> Vec<(usize, String)> {
    let code = blank_comments_and_strings(text);
    let tests_begin = lines_apart(text).0;
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                || code[..at].ends_with("super::")
            {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut rest = &code[at + root.len()..];
            let mut base: &[String] = &[];
            if root == "super::" {
                // In the test module at the end of a file, `super` is the file.
                let mut levels = if line > tests_begin { 0 } else { 1 };
                while let Some(next) = rest.strip_prefix("super::") {
                    rest = next;
                    levels += 1;
                }
                base = &modules[..modules.len().saturating_sub(levels)];
            }
            for tail in use_tree(rest) {
                let path: Vec<String> = base.iter().cloned().chain(tail).collect();
                let unit = unit_of(&path);
                // An item of the root, such as a constant of `main.rs`, or of the part itself.
                if root == "super::" && (base.is_empty() && floor_of(&unit).is_none()) {
                    continue;
                }
                found.push((line, unit));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Expands `a::{b, c::d}` into its paths.
pub(crate) fn use_tree(text: &str) -> Vec<Vec<String>> {
    fn path(text: &mut &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let mut prefix = prefix.to_vec();
        loop {
            *text = text.trim_start();
            if let Some(inner) = text.strip_prefix('{') {
                *text = inner;
                loop {
                    *text = text.trim_start();
                    match text.strip_prefix('}') {
                        Some(after) => break *text = after,
                        None if text.is_empty() => break,
                        None => path(text, &prefix, found),
                    }
                    // Past `as name` and the comma.
                    let end = text.find([',', '}']).unwrap_or(text.len());
                    *text = text[end..].strip_prefix(',').unwrap_or(&text[end..]);
                }
                return;
            }
            let end = text
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(text.len());
            if end > 0 {
                prefix.push(text[..end].to_owned());
            }
            *text = &text[end..];
            match text.trim_start().strip_prefix("::") {
                Some(after) if end > 0 => *text = after,
                _ => break found.push(prefix),
            }
        }
    }
    let mut found = Vec::new();
    path(&mut { text }, &[], &mut found);
    found
}

/// The same text with comments, strings and character literals blanked out, line by line.
pub(crate) fn blank_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let hashes = rest
            .strip_prefix('r')
            .map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
        let in_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if !in_word && rest.starts_with('r') && rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            rest[body..]
                .find(&close)
                .map_or(rest.len(), |end| body + end + close.len())
        } else if c == '"' {
            1 + quoted(&rest[1..], '"')
        } else if c == '\''
            && (rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\''))
        {
            1 + quoted(&rest[1..], '\'')
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        out.extend(rest[..skip].chars().filter(|c| *c == '\n'));
        rest = &rest[skip..];
    }
    out
}

/// Length of a literal's body and its closing quote.
pub(crate) fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// Lines of a file before its test module, and of that module.
pub(crate) fn lines_apart(text: &str) -> (usize, usize) {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {"));
    let code = tests.unwrap_or(lines.len());
    (code, lines.len() - code)
}

/// Where the parenthesis closes that was opened just before `text`.
pub(crate) fn closing_parenthesis(text: &str) -> usize {
    let mut depth = 1;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' => at += quoted(&text[at + 1..], '"'),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
        at += c.len_utf8();
    }
    text.len()
}

/// Splits at commas outside of parentheses and strings.
pub(crate) fn split_top(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut in_string) = (0, 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => in_string = !in_string,
            '(' | '[' | '{' if !in_string => depth += 1,
            ')' | ']' | '}' if !in_string => depth -= 1,
            ',' if !in_string && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The field that follows an attribute, past further attributes and comments.
pub(crate) fn field_name(after: &str) -> Option<&str> {
    after
        .lines()
        .skip(1)
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#'))?
        .split(':')
        .next()?
        .split_whitespace()
        .last()
}

/// Section and name of every dependency of a manifest.
pub(crate) fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            section = header.rsplit('.').next().unwrap_or(header).to_owned();
        } else if section.ends_with("dependencies") && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or(line);
            found.push((section.clone(), name.to_owned()));
        }
    }
    found
}

pub(crate) fn section_has(manifest: &str, section: &str, wanted: &str) -> bool {
    manifest
        .split("\n[")
        .find(|part| {
            part.trim_start_matches('[')
                .starts_with(&format!("{section}]"))
        })
        .is_some_and(|part| part.lines().any(|line| line.trim() == wanted))
}
