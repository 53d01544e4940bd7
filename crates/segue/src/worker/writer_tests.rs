//! A writer over real pipes and files, with readers that stall, leave or come back.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};

use super::super::archive::Archive;
use super::super::log::{self, LogNews};
use super::super::queue::LIMIT;
use super::*;
use crate::config::log::Rotation;

const SOON: Duration = Duration::from_secs(20);

fn writer() -> (Writer, PipeReader, PipeReader) {
    let (out, out_end) = pipe().unwrap();
    let (err, err_end) = pipe().unwrap();
    let writer = Writer::over(out_end.into(), err_end.into(), Layout::default(), None).unwrap();
    (writer, out, err)
}

fn all(mut reader: impl Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn lines_go_where_they_belong_and_the_end_writes_the_rest() {
    let (writer, out, err) = writer();
    writer.push(Stream::Out, b"one\n");
    writer.push(Stream::Err, b"two\n");
    writer.clone().push(Stream::Out, b"three\n");
    assert!(writer.flush(SOON));
    writer.push(Stream::Out, b"four\n");
    drop(writer);
    assert_eq!(all(out), "one\nthree\nfour\n");
    assert_eq!(all(err), "two\n");
}

#[test]
fn one_file_for_both_keeps_the_order() {
    let (reader, end) = pipe().unwrap();
    let both = end.try_clone().unwrap();
    let writer = Writer::over(end.into(), both.into(), Layout::default(), None).unwrap();
    let mut expected = String::new();
    for number in 0..1000 {
        let stream = [Stream::Out, Stream::Err][number % 2];
        let line = format!("{number}\n");
        writer.push(stream, line.as_bytes());
        expected.push_str(&line);
    }
    drop(writer);
    assert_eq!(all(reader), expected);
}

#[test]
fn a_stalled_reader_costs_a_mebibyte_then_counted_lines() {
    let (writer, out, err) = writer();
    let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
    let pushed = 3000;
    for _ in 0..pushed {
        writer.push(Stream::Out, &line);
    }
    assert!(!writer.flush(Duration::from_millis(1)));
    // The other stream is not held up.
    writer.push(Stream::Err, b"alive\n");
    let mut err = BufReader::new(err);
    let mut text = String::new();
    err.read_line(&mut text).unwrap();
    assert_eq!(text, "alive\n");

    let mut out = BufReader::new(out);
    let mut kept = 0;
    let note = loop {
        let mut text = String::new();
        out.read_line(&mut text).unwrap();
        if text.starts_with('x') {
            kept += 1;
        } else {
            break text;
        }
    };
    let held = LIMIT / line.len();
    // What the pipe itself takes comes on top.
    assert!((held..held + 80).contains(&kept), "{kept}");
    let dropped = pushed - kept;
    assert_eq!(
        note,
        format!("segue: … {dropped} lines dropped: the reader of stdout is too slow\n")
    );
    // It has recovered, and says nothing more about it.
    assert!(writer.flush(SOON));
    writer.push(Stream::Out, b"again\n");
    drop(writer);
    assert_eq!(all(out), "again\n");
}

#[test]
fn a_reader_that_has_left_is_given_up() {
    let (writer, out, err) = writer();
    drop(out);
    writer.push(Stream::Out, b"lost\n");
    assert!(writer.flush(SOON));
    for _ in 0..5000 {
        writer.push(Stream::Out, &[b'\n'; 1024]);
    }
    assert!(writer.flush(Duration::ZERO), "nothing is queued any more");
    writer.push(Stream::Err, b"alive\n");
    drop(writer);
    assert_eq!(all(err), "alive\n");
}

#[test]
fn a_file_that_others_made_non_blocking_is_still_written_whole() {
    let (reader, end) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&end, true).unwrap();
    let other = File::open("/dev/null").unwrap();
    let writer = Writer::over(end.into(), other.into(), Layout::default(), None).unwrap();
    let text = "y\n".repeat(200_000);
    writer.push(Stream::Out, text.as_bytes());
    drop(writer);
    assert_eq!(all(reader), text);
}

