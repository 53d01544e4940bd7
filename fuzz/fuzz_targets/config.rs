//! Any text is read as a file, a Procfile and an env file, or refused with a report, without a panic;
//! an app that was read is printed and read back as the same.

#![no_main]
#![allow(dead_code, unused_imports)]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

// The binary has no library: its modules are built into this one.
#[path = "../../crates/segue/src/config/mod.rs"]
mod config;
#[path = "../../crates/segue/src/handoff"]
mod handoff {
    pub(crate) mod text;
}

use config::file::{File, print};

fn lookup(name: &str) -> Option<String> {
    (name == "SET").then(|| "value".to_owned())
}

fuzz_target!(|text: &str| {
    let _ = config::env_file::parse(text);
    for name in ["/srv/Procfile", "/srv/segue.toml"] {
        match File::parse(Path::new(name), text, &lookup) {
            Ok(file) if name.ends_with("toml") => {
                for app in &file.apps {
                    let printed = print::app(&app.name, &app.command, &app.args, &app.settings);
                    let again = File::parse(Path::new(name), &printed, &lookup);
                    let again = again.unwrap_or_else(|error| panic!("{printed}\n{error}"));
                    let settings = |app: &config::file::FileApp| app.settings.settings();
                    assert_eq!(again.apps[0].command, app.command);
                    assert_eq!(settings(&again.apps[0]), settings(app), "{printed}");
                }
            }
            Ok(_) => {}
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(!error.report(false).is_empty());
            }
        }
    }
});
