//! Any text is read as an env file or refused with a line that it has; what is read can be given to a
//! process, and what is written in the plainest way is read back.

#![no_main]
#![allow(dead_code)]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;

// The binary has no library: the module is built into this one.
#[path = "../../crates/segue/src/config/env_file.rs"]
mod env_file;

use env_file::{is_variable_name, parse};

fuzz_target!(|text: &str| {
    let variables = match parse(text) {
        Ok(variables) => variables,
        Err((line, what)) => {
            assert!(
                (1..=text.matches('\n').count() + 1).contains(&line),
                "{line}"
            );
            assert!(!what.to_string().is_empty());
            return;
        }
    };
    let mut plain = String::new();
    let mut expected = Vec::new();
    for (name, value) in variables {
        assert!(is_variable_name(name.to_str().expect("letters and digits")));
        assert!(!value.as_bytes().contains(&0));
        let text = value.to_str().expect("it comes from text");
        if !text.contains('\'') {
            plain.push_str(&format!("{}='{text}'\n", name.display()));
            expected.push((name, value));
        }
    }
    assert_eq!(parse(&plain), Ok(expected), "{plain:?}");
});
