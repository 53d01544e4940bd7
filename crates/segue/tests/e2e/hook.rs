//! Deploying by git push: what works is served, what does not is refused, and no client notices either.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use segue_load::{Fresh, KeepAlive, Load, Phase};

use crate::harness::command::{Outcome, Pending};
use crate::harness::heavy;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::run::{LIMIT, Launch, Run};

const BUILD: &str = "echo building \"$PWD\" && test ! -f breaks-the-build && touch built";

fn run_in(directory: &Path, words: &[&str]) -> Outcome {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .current_dir(directory)
        .env("NO_COLOR", "1")
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Test");
        command.env(format!("GIT_{role}_EMAIL"), "test@example.com");
    }
    Pending::start(command).wait(LIMIT)
}

/// A bare repository, and a working tree with the first release in it.
struct Source {
    bare: PathBuf,
    tree: PathBuf,
}

impl Source {
    fn new(launch: &Launch) -> Self {
        let (bare, tree) = (launch.site.path("web.git"), launch.site.path("tree"));
        fs::create_dir(&tree).expect("make the working tree");
        let here = launch.site.path(".");
        run_in(
            &here,
            &["git", "init", "-q", "--bare", "-b", "main", "web.git"],
        )
        .expect(0);
        run_in(&tree, &["git", "init", "-q", "-b", "main"]).expect(0);
        let release = fs::read_dir(launch.site.path("current")).expect("read the release");
        for entry in release.map(|entry| entry.expect("read the release")) {
            fs::copy(entry.path(), tree.join(entry.file_name())).expect("copy a file");
        }
        Self { bare, tree }
    }

    fn install(&self, more: &[&str]) -> Outcome {
        let (bare, to) = (self.bare.to_string_lossy(), self.tree.join(".."));
        let to = to.to_string_lossy();
        let mut words = vec![env!("CARGO_BIN_EXE_segue"), "hook", "install"];
        words.extend(["--repo", &bare, "--to", &to]);
        words.extend(more);
        run_in(&self.tree, &words)
    }

    /// Commits these files, and pushes.
    fn push(&self, files: &[(&str, Option<&str>)]) -> Outcome {
        for (name, text) in files {
            let path = self.tree.join(name);
            match text {
                Some(text) => fs::write(path, text).expect("write a file"),
                None => fs::remove_file(path).expect("remove a file"),
            }
        }
        run_in(&self.tree, &["git", "add", "-A"]).expect(0);
        run_in(&self.tree, &["git", "commit", "-q", "-m", "a change"]).expect(0);
        let bare = self.bare.to_string_lossy();
        run_in(&self.tree, &["git", "push", "-q", &bare, "HEAD:main"])
    }

    fn head(&self) -> String {
        let head = run_in(&self.bare, &["git", "rev-parse", "-q", "--verify", "main"]);
        head.out.trim().to_owned()
    }
}

