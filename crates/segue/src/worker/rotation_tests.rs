//! A log file that rotates itself, in a directory where others have their hands in.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

use flate2::read::MultiGzDecoder;
use proptest::prelude::*;

use super::*;

fn rule(size: u64, keep: u32) -> Rotation {
    Rotation {
        size: Some(size),
        age: None,
        keep,
        total: None,
    }
}

impl Logged {
    fn archive(&self) -> &Arc<Archive> {
        let log = self.writer.shared.log.as_ref().unwrap();
        log.archive.as_ref().unwrap()
    }

    /// Everything is written, and every old file as it will stay. However long that takes where
    /// others keep the machine busy: only if nothing happens for a while it is an error.
    fn settle(&self) {
        let mut before = Vec::new();
        while !self.writer.flush(SOON) || !self.archive().is_settled(SOON) {
            let now = self.listing();
            assert_ne!(now, before, "nothing has happened for {SOON:?}");
            before = now;
        }
    }

    /// Names and sizes.
    fn listing(&self) -> Vec<(std::ffi::OsString, u64)> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut listing: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.unwrap();
                // It may have got another name meanwhile.
                Some((entry.file_name(), entry.metadata().ok()?.len()))
            })
            .collect();
        listing.sort();
        listing
    }

    /// By their age, the newest last; none twice.
    fn files(&self) -> Vec<(String, String)> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let Some(rest) = name.strip_prefix("web.log") else {
                continue;
            };
            let rest = rest.strip_prefix('.').unwrap_or("0");
            let number = rest.strip_suffix(".gz").unwrap_or(rest);
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            if !entry.file_type().unwrap().is_file() {
                continue;
            }
            let file = File::open(entry.path()).unwrap();
            let text = match rest.ends_with(".gz") {
                true => all(MultiGzDecoder::new(file)),
                false => all(file),
            };
            let before = found.insert(std::cmp::Reverse(number), (name, text));
            assert!(before.is_none(), "{before:?}");
        }
        found.into_values().collect()
    }

    fn names(&self) -> Vec<String> {
        self.files().into_iter().map(|(name, _)| name).collect()
    }

    fn everything(&self) -> String {
        self.files().into_iter().map(|(_, text)| text).collect()
    }

    /// Another writer goes on with the same file, as after a death.
    fn succeed(&mut self, rotation: Rotation) {
        let log = self.writer.shared.log.as_ref().unwrap();
        let path = log.path.clone().unwrap();
        let file = log::open(&path).unwrap();
        let null = || OwnedFd::from(File::options().write(true).open("/dev/null").unwrap());
        let log = LogFile {
            path,
            file,
            rotation,
            began: None,
        };
        self.writer = Writer::over(null(), null(), Layout::default(), Some(log)).unwrap();
    }
}

#[test]
fn a_file_is_rotated_before_it_is_too_large_and_the_older_ones_are_compressed() {
    let log = Logged::rotated(rule(1000, 4));
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(log.path("web.log"), mode).unwrap();
    let mut printed = String::new();
    for number in 0..1000 {
        let line = format!("line {number}\n");
        log.print(&line);
        printed.push_str(&line);
    }
    log.settle();
    let names = [
        "web.log.4.gz",
        "web.log.3.gz",
        "web.log.2.gz",
        "web.log.1",
        "web.log",
    ];
    assert_eq!(log.names(), names);
    assert!(printed.ends_with(&log.everything()));
    for (name, text) in log.files() {
        assert!(text.len() <= 1000 && text.ends_with('\n'), "{name}");
        let found = std::fs::metadata(log.path(&name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o644, "{name}");
    }
    let news: Vec<LogNews> = log.news.try_iter().collect();
    assert!(
        news.iter().all(|news| matches!(news, LogNews::Rotated)),
        "{news:?}"
    );
    assert!(news.len() >= 8);
}

#[test]
fn all_files_together_stay_below_the_total() {
    let log = Logged::rotated(Rotation {
        total: Some(40_000),
        ..rule(10_000, 100)
    });
    let mut seed = 1_u64;
    for _ in 0..300 {
        // What does not compress.
        let mut line = String::new();
        while line.len() < 500 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            line.push_str(&format!("{seed:x}"));
        }
        log.print(&(line + "\n"));
    }
    log.settle();
    let sum: u64 = log
        .names()
        .iter()
        .map(|name| std::fs::metadata(log.path(name)).unwrap().len())
        .sum();
    assert!((20_000..=40_000).contains(&sum), "{sum}");
}

