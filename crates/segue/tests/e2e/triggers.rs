//! Reloads that nobody types: files change, a link is turned, a time has come.

use std::fs;
use std::io::Write;
use std::time::Duration;

use segue_load::{Fresh, Load, Phase};
use segue_wire::control::ReloadOutcome;

use crate::harness::load::{Clients, assert_flawless};
use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::skip;
use crate::takeover::kill_supervisor;

/// Longer than changes are gathered.
const LONG_ENOUGH: Duration = Duration::from_millis(2500);

const ASKED: &str = "reload asked for by ";

fn watching() -> Launch {
    Launch::node("plain.js").flag("--watch", "on")
}

/// Until files are watched: nothing says so, but the descriptor is there, and looked after.
#[track_caller]
fn until_watched(run: &Run) {
    run.until("files are watched", |_| {
        let pid = run.status().supervisor.pid;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let descriptors = descriptors.into_iter().flatten().flatten();
        let of_inotify = descriptors.filter(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|target| target.to_string_lossy().contains("inotify"))
        });
        // One to read from, one to wait for: by then every directory is watched.
        of_inotify.count() == 2
    });
}

fn reloads(run: &Run) -> usize {
    let lines = run.log.lines();
    lines
        .iter()
        .filter(|line| line.text.contains(ASKED))
        .count()
}

#[track_caller]
fn until_version(run: &Run, version: &str) {
    run.until("the new version serves", |app| app.reload.is_none());
    let answer = run.get("/");
    assert_eq!(answer.version(), version, "{}", run.log.render());
}

#[track_caller]
fn wait_for_commit(run: &Run, mark: usize) {
    run.log.wait_for(mark, "committed", LIMIT);
}

#[test]
fn an_edit_is_a_reload_that_no_client_notices() {
    each_node(|node| {
        let run = watching().with_node(node).start();
        until_watched(&run);
        let fresh = Fresh {
            clients: 20,
            ..Fresh::default()
        };
        let clients = Clients::start(Load::builder().with(fresh), run.address());
        clients.wait_for_answers(200);
        clients.mark("an edit".to_owned(), Phase::Reload);
        let generation = run.app().generation;
        let there = run.site.path("current");
        fs::write(there.join("VERSION"), "v2").expect("write the version");
        let script = there.join("server.js");
        let text = fs::read_to_string(&script).expect("read the script");
        fs::write(&script, text + "// edited\n").expect("edit the script");
        run.until("the edit serves", |app| {
            app.generation > generation && app.reload.is_none()
        });
        clients.committed("v2");
        clients.wait_for_answers(200);
        assert_flawless(&clients.stop(), &run);
        run.segue(&["why"]).expect(0).says(&["a change of "]);
        run.finish();
    });
}

#[test]
fn a_link_that_is_turned_is_a_reload_and_the_new_release_is_watched_instead() {
    let run = watching().start();
    until_watched(&run);
    let generation = run.app().generation;
    run.site.deploy("v2", "plain.js");
    run.until("v2 serves", |app| {
        app.generation == generation + 1 && app.reload.is_none()
    });
    until_version(&run, "v2");
    // What is in the old one is nobody's business any more.
    let old = run.site.path("releases/v1/server.js");
    fs::write(&old, "nonsense(").expect("write the old script");
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!(reloads(&run), 1, "{}", run.log.render());
    fs::write(run.site.path("releases/v2/VERSION"), "v2b").expect("write the version");
    run.until("the edit serves", |app| {
        app.generation == generation + 2 && app.reload.is_none()
    });
    assert_eq!(reloads(&run), 2, "{}", run.log.render());
    run.finish();
}

#[test]
fn what_is_not_the_apps_code_brings_none() {
    let launch = watching();
    let there = launch.site.path("current");
    fs::create_dir_all(there.join("node_modules/a")).expect("make a directory");
    fs::create_dir(there.join(".git")).expect("make a directory");
    let run = launch.flag("--log", there.join("web.log")).start();
    until_watched(&run);
    for name in [
        "node_modules/a/index.js",
        "node_modules/b",
        ".git/HEAD",
        "web.log.1",
        "server.js~",
        ".server.js.swp",
    ] {
        fs::write(there.join(name), "x").expect("write a file");
    }
    run.get("/");
    run.segue(&["reopen"]).expect(0);
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!(reloads(&run), 0, "{}", run.log.render());
    assert_eq!(run.app().generation, 1);
    run.finish();
}

