//! A writer over real pipes and files, with readers that stall, leave or come back.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn writer() -> (Writer, PipeReader, PipeReader) {
    let (out, out_end) = pipe().unwrap();
    let (err, err_end) = pipe().unwrap();
    let writer = Writer::over(out_end.into(), err_end.into()).unwrap();
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
    let writer = Writer::over(end.into(), both.into()).unwrap();
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
    let writer = Writer::over(end.into(), other.into()).unwrap();
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
    let writer = Writer::over(end, err_end).unwrap();
    // More than the pipe holds: the thread waits for a reader in the middle of it.
    let text: String = (0..30_000).map(|line| format!("{line}\n")).collect();
    writer.push(Stream::Out, text.as_bytes());
    let leftover = writer.pause(SOON);
    writer.push(Stream::Out, b"later\n");
    let json = serde_json::to_string(&leftover).unwrap();
    let [end, err_end] = copies;
    let successor = Writer::over(end, err_end).unwrap();
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
