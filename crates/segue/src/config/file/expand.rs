//! `${NAME}` and `${NAME:-default}` in the values of a file; `$${` stands for a plain `${`.

use super::super::env_file::is_variable_name;

/// Where a value asks for something that cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotExpanded {
    Unset(String),
    BadName(String),
    Unclosed,
}

/// Replaces variables by what `lookup` says.
pub(super) fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, NotExpanded> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        expanded.push_str(before);
        if let Some(after) = from.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(inner) = from.strip_prefix("${") {
            let (inner, after) = inner.split_once('}').ok_or(NotExpanded::Unclosed)?;
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            if !is_variable_name(name) {
                return Err(NotExpanded::BadName(name.to_owned()));
            }
            // As in a shell, `:-` also stands in for an empty one.
            let value = lookup(name).filter(|value| default.is_none() || !value.is_empty());
            match value.as_deref().or(default) {
                Some(value) => expanded.push_str(value),
                None => return Err(NotExpanded::Unset(name.to_owned())),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = from.strip_prefix('$').unwrap_or_default();
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Writes a text so that it expands to itself.
pub(super) fn protect(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced() {
        let lookup = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("", Ok("")),
            ("plain $A $ $$", Ok("plain $A $ $$")),
            ("a${A}b${A}", Ok("aonebone")),
            ("${EMPTY}", Ok("")),
            ("${EMPTY:-x}${NO:-y z}${NO:-}", Ok("xy z")),
            ("$${A}", Ok("${A}")),
            ("é${A}é", Ok("éoneé")),
            ("${NO}", Err(NotExpanded::Unset("NO".into()))),
            ("${1}", Err(NotExpanded::BadName("1".into()))),
            ("${A", Err(NotExpanded::Unclosed)),
        ] {
            let found = expand(text, &lookup);
            assert_eq!(found, expected.map(str::to_owned), "{text}");
        }
        for text in ["${A}", "$${A}", "$$${", "a"] {
            assert_eq!(expand(&protect(text), &lookup).as_deref(), Ok(text));
        }
    }
}