#[test]
fn a_long_line_has_a_file_of_its_own() {
    let log = Logged::rotated(rule(100, 100));
    for line in ["a\n", &("x".repeat(10_000) + "\n"), "b\n", "c\n"] {
        log.print(line);
    }
    log.settle();
    let texts: Vec<String> = log.files().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["a\n", &("x".repeat(10_000) + "\n"), "b\nc\n"]);
}

#[test]
fn names_that_are_no_files_are_left_alone() {
    let log = Logged::rotated(rule(10, 100));
    let precious = log.path("precious");
    std::fs::write(&precious, "precious").unwrap();
    symlink(&precious, log.path("web.log.1")).unwrap();
    symlink(&precious, log.path("web.log.2.gz")).unwrap();
    std::fs::create_dir(log.path("web.log.4")).unwrap();
    symlink(&precious, log.path("web.log.gz.part")).unwrap();
    for number in 0..4 {
        log.print(&format!("number {number}\n"));
    }
    log.settle();
    assert_eq!(
        log.names(),
        ["web.log.6", "web.log.5", "web.log.3", "web.log"]
    );
    // There is no name to compress to; said once.
    let failed = |news: &LogNews| matches!(news, LogNews::NotCompressed(_));
    assert_eq!(log.news.try_iter().filter(failed).count(), 1);
    std::fs::remove_file(log.path("web.log.gz.part")).unwrap();
    log.print("number 4\n");
    log.settle();
    let expected: String = (0..5).map(|number| format!("number {number}\n")).collect();
    assert_eq!(log.everything(), expected);
    assert_eq!(log.names()[..2], ["web.log.7.gz", "web.log.6.gz"]);
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
    assert!(log.path("web.log.1").is_symlink());
}

#[test]
fn a_log_file_that_is_a_link_is_not_rotated_and_said_once() {
    let log = Logged::rotated(rule(10, 100));
    std::fs::rename(log.path("web.log"), log.path("real")).unwrap();
    symlink(log.path("real"), log.path("web.log")).unwrap();
    for _ in 0..100 {
        log.print("a line\n");
    }
    log.settle();
    assert_eq!(log.text("real").len(), 700);
    assert!(matches!(log.news(), LogNews::NotRotated(_)));
    assert!(log.news.try_recv().is_err());
}

#[test]
fn what_a_predecessor_left_half_done_is_finished() {
    let mut log = Logged::rotated(rule(20, 100));
    for number in 0..6 {
        log.print(&format!("a line, number {number}\n"));
    }
    log.settle();
    let before = log.everything();
    // Compressed and not removed; begun to compress; shifted with a gap; not yet opened anew.
    let old = all(MultiGzDecoder::new(
        File::open(log.path("web.log.3.gz")).unwrap(),
    ));
    std::fs::write(log.path("web.log.3"), old).unwrap();
    std::fs::write(log.path("web.log.gz.part"), "half").unwrap();
    std::fs::rename(log.path("web.log.2.gz"), log.path("web.log.7.gz")).unwrap();
    std::fs::rename(log.path("web.log.7.gz"), log.path("web.log.2.gz")).unwrap();
    log.succeed(rule(20, 100));
    log.settle();
    assert!(!log.path("web.log.3").exists());
    assert!(!log.path("web.log.gz.part").exists());
    assert_eq!(log.everything(), before);
}

#[test]
fn a_line_that_a_predecessor_has_not_ended_is_not_torn() {
    let mut log = Logged::rotated(rule(10, 100));
    std::fs::write(log.path("web.log"), "0123456789abc").unwrap();
    log.succeed(rule(10, 100));
    log.print("def\nnext\n");
    log.settle();
    assert_eq!(log.text("web.log.1"), "0123456789abcdef\n");
    assert_eq!(log.text("web.log"), "next\n");
}

#[test]
fn age_rotates_once_and_only_if_there_are_lines() {
    let log = Logged::rotated(Rotation {
        size: None,
        age: Some(Duration::from_millis(50)),
        ..Rotation::default()
    });
    log.print("one\n");
    assert!(matches!(log.news(), LogNews::Began(_)));
    assert!(matches!(log.news(), LogNews::Rotated));
    // Empty, it has no age.
    let quiet = log.news.recv_timeout(Duration::from_millis(300));
    assert!(quiet.is_err(), "{quiet:?}");
    log.print("two\n");
    assert!(matches!(log.news(), LogNews::Began(_)));
    assert!(matches!(log.news(), LogNews::Rotated));
    log.settle();
    assert_eq!(log.everything(), "one\ntwo\n");
}

