//! Any bytes, cut anywhere, give the same lines. The first bytes say where to cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_wire::node::{Decoder, Line};

/// Small, so that oversized lines occur.
const LIMIT: usize = 100;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (cuts, bytes) = input;
    let whole = lines([bytes.as_slice()]);

    let mut rest = bytes.as_slice();
    let mut chunks = Vec::new();
    for cut in cuts {
        let (chunk, after) = rest.split_at(usize::from(cut).min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks.push(rest);
    assert_eq!(lines(chunks), whole);
    assert_eq!(lines(bytes.chunks(1)), whole);
});

fn lines<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
    let mut decoder = Decoder::with_limit(LIMIT);
    let mut lines = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk, |line| lines.push(line));
    }
    lines.extend(decoder.finish());
    lines
}
