//! State that releases have left is read by this one: samples of each, made by the end-to-end test
//! `state` (CONTRIBUTING.md says how).

use std::path::{Path, PathBuf};

use segue_wire::handoff::{Contents, log};
use serde_json::{Value, json};

use super::succession::check;

fn samples() -> Vec<(PathBuf, Contents)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state");
    let entries = std::fs::read_dir(&directory).unwrap();
    let read = entries.map(|entry| {
        let path = entry.unwrap().path();
        let contents = log::read(&std::fs::read(&path).unwrap());
        let contents = contents.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, contents)
    });
    read.collect()
}

#[test]
fn what_every_release_has_left_is_understood() {
    for (path, contents) in samples() {
        assert_eq!(contents.torn, 0, "{}", path.display());
        let checked = check(contents);
        checked.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn there_is_a_sample_of_this_release() {
    let own = env!("CARGO_PKG_VERSION");
    let own = samples()
        .into_iter()
        .find(|(_, contents)| contents.release == own);
    let (path, contents) = own.expect("none: see CONTRIBUTING.md for how to make one");
    assert_eq!(contents.format, log::FORMAT, "{}", path.display());
}

#[test]
fn names_and_members_of_a_newer_release_do_no_harm() {
    for (path, mut contents) in samples() {
        for value in contents.values.values_mut() {
            if let Value::Object(members) = value {
                members.insert("of_a_newer_release".into(), json!({"is": "unheard of"}));
            }
        }
        let app = contents.values.keys().find_map(|name| {
            let app = name.strip_prefix("app/")?;
            Some(app.split_once('/')?.0.to_owned())
        });
        let app = app.unwrap();
        for name in [
            "unheard",
            "app/unheard/of",
            &format!("app/{app}/worker/1/of"),
        ] {
            contents.values.insert(name.to_owned(), json!([1, "two"]));
            contents.lists.insert(format!("{name}s"), vec![json!(3)]);
        }
        let checked = check(contents);
        checked.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn what_cannot_be_understood_is_named() {
    for (path, contents) in samples() {
        for (name, value) in &contents.values {
            // What may have any shape, or is of no use to a successor.
            if matches!(&name[..], "control" | "upgrade" | "output") || value.is_null() {
                continue;
            }
            let mut spoiled = contents.clone();
            spoiled.values.insert(name.clone(), json!("spoiled"));
            let Err(error) = check(spoiled) else {
                panic!("{}: {name} may be anything", path.display());
            };
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }
}
