//! The log file: what workers print goes there whole, once, in whichever file is at its path, and a
//! disk that is full or gone keeps nobody waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::background::Desk;
use crate::harness::output::Stream;
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};

fn logged(fixture: &str) -> (Launch, PathBuf) {
    let launch = Launch::node(fixture);
    let path = launch.site.path("logs/web.log");
    std::fs::create_dir(launch.site.path("logs")).expect("make the directory of logs");
    (launch.flag("--log", &path), path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Waits until the file is longer than this.
fn wait_for_more(run: &Run, path: &Path, than: usize) {
    run.until("more is printed", |_| read(path).len() > than);
}

fn reopen(run: &Run) {
    let mark = run.log.mark();
    run.signal(Signal::USR1);
    run.log.wait_for(mark, "opened anew", LIMIT);
}

/// What a death of the supervisor may do to a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twice {
    Never,
    Sometimes,
}

/// Every number of every worker, once, and up to the one it says that it ended with.
fn expect_all(texts: &[String], workers: usize, twice: Twice, run_log: &str) {
    let mut lines: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for text in texts {
        assert!(text.is_empty() || text.ends_with('\n'), "a torn end");
        for line in text.lines() {
            let (_, said) = line.split_once(" | ").expect("a prefix");
            let words: Vec<&str> = said.split(' ').collect();
            let [what, number, "of", pid] = words[..] else {
                panic!("a torn line: {line:?}\n{run_log}");
            };
            assert!(pid.ends_with('.'), "a torn line: {line:?}");
            let number: u64 = number.parse().expect("a number");
            match what {
                "line" => {
                    let is_new = lines.entry(pid).or_default().insert(number);
                    assert!(is_new || twice == Twice::Sometimes, "twice: {line}");
                }
                "end" => {
                    let is_new = ends.insert(pid, number).is_none();
                    assert!(is_new || twice == Twice::Sometimes, "twice: {line}");
                }
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!(ends.len(), workers, "{ends:?}\n{run_log}");
    for (pid, count) in ends {
        let numbers = &lines[pid];
        assert_eq!(numbers.len() as u64, count, "lines of {pid}\n{run_log}");
        assert_eq!(numbers.last(), Some(&(count - 1)));
    }
}

#[test]
fn a_rotated_log_file_has_every_line_once_through_reloads_and_upgrades() {
    let (launch, path) = logged("counting.js");
    let mut run = launch.start();
    let mut old = Vec::new();
    let rotate = |run: &Run, old: &mut Vec<PathBuf>| {
        wait_for_more(run, &path, 0);
        let name = path.with_extension(old.len().to_string());
        std::fs::rename(&path, &name).expect("rename the log file");
        old.push(name);
    };
    for round in 0..12 {
        rotate(&run, &mut old);
        match round {
            3 => {
                run.roll("v2", "counting.js");
            }
            // Whoever comes after goes on with the file that has been renamed.
            6 => {
                run.segue(&["upgrade"]).expect(0);
                let old = old.last().expect("it was rotated");
                wait_for_more(&run, old, read(old).len());
                assert!(!path.exists(), "nobody has asked for a new one");
            }
            _ => {}
        }
        reopen(&run);
    }
    run.signal(Signal::TERM);
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
    run.log.wait_for_end(2, LIMIT);
    let texts: Vec<String> = old.iter().chain([&path]).map(|path| read(path)).collect();
    expect_all(&texts, 4, Twice::Never, &run.log.render());
    let lines = run.log.lines();
    let out = lines.iter().filter(|line| line.stream == Stream::Out);
    assert_eq!(out.count(), 0, "{}", run.log.render());
    assert!(run.log.contains("segue: "), "its own lines stay on stderr");
}

/// The log file and what it was before, the newest last, and how many of them are compressed.
fn rotated(path: &Path) -> (Vec<String>, usize) {
    let directory = path.parent().expect("a directory");
    let mut found = BTreeMap::new();
    let mut compressed = 0;
    for entry in std::fs::read_dir(directory).expect("list the directory") {
        let entry = entry.expect("list the directory");
        let name = entry.file_name().into_string().expect("a name");
        let rest = name.strip_prefix("web.log").expect("one of ours");
        if rest.ends_with(".part") {
            // Compressing was interrupted by the end.
            continue;
        }
        let number = rest.trim_start_matches('.').trim_end_matches(".gz");
        let number: u32 = number.parse().unwrap_or(0);
        let file = std::fs::File::open(entry.path()).expect("open it");
        let mut text = String::new();
        if rest.ends_with(".gz") {
            compressed += 1;
            flate2::read::GzDecoder::new(file).read_to_string(&mut text)
        } else {
            (&file).read_to_string(&mut text)
        }
        .expect("read it");
        assert_eq!(
            found.insert(std::cmp::Reverse(number), text),
            None,
            "{name}"
        );
    }
    (found.into_values().collect(), compressed)
}

#[test]
fn a_file_that_rotates_itself_loses_nothing_through_kills_reloads_and_upgrades() {
    let (launch, path) = logged("counting.js");
    let flags = [
        ("--log-rotate-size", "128KiB"),
        ("--log-rotate-keep", "100"),
        ("--log-rotate-age", "1s"),
    ];
    let launch = flags
        .into_iter()
        .fold(launch, |launch, (flag, value)| launch.flag(flag, value));
    let mut run = launch.start();
    for round in 0..6 {
        let first = std::fs::metadata(path.with_extension("log.1")).ok();
        run.until("it is rotated", |_| {
            use std::os::unix::fs::MetadataExt;
            let now = std::fs::metadata(path.with_extension("log.1")).ok();
            now.is_some() && now.map(|now| now.ino()) != first.as_ref().map(MetadataExt::ino)
        });
        match round {
            1 => {
                run.roll("v2", "counting.js");
            }
            3 => {
                run.segue(&["upgrade"]).expect(0);
            }
            _ => {
                let killed = run.status().supervisor.pid;
                let process = Process::open(killed).expect("it runs");
                process.signal(Signal::KILL);
                assert!(process.ends_within(LIMIT));
                run.until("it has a successor", |_| {
                    run.try_status()
                        .is_ok_and(|status| status.supervisor.pid != killed)
                });
            }
        }
    }
    run.signal(Signal::TERM);
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
    run.log.wait_for_end(2, LIMIT);
    let (texts, compressed) = rotated(&path);
    assert!(compressed > 0, "{}", texts.len());
    expect_all(&texts, 4, Twice::Sometimes, &run.log.render());
}

#[test]
fn a_successor_goes_on_with_the_log_file_and_hears_of_a_rotation() {
    let (launch, path) = logged("counting.js");
    let run = launch.start();
    let old = path.with_extension("1");
    wait_for_more(&run, &path, 0);
    std::fs::rename(&path, &old).expect("rename the log file");
    let kill = || {
        let supervisor = run.status().supervisor.pid;
        let process = Process::open(supervisor).expect("it runs");
        process.signal(Signal::KILL);
        assert!(process.ends_within(LIMIT));
        supervisor
    };
    let killed = kill();
    run.until("it has a successor", |_| {
        run.try_status()
            .is_ok_and(|status| status.supervisor.pid != killed)
    });
    wait_for_more(&run, &old, read(&old).len());
    assert!(!path.exists());
    kill();
    // Nobody is there to hear it now.
    reopen(&run);
    wait_for_more(&run, &path, 0);
    run.finish();
}

#[test]
fn a_log_that_moves_while_workers_print_has_every_line_once() {
    let desk = Desk::new();
    desk.site.deploy("v2", "counting.js");
    std::fs::create_dir(desk.path("logs")).expect("make the directory of logs");
    let (first, second) = (desk.path("logs/first.log"), desk.path("logs/second.log"));
    let pids = || {
        let workers = desk.app("web").workers.into_iter();
        workers.filter_map(|worker| worker.pid).collect::<Vec<_>>()
    };
    let apply = |log: &Path, more: &str| {
        desk.file(&format!("log = {{ out = {log:?}, {more} }}"), "-");
        desk.segue(&["apply"])
    };
    apply(&first, "time = false").expect(0);
    let before = pids();
    let grows = |log: &Path| {
        let than = read(log).len();
        desk.until("more is printed", |_| read(log).len() > than);
    };
    grows(&first);
    let moved = apply(&second, "time = false");
    moved.expect(0).says(&["log.out: ", "(at once)"]);
    grows(&second);
    // Another rule for the same file, then back.
    let ruled = apply(&second, "rotate = { size = \"1GiB\" }");
    ruled.expect(0).says(&["log.rotate.size: 50MiB -> 1GiB"]);
    grows(&second);
    apply(&first, "time = false").expect(0);
    grows(&first);
    // Whoever comes after goes on with the file that is the last.
    desk.segue(&["upgrade"]).expect(0);
    grows(&first);
    let length = read(&second).len();
    let killed = desk.status().supervisor.pid;
    Process::open(killed).expect("it runs").signal(Signal::KILL);
    desk.until("it has a successor", |status| {
        status.supervisor.pid != killed
    });
    grows(&first);
    apply(&second, "time = true").expect(0);
    desk.until("the time is told", |_| {
        let more = read(&second).split_off(length);
        more.lines()
            .last()
            .is_some_and(|line| line.contains("Z web."))
    });
    apply(&second, "time = false").expect(0);
    assert_eq!(pids(), before, "no worker is another one");
    desk.segue(&["stop", "web"]).expect(0);
    desk.segue(&["shutdown"]).expect(0);
    let without_time = |text: String| {
        let lines = text.split_inclusive('\n');
        let lines = lines.map(|line| line.split_once("Z web.").map_or(line, |(_, rest)| rest));
        lines.collect::<String>()
    };
    let texts = [without_time(read(&first)), without_time(read(&second))];
    expect_all(&texts, 2, Twice::Sometimes, &desk.own_log());
}

#[test]
fn a_word_instead_of_a_file_is_stdout_or_the_journal() {
    let desk = Desk::new();
    desk.site.deploy("v2", "counting.js");
    desk.file("log.out = \"stdout\"", "-");
    desk.segue(&["apply"]).expect(0);
    let is_there = |_: &_| desk.own_log().contains("web.0 | line 1");
    desk.until("its lines are in the supervisor's", is_there);
    assert!(!desk.path("state/segue/logs/web.log").exists());
    desk.segue(&["logs", "web"])
        .expect(1)
        .says(&["no log file"]);
    desk.file("log.out = \"web.log\"", "-");
    let moved = desk.segue(&["apply"]);
    moved.expect(0).says(&["log.out: stdout -> ", "(at once)"]);
    desk.until("they are in the file", |_| {
        !read(&desk.path("web.log")).is_empty()
    });
    desk.file("log.out = \"journald\"", "-");
    let applied = desk.segue(&["apply"]);
    if Path::new("/run/systemd/journal/stdout").exists() {
        applied.expect(0).says(&["-> journald"]);
    } else {
        applied
            .expect(2)
            .says(&["cannot reach systemd's journal: No such file"]);
        // It goes on as it was.
        let length = read(&desk.path("web.log")).len();
        desk.until("more is printed", |_| {
            read(&desk.path("web.log")).len() > length
        });
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_is_an_error_at_once() {
    let launch = Launch::node("plain.js").flag("--log", "no/such/directory/web.log");
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 2, "{}", run.log.render());
    let text = "no/such/directory/web.log: No such file or directory";
    assert!(run.log.contains(text), "{}", run.log.render());
}

#[test]
fn a_directory_of_logs_that_is_gone_keeps_nobody_waiting() {
    let (launch, path) = logged("counting.js");
    let run = launch.start();
    wait_for_more(&run, &path, 0);
    let away = run.site.path("away");
    std::fs::rename(run.site.path("logs"), &away).expect("move the directory away");
    let mark = run.log.mark();
    run.signal(Signal::USR1);
    let line = run.log.wait_for(mark, "cannot open the log file", LIMIT);
    assert!(
        line.text.contains("No such file or directory"),
        "{}",
        line.text
    );
    let old = away.join("web.log");
    wait_for_more(&run, &old, read(&old).len());
    assert_eq!(run.get("/").version(), "v1");
    std::fs::create_dir(run.site.path("logs")).expect("make it again");
    reopen(&run);
    wait_for_more(&run, &path, 0);
    run.finish();
}

#[test]
fn a_full_disk_keeps_no_worker_waiting() {
    let (launch, path) = logged("plain.js");
    std::os::unix::fs::symlink("/dev/full", &path).expect("make a symlink");
    let run = launch.start();
    // Many times what fits into pipes and buffers.
    for _ in 0..20 {
        assert_eq!(run.get("/print?lines=2000&repeat=200").status, 200);
    }
    run.log
        .wait_for(0, "cannot be written: No space left on device", LIMIT);
    run.segue(&["status"]).expect(0);
    run.roll("v2", "plain.js");
    std::fs::remove_file(&path).expect("remove the symlink");
    reopen(&run);
    assert_eq!(run.get("/print?text=after").status, 200);
    run.until("it is written again", |_| read(&path).contains("| after\n"));
    let text = read(&path);
    assert!(text.contains(" lines lost: "), "{text}");
    run.log.wait_for(0, "is written again; ", LIMIT);
    run.finish();
}

#[test]
fn logs_are_read_from_as_many_files_as_it_takes() {
    let (launch, path) = logged("plain.js");
    let launch = launch
        .flag("--log-format", "json")
        .flag("--log-rotate-size", "4KiB")
        .flag("--log-rotate-keep", "100");
    let run = launch.start();
    for number in 0..300 {
        assert_eq!(run.get(&format!("/print?text=text-{number}")).status, 200);
    }
    run.until("all is written", |_| read(&path).contains("\"text-299\""));
    let shown = run.segue(&["logs", "-n", "200"]);
    shown.expect(0);
    // Of the two workers each keeps its order, and they do not keep one.
    let lines: BTreeSet<&str> = shown.out.lines().collect();
    assert_eq!(lines.len(), 200, "{}", shown.out);
    assert!(lines.iter().all(|line| line.contains(" | text-")));
    run.until("some are compressed", |_| {
        (2..100).any(|number| path.with_extension(format!("log.{number}.gz")).exists())
    });
    let shown = run.segue(&["logs", "-n", "1", "--json", "--since", "1h"]);
    shown.expect(0);
    let object: serde_json::Value = serde_json::from_str(&shown.out).expect("an object");
    assert_eq!(object["stream"], "stdout");
    assert!(object["worker"].is_u64() && object["slot"].is_u64() && object["time"].is_string());
    let shown = run.segue(&["logs", "--since", "2100-01-01"]);
    assert_eq!(shown.expect(0).out, "");
    run.finish();
}

#[test]
fn logs_without_a_file_say_what_to_do() {
    let run = Launch::node("plain.js").start();
    let shown = run.segue(&["logs"]);
    shown.expect(1);
    assert!(shown.err.contains("--log FILE"), "{}", shown.err);
    run.finish();
}

#[test]
fn a_log_of_text_without_the_time_cannot_tell_since_when() {
    let (launch, _) = logged("plain.js");
    let run = launch.start();
    let shown = run.segue(&["logs", "--since", "1h"]);
    shown.expect(2);
    assert!(shown.err.contains("--log-time on"), "{}", shown.err);
    run.finish();
}
