//! The page of tasks (docs/tasks.md), tried: what it says to type is run, section by section, and what it says
//! comes of it must come. Files are checked by whoever reads them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::command::{Outcome, Pending};
use crate::harness::port::Port;
use crate::harness::process::{self, MARK};
use crate::harness::run::LIMIT;
use crate::harness::skip;

/// A block of the page: the words behind its fence, and its lines.
#[derive(Debug)]
struct Block {
    section: String,
    kind: Vec<String>,
    text: String,
}

fn blocks() -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tasks.md");
    let page = fs::read_to_string(path).expect("read the page");
    let mut found: Vec<Block> = Vec::new();
    let (mut section, mut is_open) = (String::new(), false);
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(kind) => {
                is_open = true;
                found.push(Block {
                    section: section.clone(),
                    kind: kind.split(' ').map(str::to_owned).collect(),
                    text: String::new(),
                });
            }
            None if is_open => {
                let block = found.last_mut().expect("it was opened");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {
                if let Some(name) = line.strip_prefix("## ") {
                    name.clone_into(&mut section);
                }
            }
        }
    }
    found
}

/// The one block of a section that has these words behind its fence.
#[track_caller]
pub(crate) fn block(section: &str, kind: &[&str]) -> String {
    let blocks = blocks().into_iter();
    let found: Vec<Block> = blocks
        .filter(|block| block.section == section && block.kind == kind)
        .collect();
    match <[Block; 1]>::try_from(found) {
        Ok([block]) => block.text,
        Err(found) => panic!("{section} has {} blocks of {kind:?}", found.len()),
    }
}

/// A line that says what comes of it (`# => TEXT`) is checked for that.
fn checked(line: &str) -> String {
    let Some((command, expected)) = line.split_once("# => ") else {
        return format!("{line}\n");
    };
    let (command, expected) = (command.trim_end(), expected.trim());
    format!(
        "said=$({{ {command}; }} 2>&1) || {{ echo \"$said\"; echo 'FAILED: {command}'; exit 1; }}\n\
         echo \"$said\"\n\
         case \"$said\" in *'{expected}'*) ;; *) echo 'NOT SAID: {expected}'; exit 1;; esac\n"
    )
}

/// Runs what a section says, with its files, in a directory of its own.
#[track_caller]
fn try_section(name: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let port = Port::lease();
    let mut script = "set -eu\n".to_owned();
    for block in blocks().iter().filter(|block| block.section == name) {
        let kind: Vec<&str> = block.kind.iter().map(String::as_str).collect();
        match kind[..] {
            ["sh", "run"] => block
                .text
                .lines()
                .for_each(|line| script.push_str(&checked(line))),
            ["js" | "toml", file] => fs::write(here.join(file), &block.text).expect("write a file"),
            _ => {}
        }
    }
    assert!(script.lines().count() > 1, "{name} says nothing to run");
    let binary = Path::new(env!("CARGO_BIN_EXE_segue"));
    let own = binary.parent().expect("a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(own).chain(std::env::split_paths(&path));
    let mark = process::new_mark();
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .current_dir(here)
        .env(MARK, &mark)
        .env("PATH", std::env::join_paths(paths).expect("join paths"))
        .env("PORT", port.number().to_string())
        .env("SEGUE_CONTROL", here.join("segue.sock"))
        .env("HOME", here)
        .env("XDG_STATE_HOME", here.join("state"))
        .env("NO_COLOR", "1")
        .env_remove("PWD");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Test");
        command.env(format!("GIT_{role}_EMAIL"), "test@example.com");
    }
    let outcome = Pending::start(command).wait(LIMIT * 2);
    // One in the background has an environment of its own.
    let mut shutdown = Command::new(env!("CARGO_BIN_EXE_segue"));
    shutdown
        .args(["shutdown", "--control"])
        .arg(here.join("segue.sock"));
    let _ = Pending::start(shutdown).wait(LIMIT);
    process::kill_marked(&mark);
    process::wait_until_none(&mark, Duration::from_secs(5));
    let log = fs::read_to_string(here.join("segue.log")).unwrap_or_default();
    assert_eq!(outcome.code, Some(0), "{name}:\n{}\n{log}", outcome.text());
}

fn run(words: &[&str]) -> Option<Outcome> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("NO_COLOR", "1");
    let is_there = Command::new(words[0]).arg("--version").output().is_ok();
    is_there.then(|| Pending::start(command).wait(LIMIT))
}

#[test]
fn deploying_and_rolling_back() {
    try_section("Deploy");
}

#[test]
fn from_a_file() {
    try_section("From a file");
}

#[test]
fn under_systemd() {
    try_section("Under systemd");
}

#[test]
fn from_pm2() {
    try_section("From PM2");
}

#[test]
fn every_block_is_tried_or_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let write = |name: &str, text: &str| {
        let path = here.join(name);
        fs::write(&path, text).expect("write a file");
        path.to_string_lossy().into_owned()
    };
    for block in blocks() {
        let kind: Vec<&str> = block.kind.iter().map(String::as_str).collect();
        match kind[..] {
            // Tried in a section's own test.
            ["sh", "run"] | ["js" | "toml", _] | ["nginx"] => {}
            ["sh", "syntax"] => {
                let path = write("block.sh", &block.text);
                run(&["bash", "-n", &path]).expect("bash").expect(0);
            }
            ["dockerfile"] => check_dockerfile(&block.text),
            ["ini", name] => {
                let binary = env!("CARGO_BIN_EXE_segue");
                let path = write(name, &block.text.replace("/usr/local/bin/segue", binary));
                match run(&["systemd-analyze", "verify", &path]) {
                    Some(outcome) => {
                        let about_it = outcome.text().lines().any(|line| line.contains(name));
                        assert!(!about_it, "{outcome:?}");
                    }
                    None => skip("systemd-analyze is not installed"),
                }
            }
            _ => panic!(
                "nobody knows how to try {:?} of {}",
                block.kind, block.section
            ),
        }
    }
}

/// Its instructions are Docker's, and what it runs is a command line of ours.
fn check_dockerfile(text: &str) {
    let mut is_run = false;
    for line in text.lines() {
        let (instruction, rest) = line.split_once(' ').expect("an instruction");
        let known = [
            "FROM",
            "COPY",
            "WORKDIR",
            "RUN",
            "ENV",
            "EXPOSE",
            "HEALTHCHECK",
            "CMD",
        ];
        assert!(known.contains(&instruction), "{line}");
        let Some(list) = rest.find('[').filter(|_| line.contains("CMD [")) else {
            continue;
        };
        let words: Vec<String> = serde_json::from_str(&rest[list..]).expect("a list");
        assert_eq!(words[0], "segue", "{line}");
        if words[1] == "run" {
            is_run = true;
            // The script is not here: its flags are what is looked at.
            let mut line = vec![env!("CARGO_BIN_EXE_segue"), "service", "print"];
            line.extend(words[2..].iter().map(String::as_str));
            run(&line).expect("segue").says(&["there is no server.js"]);
        }
    }
    assert!(is_run, "it runs nothing");
}
