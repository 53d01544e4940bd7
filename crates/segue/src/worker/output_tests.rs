//! Lines as they are cut, and real pipes as they are read.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use segue_core::{Generation, SlotId, WorkerId};

use super::*;
use crate::worker::layout::Layout;

fn cut(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool, bool)> {
    let mut lines = Lines::default();
    let mut pieces = Vec::new();
    let mut each = |piece: Piece<'_>| {
        pieces.push((piece.text.to_vec(), piece.is_continuation, piece.is_cut));
    };
    for chunk in chunks {
        lines.feed(chunk, &mut each);
    }
    lines.finish(&mut each);
    pieces
}

fn whole(text: &str) -> (Vec<u8>, bool, bool) {
    (text.into(), false, false)
}

#[test]
fn lines_are_whole_however_they_arrive() {
    assert_eq!(cut(&[]), []);
    assert_eq!(cut(&[b"a\nb\n"]), [whole("a"), whole("b")]);
    assert_eq!(
        cut(&[b"a", b"b", b"\n\nc"]),
        [whole("ab"), whole(""), whole("c")]
    );
    assert_eq!(cut(&[b"a\r\n"]), [whole("a\r")]);
}

#[test]
fn a_line_that_is_too_long_is_cut_between_characters() {
    let exact = "x".repeat(LONGEST_LINE);
    assert_eq!(cut(&[exact.as_bytes(), b"\n"]), [whole(&exact)]);
    let long = format!(
        "{}é{}\nend\n",
        "x".repeat(LONGEST_LINE - 1),
        "y".repeat(LONGEST_LINE)
    );
    let pieces = cut(&[long.as_bytes()]);
    let sizes: Vec<_> = pieces
        .iter()
        .map(|(text, continuation, cut)| (text.len(), *continuation, *cut))
        .collect();
    assert_eq!(
        sizes,
        [
            (LONGEST_LINE - 1, false, true),
            (LONGEST_LINE, true, true),
            (2, true, false),
            (3, false, false),
        ]
    );
    for (text, ..) in pieces {
        assert!(str::from_utf8(&text).is_ok());
    }
    // Bytes that are no text are cut at the limit.
    let garbage = vec![0x80; LONGEST_LINE + 1];
    assert_eq!(cut(&[&garbage]).len(), 2);
}

fn label() -> Label {
    Label {
        app: "web".into(),
        worker: WorkerId(1),
        slot: SlotId(1),
        generation: Generation(7),
    }
}

struct Rig {
    output: Output,
    writer: Writer,
    /// The worker's ends.
    stdout: PipeWriter,
    stderr: PipeWriter,
    /// Our reader's end: both streams, in order.
    printed: PipeReader,
}

impl Rig {
    fn new() -> Self {
        let (out, stdout) = pipe().unwrap();
        let (err, stderr) = pipe().unwrap();
        let (printed, end) = pipe().unwrap();
        let both = end.try_clone().unwrap();
        let writer = Writer::over(end.into(), both.into(), Layout::default(), None).unwrap();
        let output = Output::read(
            &label(),
            out.into(),
            err.into(),
            &writer,
            Unfinished::default(),
        )
        .unwrap();
        Self {
            output,
            writer,
            stdout,
            stderr,
            printed,
        }
    }
}

fn text(mut reader: PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_workers_lines_are_named_and_its_last_ones_kept() {
    let mut rig = Rig::new();
    rig.stdout.write_all(b"hello\n").unwrap();
    drop(rig.stdout);
    let mut stderr = rig.stderr;
    for number in 0..30 {
        writeln!(stderr, "oops {number}").unwrap();
    }
    stderr.write_all(&b"z".repeat(3000)).unwrap();
    drop(stderr);
    assert_eq!(rig.output.drained().await, Drained::Whole);
    let tail = rig.output.tail();
    assert_eq!(tail.len(), TAIL_LINES);
    assert_eq!(tail[0], "oops 11");
    assert_eq!(tail[19], "z".repeat(TAIL_BYTES));
    drop((rig.output, rig.writer));
    let printed = text(rig.printed);
    assert!(printed.contains("web.1 | hello\n"), "{printed}");
    assert!(printed.contains("web.1 | oops 29\n"), "{printed}");
    assert!(printed.lines().all(|line| line.starts_with("web.1 | ")));
}

#[tokio::test]
async fn a_held_pipe_delays_a_report_only_so_long_and_is_read_on() {
    let mut rig = Rig::new();
    rig.stderr.write_all(b"last words\n").unwrap();
    let began = std::time::Instant::now();
    assert_eq!(rig.output.drained().await, Drained::StillHeld);
    assert!(began.elapsed() >= DRAIN_LIMIT);
    assert_eq!(rig.output.tail(), ["last words"]);
    rig.writer.show_generations(true);
    rig.stdout.write_all(b"from a grandchild").unwrap();
    drop((rig.stdout, rig.stderr));
    assert_eq!(rig.output.drained().await, Drained::Whole);
    drop((rig.output, rig.writer));
    assert!(text(rig.printed).ends_with("web.1 g7 | from a grandchild\n"));
}

#[tokio::test]
async fn a_worker_is_read_while_our_own_reader_stalls() {
    let rig = Rig::new();
    // Far more than all buffers together; blocks unless it is read.
    let mut stdout = rig.stdout;
    let flood = tokio::task::spawn_blocking(move || {
        for _ in 0..200 {
            stdout
                .write_all(&b"0123456789abcde\n".repeat(2000))
                .unwrap();
        }
    });
    flood.await.unwrap();
    drop(rig.stderr);
    assert_eq!(rig.output.drained().await, Drained::Whole);
    drop((rig.output, rig.writer));
    let printed = text(rig.printed);
    let kept = printed.matches("0123456789abcde").count();
    assert!(kept < 200 * 2000);
    let note = format!("segue: … {} lines dropped", 200 * 2000 - kept);
    assert!(printed.contains(&note), "{note}");
    assert!(
        printed
            .split_inclusive('\n')
            .all(|line| line.ends_with('\n'))
    );
}
