//! What a worker prints: cut into lines, named, and handed to the writer. The reading is in
//! `reader`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::layout::{Label, Piece};
use super::reader::{Pipe, Reader};
use super::writer::{Stream, Ticket, Writer};
use crate::handoff::text::Word;

/// A longer line is cut, with a mark at both sides of the cut.
const LONGEST_LINE: usize = 64 << 10;
/// What the lines of one batch have beyond their text, all together.
const MOST_OVERHEAD: usize = 384 << 10;
/// How many lines of stderr are kept for the report of a failure, and how much of each.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 2 << 10;
/// How long the report of an exit waits for output: another process may hold the pipes.
const DRAIN_LIMIT: Duration = Duration::from_millis(250);

/// The output of one worker, while it is read and after.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    tail: Arc<Mutex<Tail>>,
    /// Of stdout and stderr.
    lines: [Shared; 2],
    open: watch::Receiver<u8>,
    outlet: Outlet,
}

/// Who writes what both streams become; another one may, from some line on.
#[derive(Clone, Debug)]
struct Outlet(Arc<Mutex<Writer>>);

impl Outlet {
    fn writer(&self) -> Writer {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been read and not been passed on, for a successor.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Unfinished {
    parts: [Part; 2],
    tail: Vec<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Part {
    text: Word,
    is_continuation: bool,
    /// So many bytes have been handed over and are still in the pipe.
    #[serde(default)]
    handed_over: usize,
}

/// How much of a worker's output has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// All there will ever be.
    Whole,
    /// Another process holds the pipes, and may print more. It is still read.
    StillHeld,
}

impl Output {
    /// Reads both pipes until their ends, whoever holds them, in tasks of the current runtime.
    ///
    /// # Errors
    /// That a descriptor is no pipe or cannot be watched.
    pub(crate) fn read(
        label: &Label,
        stdout: OwnedFd,
        stderr: OwnedFd,
        writer: &Writer,
        unfinished: Unfinished,
    ) -> io::Result<Self> {
        let tail = Arc::new(Mutex::new(Tail {
            lines: unfinished.tail.into(),
        }));
        let (closing, open) = watch::channel(2);
        let closing = Arc::new(closing);
        let outlet = Outlet(Arc::new(Mutex::new(writer.clone())));
        let mut lines = Vec::new();
        let pipes = [(Stream::Out, stdout), (Stream::Err, stderr)];
        for ((stream, pipe), part) in pipes.into_iter().zip(unfinished.parts) {
            let pipe = Pipe::new(pipe, writer.scratch())?;
            pipe.discard(part.handed_over)?;
            let shared = Shared(Arc::new(Mutex::new(Lines {
                partial: part.text.into_bytes(),
                is_continuation: part.is_continuation,
                handed_over: 0,
            })));
            lines.push(shared.clone());
            let printer = Printer {
                stream,
                label: label.clone(),
                outlet: outlet.clone(),
                lines: shared,
                tail: matches!(stream, Stream::Err).then(|| Arc::clone(&tail)),
            };
            let closing = Arc::clone(&closing);
            tokio::spawn(async move {
                Reader::new(pipe, printer).read_to_end().await;
                closing.send_modify(|open| *open -= 1);
            });
        }
        let lines = <[Shared; 2]>::try_from(lines).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            tail,
            lines,
            open,
            outlet,
        })
    }

    /// Whole lines from now on go to another writer; those before have gone to the one before.
    pub(crate) fn write_to(&self, writer: Writer) {
        *self.outlet.lock() = writer;
    }

    /// What a successor must know to go on in the middle of a line.
    pub(crate) fn unfinished(&self) -> Unfinished {
        let parts = self.lines.each_ref().map(|lines| {
            let lines = lines.lock();
            Part {
                text: Word::from_bytes(&lines.partial),
                is_continuation: lines.is_continuation,
                handed_over: lines.handed_over,
            }
        });
        Unfinished {
            parts,
            tail: self.tail(),
        }
    }