#[test]
fn a_name_that_somebody_else_takes_away_in_the_middle_is_no_failure() {
    let log = Logged::rotated(rule(200, 10_000));
    let path = log.path("web.log");
    let directory = log.directory.path().to_owned();
    let aside = |number: usize| directory.join(format!("aside.{number}"));
    let is_over = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        let renaming = scope.spawn(|| {
            let mut taken = 0;
            while !is_over.load(Ordering::Relaxed) {
                taken += usize::from(std::fs::rename(&path, aside(taken)).is_ok());
            }
            taken
        });
        for number in 0..2000 {
            log.print(&format!("number {number}\n"));
            // One batch after the other, so that there are many moments.
            if number % 10 == 9 {
                log.writer.flush(SOON);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        renaming.join().unwrap()
    });
    log.settle();
    let news: Vec<LogNews> = log.news.try_iter().collect();
    let failed = |news: &LogNews| matches!(news, LogNews::NotRotated(_));
    assert!(!news.iter().any(failed), "{news:?}");
    let texts = (0..taken).map(|number| std::fs::read_to_string(aside(number)).unwrap());
    let all = texts.collect::<String>() + &log.everything();
    let mut lines: Vec<&str> = all.lines().collect();
    let mut expected: Vec<String> = (0..2000).map(|number| format!("number {number}")).collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[derive(Clone, Debug)]
enum Step {
    Print(Vec<u16>),
    /// As logrotate does it, with its own name.
    RenameAndSignal,
    /// The same, and the signal comes never.
    Rename,
    /// Another one rotates with our names.
    Gap(u32),
    Link(u32),
    Directory(u32),
    PauseAndResume,
    Succeed,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(0..600_u16, 1..12).prop_map(Step::Print),
        1 => Just(Step::RenameAndSignal),
        1 => Just(Step::Rename),
        1 => (1..6_u32).prop_map(Step::Gap),
        1 => (1..9_u32).prop_map(Step::Link),
        1 => (1..9_u32).prop_map(Step::Directory),
        1 => Just(Step::PauseAndResume),
        1 => Just(Step::Succeed),
        1 => Just(Step::Settle),
    ]
}

/// A directory whose files need no disk to be safe: there are thousands of them.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_line_is_lost_or_torn(steps in prop::collection::vec(step(), 1..40), size in 64..3000_u64) {
        let rule = rule(size, 10_000);
        let mut log = Logged::rotated_in(memory(), rule);
        let mut count = 0_u32;
        let mut aside = 0;
        for step in steps {
            match step {
                Step::Print(lengths) => for length in lengths {
                    log.print(&format!("{count} {}.\n", "x".repeat(length.into())));
                    count += 1;
                },
                Step::RenameAndSignal | Step::Rename => {
                    aside += 1;
                    let to = log.path(&format!("aside.{aside}"));
                    let renamed = std::fs::rename(log.path("web.log"), to);
                    if matches!(step, Step::RenameAndSignal) && renamed.is_ok() {
                        log.writer.reopen_log();
                    }
                }
                // Only what has a name that is free.
                Step::Gap(number) => {
                    let from = log.path(&format!("web.log.{number}.gz"));
                    aside += 1;
                    let _ = std::fs::rename(from, log.path(&format!("aside.{aside}.gz")));
                }
                Step::Link(number) => {
                    let _ = symlink("/dev/null", log.path(&format!("web.log.{number}")));
                }
                Step::Directory(number) => {
                    let _ = std::fs::create_dir(log.path(&format!("web.log.{number}.gz")));
                }
                Step::PauseAndResume => {
                    let leftover = log.writer.pause(SOON);
                    prop_assert!(!leftover.is_stalled());
                    log.writer.resume(leftover);
                }
                Step::Succeed => {
                    log.settle();
                    log.succeed(rule);
                }
                Step::Settle => log.settle(),
            }
        }
        log.settle();
        let mut seen = Vec::new();
        for entry in std::fs::read_dir(log.directory.path()).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_type().unwrap().is_file() {
                continue;
            }
            let file = File::open(entry.path()).unwrap();
            let name = entry.file_name().into_string().unwrap();
            let text = match name.ends_with(".gz") {
                true => all(MultiGzDecoder::new(file)),
                false => all(file),
            };
            prop_assert!(text.is_empty() || text.ends_with('\n'), "{name}");
            for line in text.lines() {
                prop_assert!(line.ends_with('.'), "{name}: {line}");
                seen.push(line.split(' ').next().unwrap().parse::<u32>().unwrap());
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
        prop_assert!(!log.path("web.log.gz.part").exists());
    }
}
