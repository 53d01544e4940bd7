//! What PM2's and nginx's users type: it means a command, or is answered in one line; `all` is every app.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::command::{Outcome, Pending};
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{is_root, skip};

fn plain(words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command.args(words).env("NO_COLOR", "1");
    Pending::start(command).wait(LIMIT)
}

#[test]
fn familiar_words_are_understood() {
    let run = Launch::standin("").start();
    let name = run.app().name;
    for words in [&["list"][..], &["ls"], &["describe", &name]] {
        run.segue(words).expect(0).says(&[&name, "generation 1"]);
    }
    let json = run.segue(&["jlist"]);
    json.expect(0);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["apps"][0]["name"], name.as_str());
    for (word, next) in [
        ("save", "remembers its apps by itself"),
        ("resurrect", "segue start"),
        ("startup", "segue service install"),
        ("unstartup", "systemctl disable"),
    ] {
        let outcome = plain(&[word]);
        outcome.expect(2).says(&[next]);
        assert_eq!(outcome.text().lines().count(), 1, "{outcome:?}");
    }
    run.finish();
}

/// In a runtime directory of its own.
fn first(name: &str) -> Launch {
    let mut launch = Launch::node("plain.js").flag("--name", name);
    let runtime = launch.site.path("runtime");
    std::fs::create_dir(&runtime).expect("make a runtime directory");
    std::fs::set_permissions(&runtime, Permissions::from_mode(0o700)).expect("close it");
    launch.default_control = true;
    launch
}

/// Hides the other supervisors of this machine, which takes root.
const HIDE: &str = "mount -t tmpfs none /run && \
    { test ! -d /tmp/segue-0 || mount -t tmpfs none /tmp/segue-0; }";

fn can_hide() -> bool {
    let words = ["--mount", "sh", "-c", HIDE];
    let tried = Command::new("unshare").args(words).output();
    is_root() && tried.is_ok_and(|output| output.status.success())
}

/// A command that finds these supervisors and no others.
fn among(runtime: &Path, words: &[&str]) -> Outcome {
    let script = format!("{HIDE} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(env!("CARGO_BIN_EXE_segue"))
        .args(words)
        .env("NO_COLOR", "1")
        .env_remove("SEGUE_CONTROL")
        .env("XDG_RUNTIME_DIR", runtime);
    Pending::start(command).wait(LIMIT)
}

/// An app of its own supervisor, in the runtime directory of the first.
fn second(first: &Launch) -> Launch {
    let port = first.site.other_port.number().to_string();
    first.clone().flag("--name", "two").env("PORT", &port)
}

#[test]
fn all_is_every_app() {
    if !can_hide() {
        return skip("unshare may not mount here");
    }
    let one = first("one");
    let runtime = one.site.path("runtime");
    let segue = |words: &[&str]| among(&runtime, words);
    let two = second(&one).start();
    let one = one.start();
    let generations = || [&one, &two].map(|run: &Run| run.app().generation);
    segue(&["reload"]).expect(2).says(&["several supervisors"]);
    segue(&["reload", "all"]).expect(0);
    assert_eq!(generations(), [2, 2]);
    segue(&["scale", "all", "3"]).expect(0);
    assert_eq!([&one, &two].map(|run| run.app().slots.len()), [3, 3]);
    segue(&["restart", "all"]).expect(0);
    one.finish();
    segue(&["reload", "all"]).expect(0);
    two.finish();
}

#[test]
fn an_app_that_is_called_all_is_meant_by_its_name() {
    if !can_hide() {
        return skip("unshare may not mount here");
    }
    let all = first("all");
    let runtime = all.site.path("runtime");
    let two = second(&all).start();
    let all = all.start();
    among(&runtime, &["reload", "all"]).expect(0);
    assert_eq!((all.app().generation, two.app().generation), (2, 1));
    all.finish();
    two.finish();
}

#[test]
fn a_flush_empties_the_log_and_what_it_was_before() {
    let launch = Launch::node("prints.js");
    let path = launch.site.path("web.log");
    let launch = launch
        .flag("--log", &path)
        .flag("--log-rotate-size", "64KiB");
    let run = launch.start();
    let rotated = |number: u32| path.with_extension(format!("log.{number}.gz"));
    run.until("it is rotated twice", |_| rotated(2).exists());
    let outcome = run.segue(&["flush"]);
    outcome.expect(0).says(&["emptied", "removed", "KiB freed"]);
    assert!(!rotated(2).exists(), "{outcome:?}");
    // It goes on in the same file, from its beginning.
    run.until("more is printed", |_| {
        std::fs::read(&path).is_ok_and(|text| !text.is_empty() && !text.contains(&0))
    });
    let json = run.segue(&["flush", "all", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert!(
        json["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 0),
        "{json}"
    );

    let target = run.site.path("target");
    std::fs::rename(&path, &target).expect("rename the log file");
    std::os::unix::fs::symlink(&target, &path).expect("make a symbolic link");
    run.segue(&["flush"]).expect(1).says(&["symbolic link"]);
    assert!(std::fs::metadata(&target).is_ok_and(|found| found.len() > 0));
    run.finish();
}

#[test]
fn reopening_is_what_usr1_does() {
    let launch = Launch::node("prints.js");
    let path = launch.site.path("web.log");
    let run = launch.flag("--log", &path).start();
    for words in [&["reopen"][..], &["reloadLogs"]] {
        let old = path.with_extension("old");
        run.until("something is printed", |_| {
            std::fs::metadata(&path).is_ok_and(|found| found.len() > 0)
        });
        std::fs::rename(&path, &old).expect("rename the log file");
        let mark = run.log.mark();
        run.segue(words).expect(0).says(&["opened anew"]);
        run.log.wait_for(mark, "opened anew", LIMIT);
        assert!(path.exists());
    }
    run.finish();
    let run = Launch::standin("").start();
    for word in ["reopen", "flush"] {
        let outcome = run.segue(&[word]);
        outcome.says(&["log file", "segue run --log FILE"]);
        assert_ne!(outcome.code, Some(0));
    }
    run.finish();
}