#[test]
fn a_burst_of_edits_is_one_reload() {
    let run = watching().start();
    until_watched(&run);
    let there = run.site.path("current");
    let mark = run.log.mark();
    fs::create_dir(there.join("lib")).expect("make a directory");
    for number in 0..30 {
        fs::write(there.join(format!("lib/{number}.js")), "").expect("write a file");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.log.wait_for(mark, "29 more files", LIMIT);
    wait_for_commit(&run, mark);
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!(reloads(&run), 1, "{}", run.log.render());
    run.finish();
}

#[test]
fn a_broken_edit_leaves_the_old_version_and_its_correction_is_taken() {
    let run = watching().start();
    until_watched(&run);
    let there = run.site.path("current");
    let script = there.join("server.js");
    let good = fs::read_to_string(&script).expect("read the script");
    let mark = run.log.mark();
    fs::write(&script, "nonsense(").expect("break the script");
    run.until("the reload has failed", |app| {
        app.reload.is_none()
            && app
                .last_reload
                .as_ref()
                .is_some_and(|reload| reload.outcome == ReloadOutcome::Failed)
    });
    until_version(&run, "v1");
    assert_eq!(reloads(&run), 1, "{}", run.log.render());
    fs::write(&script, good).expect("mend the script");
    wait_for_commit(&run, mark);
    until_version(&run, "v1");
    run.finish();
}

#[test]
fn who_takes_over_watches_again() {
    let run = watching().start();
    until_watched(&run);
    kill_supervisor(&run);
    until_watched(&run);
    let version = run.site.path("current/VERSION");
    let mark = run.log.mark();
    fs::write(&version, "v2").expect("write the version");
    wait_for_commit(&run, mark);
    until_version(&run, "v2");
    run.upgrade().expect(0);
    until_watched(&run);
    let mark = run.log.mark();
    fs::write(&version, "v3").expect("write the version");
    wait_for_commit(&run, mark);
    until_version(&run, "v3");
    run.finish();
}

#[test]
fn apply_begins_and_ends_the_watch_with_no_reload() {
    let launch = Launch::node("plain.js").without_script().without_cwd();
    let file = launch.site.path("segue.toml");
    let port = launch.site.port.number();
    let write = |more: &str| {
        let text = format!(
            "[app.web]\ncommand = \"server.js\"\ncwd = \"current\"\nenv.PORT = \"{port}\"\n{more}"
        );
        fs::write(&file, text).expect("write the file");
    };
    write("");
    let path = file.to_string_lossy().into_owned();
    let run = launch.flag("--config", &file).start();
    write("watch = [\"VERSION\"]\n");
    run.segue(&["apply", "-c", &path])
        .expect(0)
        .says(&["watch"]);
    until_watched(&run);
    let there = run.site.path("current");
    fs::write(there.join("other.js"), "").expect("write a file");
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!((reloads(&run), run.app().generation), (0, 1));
    let mark = run.log.mark();
    fs::write(there.join("VERSION"), "v2").expect("write the version");
    wait_for_commit(&run, mark);
    write("watch = false\n");
    run.segue(&["apply", "-c", &path]).expect(0);
    fs::write(there.join("VERSION"), "v3").expect("write the version");
    std::thread::sleep(LONG_ENOUGH);
    assert_eq!(reloads(&run), 1, "{}", run.log.render());
    run.finish();
}

/// How often threads of the supervisor have gone to sleep.
fn sleeps(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the supervisor runs");
    let texts = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let count = |text: String| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u64>().ok())
            .unwrap_or_default()
    };
    texts.map(count).sum()
}

#[test]
fn nothing_wakes_while_files_are_read_and_logs_are_written() {
    let run = watching().start();
    let there = run.site.path("current");
    // As an app keeps its own log open.
    let mut log = fs::File::create(there.join("own.log")).expect("make a file");
    until_watched(&run);
    let pid = run.status().supervisor.pid;
    std::thread::sleep(Duration::from_secs(1));
    let before = sleeps(pid);
    for _ in 0..500 {
        fs::read(there.join("server.js")).expect("read the script");
        writeln!(log, "a line").expect("write a line");
    }
    std::thread::sleep(LONG_ENOUGH);
    let woken = sleeps(pid) - before;
    assert!(woken < 20, "woken {woken} times");
    assert_eq!(reloads(&run), 0, "{}", run.log.render());
    run.finish();
}

#[test]
fn an_app_that_writes_while_it_boots_is_slowed_down_and_serves() {
    let launch = watching();
    let there = launch.site.path("current");
    let text =
        "require('fs').writeFileSync('cache.json', String(Date.now()));\nrequire('./plain.js');\n";
    fs::write(there.join("server.js"), text).expect("write the script");
    let run = launch.start();
    until_watched(&run);
    let mark = run.log.mark();
    fs::write(there.join("VERSION"), "v2").expect("write the version");
    run.log.wait_for(mark, "leave them out", LIMIT);
    run.until("the reload has ended", |app| app.reload.is_none());
    until_version(&run, "v2");
    let count = reloads(&run);
    std::thread::sleep(2 * LONG_ENOUGH);
    assert_eq!(reloads(&run), count, "{}", run.log.render());
    run.finish();
}

#[test]
fn a_limit_of_the_kernels_is_said_once_and_the_app_runs_on() {
    const LIMITED: &str = "echo 2 > /proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"";
    let limited = ["unshare", "--user", "--map-root-user", "sh", "-c", LIMITED];
    let tried = std::process::Command::new("unshare")
        .args(&limited[1..])
        .arg("true")
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        return skip("no user namespace with a limit of its own can be made here");
    }
    let launch = watching().under(&limited);
    for name in ["a", "b", "c"] {
        fs::create_dir(launch.site.path("current").join(name)).expect("make a directory");
    }
    let run = launch.start();
    run.log.wait_for(0, "fs.inotify.max_user_watches", LIMIT);
    fs::write(run.site.path("current/VERSION"), "v2").expect("write the version");
    run.reload().expect(0);
    until_version(&run, "v2");
    let lines = run.log.lines();
    let said = lines
        .iter()
        .filter(|line| line.text.starts_with("segue: ") && line.text.contains("max_user_watches"));
    assert_eq!(said.count(), 1, "{}", run.log.render());
    run.finish();
}

#[test]
fn a_time_of_day_is_a_reload() {
    let run = Launch::node("plain.js")
        .flag("--restart-at", "* * * * *")
        .start();
    let mark = run.log.mark();
    let minute = Duration::from_secs(60);
    run.log.wait_for(
        mark,
        "reload asked for by restart.at (* * * * *)",
        minute + LIMIT,
    );
    wait_for_commit(&run, mark);
    run.segue(&["why"]).expect(0).says(&["restart.at"]);
    run.finish();
}
