//! State of any bytes is read without a panic, what was committed reads the same when it is written
//! anew, a cut tail changes nothing before it; and so for packets to and from a keeper.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_wire::handoff::keeper::{FromKeeper, ToKeeper};
use segue_wire::handoff::log::{self, Transaction};

fuzz_target!(|bytes: &[u8]| {
    check_log(bytes);
    // Most inputs have no right header, and hardly any a right sum.
    let mut written = log::header("9.9.9");
    written.extend_from_slice(bytes);
    check_log(&written);
    check_written(bytes);
    if let Some(packet) = ToKeeper::read(bytes) {
        assert_eq!(ToKeeper::read(&packet.packet()), Some(packet));
    }
    if let Some(packet) = FromKeeper::read(bytes) {
        assert_eq!(FromKeeper::read(&packet.packet()), Some(packet));
    }
});

fn check_log(bytes: &[u8]) {
    let Ok(contents) = log::read(bytes) else {
        return;
    };
    assert_eq!(contents.length + contents.torn, bytes.len());
    let committed = &bytes[..contents.length];
    let again = log::read(committed).expect("it was read before");
    assert_eq!((&again.values, &again.lists), (&contents.values, &contents.lists));
    assert_eq!(again.torn, 0);
}

/// Puts and appends of pieces of the input as texts, in transactions; the last one is torn.
fn check_written(bytes: &[u8]) {
    let mut state = log::header("9.9.9");
    let mut whole = log::read(&state).expect("an empty one");
    for pieces in bytes.chunks(24) {
        let mut transaction = Transaction::default();
        for (number, piece) in pieces.chunks(8).enumerate() {
            let text = String::from_utf8_lossy(piece);
            let json = serde_json::Value::from(text.as_ref()).to_string();
            match number {
                0 => transaction.push_append("list", &json),
                _ => transaction.push_put(&text, &json),
            }
        }
        state.extend(transaction.finish());
        let read = log::read(&state).expect("what was written");
        assert_eq!((read.length, read.torn), (state.len(), 0));
        whole = read;
    }
    // Torn in the middle of one more.
    let mut transaction = Transaction::default();
    transaction.push_put("torn", "1");
    let more = transaction.finish();
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % more.len());
    state.extend_from_slice(&more[..cut]);
    let torn = log::read(&state).expect("what was written");
    assert_eq!((torn.values, torn.lists), (whole.values, whole.lists));
}