#[test]
fn what_a_pause_leaves_is_written_by_whoever_goes_on() {
    let (reader, end) = pipe().unwrap();
    let (err, err_end) = pipe().unwrap();
    let (end, err_end) = (OwnedFd::from(end), OwnedFd::from(err_end));
    let copies = [end.try_clone().unwrap(), err_end.try_clone().unwrap()];
    let writer = Writer::over(end, err_end, Layout::default(), None).unwrap();
    // More than the pipe holds: the thread waits for a reader in the middle of it.
    let text: String = (0..30_000).map(|line| format!("{line}\n")).collect();
    writer.push(Stream::Out, text.as_bytes());
    let leftover = writer.pause(SOON);
    writer.push(Stream::Out, b"later\n");
    let json = serde_json::to_string(&leftover).unwrap();
    let [end, err_end] = copies;
    let successor = Writer::over(end, err_end, Layout::default(), None).unwrap();
    successor.resume(serde_json::from_str(&json).unwrap());
    successor.push(Stream::Out, b"after\n");
    drop(successor);
    // The predecessor is gone without having written anything more.
    let reading = std::thread::spawn(move || {
        let mut lines = BufReader::new(reader).lines();
        let mut whole = String::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            whole.push_str(&line);
            whole.push('\n');
            if line == "after" {
                break;
            }
        }
        whole
    });
    assert_eq!(reading.join().unwrap(), format!("{text}after\n"));
    drop((writer, err));
}

/// A writer with a log file in a directory of its own, and what its thread tells.
struct Logged {
    directory: tempfile::TempDir,
    writer: Writer,
    news: std::sync::mpsc::Receiver<LogNews>,
}

impl Logged {
    fn new() -> Self {
        Self::rotated(Rotation::default())
    }

    fn rotated(rotation: Rotation) -> Self {
        Self::rotated_in(tempfile::tempdir().unwrap(), rotation)
    }