fn releases(run: &Run) -> Vec<String> {
    let entries = fs::read_dir(run.site.path("releases")).expect("list the releases");
    let names = entries.map(|entry| entry.expect("a release").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn current(run: &Run) -> PathBuf {
    fs::read_link(run.site.path("current")).expect("a link")
}

#[test]
fn a_push_is_served_or_refused_and_no_client_notices() {
    let _turn = heavy();
    let launch = Launch::node("plain.js");
    let source = Source::new(&launch);
    let run = launch.start();
    let control = run.control.to_string_lossy().into_owned();
    let flags = ["--control", &control, "--build", BUILD, "--keep", "2"];
    source
        .install(&flags)
        .expect(0)
        .says(&["wrote", "pre-receive"]);
    source.install(&flags).expect(0).says(&["is there already"]);

    let load = Load::builder()
        .with(Fresh {
            clients: 30,
            ..Fresh::default()
        })
        .with(KeepAlive {
            clients: 30,
            ..KeepAlive::default()
        });
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(500);

    clients.mark("a good push", Phase::Reload);
    let pushed = source.push(&[("VERSION", Some("v2"))]);
    pushed
        .expect(0)
        .says(&["remote: building", "generation 2 serves"]);
    clients.committed("v2");
    assert_eq!(run.get("/").version(), "v2");
    let served = current(&run);
    assert!(run.site.path(".").join(&served).join("built").exists());
    let (head, before) = (source.head(), releases(&run));
    clients.wait_for_answers(200);

    // Neither the branch nor the directory changes with one that is refused.
    let server = fs::read_to_string(source.tree.join("server.js")).expect("the script");
    for (files, why) in [
        (
            [("VERSION", Some("v3")), ("breaks-the-build", Some(""))],
            "the build failed",
        ),
        (
            [
                ("server.js", Some("throw new Error('no luck')")),
                ("breaks-the-build", None),
            ],
            "no luck",
        ),
    ] {
        clients.mark("a broken push", Phase::Reload);
        let refused = source.push(&files);
        refused.expect(1).says(&[why, "pre-receive hook declined"]);
        assert_eq!(run.get("/").version(), "v2");
        assert_eq!(
            (source.head(), releases(&run)),
            (head.clone(), before.clone())
        );
        assert_eq!(current(&run), served);
        clients.wait_for_answers(200);
    }

    // Another branch is taken as ever.
    let bare = source.bare.to_string_lossy().into_owned();
    run_in(&source.tree, &["git", "push", "-q", &bare, "HEAD:next"]).expect(0);
    assert_eq!(releases(&run), before);

    for version in ["v4", "v5"] {
        clients.mark(format!("a good push of {version}"), Phase::Reload);
        let files = [("VERSION", Some(version)), ("server.js", Some(&*server))];
        source.push(&files).expect(0);
        clients.committed(version);
        clients.wait_for_answers(200);
    }
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_flawless(&report, &run);
    assert_eq!(run.get("/").version(), "v5");
    let left = releases(&run);
    assert_eq!(
        left.len(),
        3,
        "two of them, and v1, which is none of ours: {left:?}"
    );
    assert!(left.iter().any(|name| name == "v1"));
    run.finish();
}

#[test]
fn a_first_push_needs_nobody_and_a_later_one_does() {
    let launch = Launch::node("plain.js");
    let source = Source::new(&launch);
    fs::remove_file(launch.site.path("current")).expect("remove the link");
    let control = launch.site.path("segue.sock");
    let control = control.to_string_lossy().into_owned();
    source.install(&["--control", &control]).expect(0);
    source
        .push(&[("VERSION", Some("v2"))])
        .expect(0)
        .says(&["nothing runs yet"]);
    source
        .push(&[("VERSION", Some("v3"))])
        .expect(1)
        .says(&["no supervisor", "declined"]);
    let run = launch.start();
    assert_eq!(run.get("/").version(), "v2");
    source.push(&[("VERSION", Some("v4"))]).expect(0);
    assert_eq!(run.get("/").version(), "v4");
    run.finish();
}

#[test]
fn an_app_that_runs_from_elsewhere_is_not_deployed_to() {
    let launch = Launch::node("plain.js");
    let source = Source::new(&launch);
    let there = launch.site.path("releases/v1");
    let run = launch.without_cwd().flag("--cwd", there).start();
    let before = current(&run);
    let control = run.control.to_string_lossy().into_owned();
    source.install(&["--control", &control]).expect(0);
    source
        .push(&[("VERSION", Some("v2"))])
        .expect(1)
        .says(&["it runs from", "--cwd"]);
    assert_eq!(
        (current(&run), releases(&run)),
        (before, vec!["v1".to_owned()])
    );
    run.finish();
}

#[test]
fn what_is_there_is_left() {
    let launch = Launch::node("plain.js");
    let source = Source::new(&launch);
    let hook = source.bare.join("hooks/pre-receive");
    fs::create_dir_all(source.bare.join("hooks")).expect("make the directory");
    fs::write(&hook, "#!/bin/sh\nexit 0\n").expect("write a hook");
    source
        .install(&[])
        .expect(1)
        .says(&["left as it is", "let it end with: exec"]);
    assert_eq!(
        fs::read_to_string(&hook).expect("the hook"),
        "#!/bin/sh\nexit 0\n"
    );
    let tree = source.tree.to_string_lossy().into_owned();
    for (repository, why) in [(tree.as_str(), "not bare"), ("/", "no repository")] {
        let words = [
            env!("CARGO_BIN_EXE_segue"),
            "hook",
            "install",
            "--repo",
            repository,
            "--to",
            ".",
        ];
        run_in(&source.tree, &words).expect(2).says(&[why]);
    }
}

#[test]
fn one_push_is_deployed_at_a_time() {
    let launch = Launch::node("plain.js");
    let source = Source::new(&launch);
    let gate = launch.site.path("gate");
    let build = format!(
        "touch {0}.begun; while test ! -e {0}; do sleep 0.02; done",
        gate.display()
    );
    let run = launch.start();
    let control = run.control.to_string_lossy().into_owned();
    source
        .install(&["--control", &control, "--build", &build])
        .expect(0);
    let begun = run.site.path("gate.begun");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| source.push(&[("VERSION", Some("v2"))]));
        run.until("the first is being built", |_| begun.exists());
        let bare = source.bare.to_string_lossy().into_owned();
        run_in(&source.tree, &["git", "push", "-q", &bare, "HEAD:main"])
            .expect(1)
            .says(&["another push is being deployed"]);
        fs::write(&gate, "").expect("open the gate");
        first.join().expect("the first push").expect(0);
    });
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}
