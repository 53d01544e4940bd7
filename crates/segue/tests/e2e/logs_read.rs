//! `segue logs` while the file changes under it, and priorities for the journal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use crate::harness::output::{Log, Stream};
use crate::harness::run::{LIMIT, Launch};

/// From the first line that it shows on, it shows every one, once: of each worker, up to its last.
#[test]
fn following_misses_nothing_and_repeats_nothing_across_rotations() {
    let launch = Launch::node("counting.js");
    let path = launch.site.path("logs/web.log");
    std::fs::create_dir(launch.site.path("logs")).expect("make the directory of logs");
    let mut run = launch
        .flag("--log", &path)
        .flag("--log-rotate-size", "48KiB")
        .flag("--log-rotate-keep", "100")
        .start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command.args(["logs", "-f", "--control"]).arg(&run.control);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut following = command.spawn().expect("start segue logs");
    let shown = Log::new();
    let out = following.stdout.take().expect("stdout is a pipe");
    shown.follow(Stream::Out, out);
    shown.wait_for(0, "line ", LIMIT);
    for round in 0..8 {
        let inode = || std::fs::metadata(&path).map(|found| found.ino()).ok();
        let before = inode();
        run.until("it is rotated", |_| inode() != before);
        if round == 4 {
            // As logrotate does it.
            std::fs::rename(&path, path.with_extension("aside")).expect("rename it");
            run.signal(Signal::USR1);
        }
    }
    run.signal(Signal::TERM);
    assert_eq!(
        run.wait_for_end(LIMIT).code(),
        Some(0),
        "{}",
        run.log.render()
    );
    let deadline = Instant::now() + LIMIT;
    loop {
        let mark = shown.mark();
        let lines = shown.lines();
        if lines
            .iter()
            .filter(|line| line.text.contains("| end "))
            .count()
            == 2
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{} lines and no end",
            lines.len()
        );
        shown.wait_for_news(mark, LIMIT);
    }
    following.kill().expect("end segue logs");
    following.wait().expect("its end");
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for line in shown.lines() {
        let (_, said) = line.text.split_once(" | ").expect("a name");
        let words: Vec<&str> = said.split(' ').collect();
        let [what, number, "of", pid] = words[..] else {
            panic!("torn: {}", line.text);
        };
        let number: u64 = number.parse().expect("a number");
        match what {
            "line" => numbers.entry(pid.to_owned()).or_default().push(number),
            _ => drop(totals.insert(pid.to_owned(), number)),
        }
    }
    assert_eq!(totals.len(), 2);
    for (pid, total) in totals {
        // Its stdout and its stderr are two pipes: together they have no order.
        let mut seen = numbers.remove(&pid).expect("its lines");
        seen.sort_unstable();
        let first = *seen.first().expect("many");
        let [even, odd] = [0, 1].map(|rest| seen.iter().find(|number| **number % 2 == rest));
        let (even, odd) = (*even.expect("many"), *odd.expect("many"));
        let expected: Vec<u64> = (first..total)
            .filter(|number| *number >= if number % 2 == 0 { even } else { odd })
            .collect();
        assert_eq!(seen, expected, "of {pid}");
    }
    run.expect_nothing_left();
}

/// systemd says by device and inode which of our files is its journal.
#[test]
fn the_journal_gets_priorities_and_no_other_reader_does() {
    let launch = Launch::node("raw.js").workers("1").flag("--name", "web");
    let journal = launch.site.path("journal");
    let made = File::create(&journal).and_then(|file| file.metadata());
    let made = made.expect("make a file");
    let stream = format!("{}:{}", made.dev(), made.ino());
    // Its stdout is that file, its stderr is not.
    let line = "exec \"$@\" >> \"$0\"";
    let to = journal.to_string_lossy().into_owned();
    let run = launch
        .env("JOURNAL_STREAM", &stream)
        .under(&["sh", "-c", line, &to])
        .start();
    let hex: String = b"<0>hello\n"
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    run.get(&format!("/raw?hex={hex}"));
    run.get(&format!("/raw?hex={hex}&to=stderr"));
    let line = run.log.wait_for(0, "hello", LIMIT);
    assert_eq!(line.text, "web.0 | <0>hello");
    run.until("it has come", |_| {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        text == "<6>web.0 | <0>hello\n"
    });
    run.finish();
}