    fn rotated_in(directory: tempfile::TempDir, rotation: Rotation) -> Self {
        let path = directory.path().join("web.log");
        let file = log::open(&path).unwrap();
        let null = || OwnedFd::from(File::options().write(true).open("/dev/null").unwrap());
        let writer = Writer::over(
            null(),
            null(),
            Layout::default(),
            Some(LogFile {
                path,
                file,
                rotation,
                began: None,
            }),
        )
        .unwrap();
        let (tell, news) = std::sync::mpsc::channel();
        let owner = Owner::new(crate::handoff::Journal::nowhere(), move |news| {
            tell.send(news).unwrap();
        });
        writer.set_log_owner(owner);
        Self {
            directory,
            writer,
            news,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn print(&self, line: &str) {
        let stream = self.writer.for_worker(Stream::Err);
        assert_eq!(stream, Stream::Log);
        self.writer.push(stream, line.as_bytes());
    }

    fn news(&self) -> LogNews {
        self.news.recv_timeout(SOON).unwrap()
    }
}

#[test]
fn a_renamed_log_file_is_followed_by_a_new_one() {
    let log = Logged::new();
    let mode = rustix::fs::stat(log.path("web.log")).unwrap().st_mode;
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    let mut printed = String::new();
    let mut print = |number| {
        let line = format!("{number}\n");
        log.print(&line);
        printed.push_str(&line);
    };
    for round in 0..20 {
        for number in 0..500 {
            print(round * 1000 + number);
        }
        std::fs::rename(log.path("web.log"), log.path(&round.to_string())).unwrap();
        log.writer.reopen_log();
        for number in 500..1000 {
            print(round * 1000 + number);
        }
        assert!(matches!(log.news(), LogNews::Reopened));
        print(round * 1000 + 999);
    }
    assert!(log.writer.flush(SOON));
    let names = (0..20).map(|round| round.to_string());
    let texts = names
        .chain(["web.log".to_owned()])
        .map(|name| log.text(&name));
    let texts: Vec<String> = texts.collect();
    assert!(texts.iter().all(|text| text.ends_with('\n')));
    assert_eq!(texts.concat(), printed);
    // Handed over after the news; those before it went to either.
    assert!(log.text("web.log").ends_with("19999\n"));
}

#[test]
fn a_log_file_whose_directory_is_gone_goes_on() {
    let log = Logged::new();
    log.print("one\n");
    assert!(log.writer.flush(SOON));
    let aside = tempfile::tempdir().unwrap();
    let moved = aside.path().join("web.log");
    std::fs::rename(log.path("web.log"), &moved).unwrap();
    std::fs::remove_dir(log.directory.path()).unwrap();
    log.writer.reopen_log();
    assert!(
        matches!(log.news(), LogNews::NotReopened(error) if error.kind() == io::ErrorKind::NotFound)
    );
    log.print("two\n");
    assert!(log.writer.flush(SOON));
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
    std::fs::create_dir(log.directory.path()).unwrap();
    log.writer.reopen_log();
    assert!(matches!(log.news(), LogNews::Reopened));
    log.print("three\n");
    assert!(log.writer.flush(SOON));
    assert_eq!(log.text("web.log"), "three\n");
}

#[test]
fn a_full_disk_under_the_log_file_is_told_at_once_and_when_it_is_over() {
    let log = Logged::new();
    std::fs::remove_file(log.path("web.log")).unwrap();
    std::os::unix::fs::symlink("/dev/full", log.path("web.log")).unwrap();
    log.writer.reopen_log();
    assert!(matches!(log.news(), LogNews::Reopened));
    log.print("lost\nlost too\n");
    assert!(
        matches!(log.news(), LogNews::Failing(error) if error.kind() == io::ErrorKind::StorageFull)
    );
    for _ in 0..5000 {
        log.print(&format!("{}\n", "x".repeat(1000)));
    }
    std::fs::remove_file(log.path("web.log")).unwrap();
    log.writer.reopen_log();
    assert!(matches!(log.news(), LogNews::Reopened));
    assert!(log.writer.flush(SOON));
    log.print("again\n");
    let LogNews::Recovered { lost } = log.news() else {
        panic!("it goes on");
    };
    assert!(log.writer.flush(SOON));
    let text = log.text("web.log");
    let counted = text.lines().filter(|line| line.contains("lines dropped"));
    let dropped: u64 = counted
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .sum();
    let kept = text.lines().filter(|line| line.starts_with('x')).count() as u64;
    assert_eq!(lost + dropped + kept, 5002, "{lost} {dropped} {kept}");
    assert!(text.ends_with("again\n"), "{text}");
}

#[test]
fn a_log_fifo_that_nobody_reads_keeps_nobody_waiting() {
    let log = Logged::new();
    let fifo = log.path("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::fs::rename(&fifo, log.path("web.log")).unwrap();
    // ENXIO: nobody reads.
    log.writer.reopen_log();
    assert!(matches!(log.news(), LogNews::NotReopened(_)));
    let reading = File::options()
        .read(true)
        .write(true)
        .open(log.path("web.log"))
        .unwrap();
    log.writer.reopen_log();
    assert!(matches!(log.news(), LogNews::Reopened));
    let text = "y\n".repeat(100_000);
    log.print(&text);
    // It holds 64 KiB of that, and the rest is given back.
    let leftover = log.writer.pause(SOON);
    assert!(!leftover.is_stalled());
    let json = serde_json::to_string(&leftover).unwrap();
    log.writer.resume(serde_json::from_str(&json).unwrap());
    let mut read = vec![0; text.len()];
    let mut reading = reading;
    reading.read_exact(&mut read).unwrap();
    assert_eq!(read, text.as_bytes());
}

#[path = "rotation_tests.rs"]
mod rotation;
