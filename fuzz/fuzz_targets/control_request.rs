//! Any request is answered, and any answer or stream is read, without a panic. What is understood
//! survives being written again; a stream reads the same however it is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_wire::control::{
    Decoder, Frame, Progress, Request, Status, apps_path, parse, percent_decode, percent_encode,
};

fuzz_target!(|input: (String, String, Vec<u8>, u8)| {
    let (method, path, bytes, cut) = input;
    if let Ok(Request::Stop { app }) = parse(&method, &path, &bytes) {
        let again = parse("POST", &apps_path(&app, "stop"), b"");
        assert_eq!(again, Ok(Request::Stop { app }));
    }
    for path in ["/v1/reload", "/v1/apps/web/reload", "/v1/apps/web/scale"] {
        let _ = parse("POST", path, &bytes);
    }
    assert_eq!(percent_decode(&percent_encode(&path)), Some(path));

    if let Ok(status) = serde_json::from_slice::<Status>(&bytes) {
        let written = serde_json::to_vec(&status).expect("a status has a JSON form");
        assert_eq!(serde_json::from_slice::<Status>(&written).ok(), Some(status));
    }

    let whole = frames([bytes.as_slice()]);
    assert_eq!(frames(bytes.chunks(usize::from(cut).max(1))), whole);
    for frame in whole.into_iter().flatten() {
        if let Ok(Some(progress)) = Progress::decode(&frame) {
            let again = frames([progress.encode().as_bytes()]).expect("what is written can be read");
            let again = again.first().map(Progress::decode);
            assert!(matches!(again, Some(Ok(Some(again))) if again == progress));
        }
    }
});

/// The frames of a stream; `None` if it cannot be read to its end.
fn frames<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<Frame>> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for chunk in chunks {
        frames.extend(decoder.feed(chunk).ok()?);
    }
    Some(frames)
}
