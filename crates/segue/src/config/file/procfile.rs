//! A Procfile: `NAME: command` on each line, as Heroku and foreman have it. Its processes become apps
//! without settings.

use std::path::Path;

use super::super::package::PlainScript;
use super::super::values;
use super::{Complaint, File, FileApp};

/// Reads a Procfile.
///
/// # Errors
/// Everything that is wrong in it.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, Vec<Complaint>> {
    let mut apps: Vec<FileApp> = Vec::new();
    let mut complaints = Vec::new();
    let mut at = 0;
    for raw in text.split_inclusive('\n') {
        let span = at..at + raw.trim_end().len();
        at += raw.len();
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut complain = |what: String, help: &str| {
            complaints.push(Complaint {
                what,
                span: span.clone(),
                help: help.to_owned(),
            });
        };
        let Some((name, command)) = line.split_once(':') else {
            complain(
                "this line has no process".to_owned(),
                "write NAME: command, as in web: node server.js",
            );
            continue;
        };
        let (name, command) = (name.trim(), command.trim());
        if let Err(why) = values::name(name) {
            complain(format!("`{name}` cannot be the name of an app"), &why);
        } else if apps.iter().any(|app| app.name == name) {
            complain(
                format!("there is a process `{name}` above"),
                "give it another name",
            );
        } else if let Err(why) = PlainScript::parse(command) {
            complain(
                format!("`{name}` cannot be run: {why}"),
                "write a plain command, or a segue.toml: segue init",
            );
        } else {
            apps.push(FileApp {
                name: name.to_owned(),
                line: Some(command.to_owned()),
                spans: [("command".to_owned(), span)].into(),
                ..FileApp::default()
            });
        }
    }
    if apps.is_empty() && complaints.is_empty() {
        complaints.push(Complaint {
            what: "there is no process in this file".to_owned(),
            span: 0..0,
            help: "write NAME: command, as in web: node server.js".to_owned(),
        });
    }
    match complaints.is_empty() {
        true => Ok(File {
            path: path.to_owned(),
            text: text.to_owned(),
            apps,
            control: None,
            metrics: None,
        }),
        false => Err(complaints),
    }
}
