//! Server-sent events: one frame is a name and one line of JSON. Written whole; read as bytes come.

use thiserror::Error;

/// The longest frame that is read, in bytes. A frame holds at most a failure with some stderr lines.
pub const MAX_FRAME: usize = 256 * 1024;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The value of `event:`; `message` where there is none.
    pub event: String,
    /// The values of `data:`, joined by line feeds.
    pub data: String,
}

/// Why a stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SseError {
    #[error("an event is longer than {MAX_FRAME} bytes")]
    TooLong,
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Writes one frame. Line ends within `data` become several `data:` lines.
#[must_use]
pub fn encode(event: &str, data: &str) -> String {
    let mut text = String::with_capacity(event.len() + data.len() + 16);
    text.push_str("event: ");
    text.push_str(event);
    for line in data.split(['\n', '\r']) {
        text.push_str("\ndata: ");
        text.push_str(line);
    }
    text.push_str("\n\n");
    text
}

/// Reads frames from chunks of any size. Comments and unknown fields are skipped.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    event: Option<String>,
    data: Option<String>,
}

impl Decoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a chunk and returns the frames that are whole now.
    ///
    /// # Errors
    /// The stream is unusable; the decoder must not be fed again.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Frame>, SseError> {
        let mut frames = Vec::new();
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.pending.extend_from_slice(line);
            rest = after.get(1..).unwrap_or_default();
            let line = std::mem::take(&mut self.pending);
            frames.extend(self.line(&line)?);
        }
        self.pending.extend_from_slice(rest);
        if self.size() > MAX_FRAME {
            return Err(SseError::TooLong);
        }
        Ok(frames)
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Frame>, SseError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let event = self.event.take().unwrap_or_else(|| "message".to_owned());
            return Ok(self.data.take().map(|data| Frame { event, data }));
        }
        if self.size() + line.len() > MAX_FRAME {
            return Err(SseError::TooLong);
        }
        let line = str::from_utf8(line).map_err(|_| SseError::NotUtf8)?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            _ => {}
        }
        Ok(None)
    }

    fn size(&self) -> usize {
        self.pending.len()
            + self.event.as_ref().map_or(0, String::len)
            + self.data.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<(String, String)>, SseError> {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            for frame in decoder.feed(chunk)? {
                frames.push((frame.event, frame.data));
            }
        }
        Ok(frames)
    }

    #[test]
    fn reads_what_others_write() {
        let frames = decode(&[
            b": hello\r\nevent: notice\r\nid: 4\r\nda",
            b"ta:{}\r\n\r\n\n\ndata\ndata: b\n\n",
        ]);
        let expected = [("notice", "{}"), ("message", "\nb")];
        let expected = expected.map(|(event, data)| (event.to_owned(), data.to_owned()));
        assert_eq!(frames, Ok(expected.to_vec()));
    }

    #[test]
    fn an_endless_frame_is_refused() {
        let line = [b"data: ".as_slice(), &[b'x'; 100_000], b"\n"].concat();
        assert_eq!(decode(&[&line, &line, &line]), Err(SseError::TooLong));
        let no_line_end: &[u8] = &[b'x'; 100_000];
        assert_eq!(decode(&[no_line_end; 3]), Err(SseError::TooLong));
        assert_eq!(decode(&[b"data: \xff\n"]), Err(SseError::NotUtf8));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            data in prop::collection::vec("[^\r]{0,40}", 1..5),
            cut in 1_usize..9,
        ) {
            let text: String = data.iter().map(|data| encode("notice", data)).collect();
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            let frames = decode(&chunks).unwrap();
            let expected: Vec<_> = data.into_iter().map(|data| ("notice".to_owned(), data)).collect();
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = Decoder::new().feed(&bytes);
        }
    }
}