    /// The last lines of stderr, 20 at most, oldest first.
    pub(crate) fn tail(&self) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.lines.iter().cloned().collect()
    }

    /// To be awaited after the worker's exit: returns when all its output has been read, and
    /// after 250 ms in any case.
    pub(crate) fn drained(&self) -> impl Future<Output = Drained> + use<> {
        let mut open = self.open.clone();
        async move {
            let closed = open.wait_for(|open| *open == 0);
            match tokio::time::timeout(DRAIN_LIMIT, closed).await {
                Ok(_) => Drained::Whole,
                Err(_) => Drained::StillHeld,
            }
        }
    }
}

/// What one stream of a worker becomes.
pub(super) struct Printer {
    stream: Stream,
    label: Label,
    outlet: Outlet,
    lines: Shared,
    tail: Option<Arc<Mutex<Tail>>>,
}

impl Printer {
    /// Passes on the lines that `bytes` complete; without any, what is left. Of the bytes, so many
    /// stay in the pipe until [`taken`](Self::taken).
    pub(super) fn hand_over(&self, bytes: Option<&[u8]>, stay: usize) -> Ticket {
        let writer = self.outlet.writer();
        let stream = writer.for_worker(self.stream);
        let mut batch = writer.batch(&self.label, self.stream, stream);
        let mut tail = self
            .tail
            .as_ref()
            .map(|tail| tail.lock().unwrap_or_else(PoisonError::into_inner));
        let mut each = |piece: Piece<'_>| {
            batch.push(&piece);
            if let Some(tail) = &mut tail {
                tail.push(piece.text);
            }
        };
        let mut lines = self.lines.lock();
        match bytes {
            Some(bytes) => lines.feed(bytes, &mut each),
            None => lines.finish(&mut each),
        }
        lines.handed_over = stay;
        drop(lines);
        writer.push(stream, &batch.bytes)
    }

    /// How many lines may be handed over at once: with what they get in front they must fit into
    /// the writer's queue.
    pub(super) fn most_lines(&self) -> usize {
        let writer = self.outlet.writer();
        let batch = writer.batch(&self.label, self.stream, writer.for_worker(self.stream));
        (MOST_OVERHEAD / batch.overhead()).max(1)
    }

    /// What stayed in the pipe is there no more.
    pub(super) fn taken(&self) {
        self.lines.lock().handed_over = 0;
    }
}

/// Of one stream, what has no end yet.
#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<Lines>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts bytes into lines, keeping what has no end yet.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    is_continuation: bool,
    /// Bytes that are still in the pipe, at its beginning.
    handed_over: usize,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            self.partial.extend_from_slice(text);
            while self.partial.len() > LONGEST_LINE {
                let at = cut_position(&self.partial, LONGEST_LINE);
                let rest = self.partial.split_off(at);
                self.emit(true, each);
                self.partial = rest;
            }
            if ended {
                self.emit(false, each);
                self.partial.clear();
            }
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }

    /// The last line may lack its end.
    fn finish(&mut self, each: &mut impl FnMut(Piece<'_>)) {
        if !self.partial.is_empty() {
            self.emit(false, each);
            self.partial = Vec::new();
        }
    }

    fn emit(&mut self, is_cut: bool, each: &mut impl FnMut(Piece<'_>)) {
        each(Piece {
            text: &self.partial,
            is_continuation: self.is_continuation,
            is_cut,
        });
        self.is_continuation = is_cut;
    }
}

/// At most `limit`, and not inside a UTF-8 character.
fn cut_position(bytes: &[u8], limit: usize) -> usize {
    let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (limit.saturating_sub(3)..=limit)
        .rev()
        .find(|at| !is_inside(*at))
        .unwrap_or(limit)
}

#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    fn push(&mut self, text: &[u8]) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        let kept = cut_position(text, TAIL_BYTES.min(text.len()));
        let (kept, _) = text.split_at(kept.min(text.len()));
        self.lines
            .push_back(String::from_utf8_lossy(kept).into_owned());
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
