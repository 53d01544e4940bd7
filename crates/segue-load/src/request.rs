//! One request as bytes, and what its answer must be.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::contract::Contract;
use crate::response::Head;

/// The length of the cycle of the bytes of downloads: a prime, so that lost blocks of any usual size show.
const PATTERN: u64 = 251;

/// In how many pieces a body is sent that takes its time, or is chunked: so many, or more where the
/// pauses between them would be longer than this.
const PIECES: u128 = 8;
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// SHA-256, in lowercase hex, of the answer to a download: `bytes` bytes, the one at offset i
/// being `(number + i) % 251`.
#[must_use]
pub fn pattern_sha256(number: u64, bytes: u64) -> String {
    let cycle: Vec<u8> = (0..PATTERN)
        .map(|offset| ((number % PATTERN + offset) % PATTERN) as u8)
        .collect();
    let mut hash = Sha256::new();
    for _ in 0..bytes / PATTERN {
        hash.update(&cycle);
    }
    hash.update(&cycle[..(bytes % PATTERN) as usize]);
    hex(&hash.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One request, ready to be sent once.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) head: Vec<u8>,
    /// Pieces of the body in the form in which they are sent. Empty: no body.
    pub(crate) pieces: Vec<Vec<u8>>,
    /// Between two pieces.
    pub(crate) pause: Duration,
    pub(crate) expected: Expected,
}

/// What an answer is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// SHA-256 of the request's body.
    pub(crate) sent: Option<String>,
    /// SHA-256 of a body that the client knows beforehand.
    pub(crate) known: Option<String>,
}

/// What requests of one run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) host: String,
    pub(crate) number_in_query: bool,
    pub(crate) headers: Vec<(String, String)>,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    Length,
    Chunked,
}

impl Writer {
    pub(crate) fn get(&self, number: u64, path: &str, closes: bool) -> Request {
        Request {
            number,
            head: self
                .head("GET", number, path, option(closes), "")
                .into_bytes(),
            pieces: Vec::new(),
            pause: Duration::ZERO,
            expected: Expected::default(),
        }
    }

    pub(crate) fn download(
        &self,
        number: u64,
        path: &str,
        closes: bool,
        bytes: u64,
        over: Duration,
    ) -> Request {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}bytes={bytes}&ms={}", over.as_millis());
        let mut request = self.get(number, &path, closes);
        request.expected.known = Some(pattern_sha256(number, bytes));
        request
    }

    /// The handshake of a WebSocket.
    pub(crate) fn upgrade(&self, number: u64, path: &str) -> Request {
        let fields = format!(
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
            crate::websocket::KEY
        );
        let head = self.head("GET", number, path, "Upgrade", &fields);
        Request {
            number,
            head: head.into_bytes(),
            pieces: Vec::new(),
            pause: Duration::ZERO,
            expected: Expected::default(),
        }
    }

    /// A stream of server-sent events, all of which the client knows beforehand.
    pub(crate) fn events(&self, number: u64, path: &str, count: u64, over: Duration) -> Request {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}count={count}&ms={}", over.as_millis());
        let mut request = self.get(number, &path, true);
        let mut hash = Sha256::new();
        for id in 0..count {
            hash.update(format!("id: {id}\ndata: {}\n\n", number.wrapping_add(id)));
        }
        request.expected.known = Some(hex(&hash.finalize()));
        request
    }

    pub(crate) fn post(
        &self,
        number: u64,
        path: &str,
        closes: bool,
        body: &[u8],
        framing: BodyFraming,
        over: Duration,
    ) -> Request {
        let pieces = PIECES.max(over.as_millis() / LONGEST_PAUSE.as_millis());
        let pieces = usize::try_from(pieces).unwrap_or(usize::MAX);
        let piece = body.len().div_ceil(pieces).max(1);
        let (field, pieces) = match framing {
            BodyFraming::Length => (
                format!("Content-Length: {}\r\n", body.len()),
                body.chunks(piece).map(<[u8]>::to_vec).collect::<Vec<_>>(),
            ),
            BodyFraming::Chunked => {
                let chunk = |content: &[u8]| {
                    let mut chunk = format!("{:x}\r\n", content.len()).into_bytes();
                    chunk.extend_from_slice(content);
                    chunk.extend_from_slice(b"\r\n");
                    chunk
                };
                let mut pieces: Vec<_> = body.chunks(piece).map(chunk).collect();
                pieces.push(b"0\r\n\r\n".to_vec());
                ("Transfer-Encoding: chunked\r\n".to_owned(), pieces)
            }
        };
        let gaps = u32::try_from(pieces.len().saturating_sub(1)).unwrap_or(u32::MAX);
        Request {
            number,
            head: self
                .head("POST", number, path, option(closes), &field)
                .into_bytes(),
            pieces,
            pause: over.checked_div(gaps).unwrap_or_default(),
            expected: Expected {
                sent: Some(hex(&Sha256::digest(body))),
                known: None,
            },
        }
    }

    fn head(
        &self,
        method: &str,
        number: u64,
        path: &str,
        connection: &str,
        fields: &str,
    ) -> String {
        let mut head = format!("{method} {path}");
        if self.number_in_query {
            let separator = if path.contains('?') { '&' } else { '?' };
            let _ = write!(head, "{separator}n={number}");
        }
        let _ = write!(
            head,
            " HTTP/1.1\r\nHost: {}\r\nx-segue-n: {number}\r\nConnection: {connection}\r\n{fields}",
            self.host
        );
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

fn option(closes: bool) -> &'static str {
    if closes { "close" } else { "keep-alive" }
}

impl Request {
    /// Sends it, as one write where that is possible.
    pub(crate) async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.pause.is_zero() {
            let bytes: Vec<u8> = self.bytes().collect();
            stream.write_all(&bytes).await?;
            return stream.flush().await;
        }
        stream.write_all(&self.head).await?;
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                tokio::time::sleep(self.pause).await;
            }
            stream.write_all(piece).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    /// Path and query.
    #[cfg(feature = "http2")]
    pub(crate) fn target(&self) -> String {
        let target = self.head.split(|&byte| byte == b' ').nth(1);
        String::from_utf8_lossy(target.unwrap_or_default()).into_owned()
    }

    /// All of it, in its order.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.head
            .iter()
            .chain(self.pieces.iter().flatten())
            .copied()
    }

    /// Compares an answer with what it must be. The error says how it differs.
    pub(crate) fn check(
        &self,
        head: &Head,
        body_sha256: Option<&str>,
        contract: &Contract,
    ) -> Result<(), String> {
        if !contract.status.contains(&head.status) {
            return Err(format!("status {}", head.status));
        }
        let required = [
            (contract.number, "x-segue-echo"),
            (contract.version, "x-segue-version"),
            (contract.worker, "x-segue-worker"),
            (
                contract.body_sha256 && self.expected.sent.is_some(),
                "x-body-sha256",
            ),
        ];
        for (is_required, name) in required {
            if is_required && head.field(name).is_none() {
                return Err(format!("no {name}"));
            }
        }
        if let Some(echo) = head.field("x-segue-echo")
            && echo != self.number.to_string()
        {
            return Err(format!("answers request {echo} instead of {}", self.number));
        }
        let got = body_sha256.unwrap_or_default();
        if let Some(claimed) = head.field("x-body-sha256") {
            let right = self.expected.sent.as_deref().unwrap_or(got);
            if claimed != right {
                return Err(format!("x-body-sha256 is {claimed}, should be {right}"));
            }
        }
        let echoed = self.expected.sent.as_ref().filter(|_| contract.body_echo);
        match self.expected.known.as_ref().or(echoed) {
            Some(right) if right != got => {
                Err(format!("the body's hash is {got}, should be {right}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether checking needs the hash of the answer's body.
    pub(crate) fn needs_hash(&self, head: &Head, contract: &Contract) -> bool {
        self.expected.known.is_some()
            || (self.expected.sent.is_some() && contract.body_echo)
            || head.field("x-body-sha256").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        Writer {
            host: "h".to_owned(),
            number_in_query: true,
            headers: vec![("A".to_owned(), "b".to_owned())],
        }
    }

    #[test]
    fn writes_heads() {
        let text = String::from_utf8(writer().get(7, "/x", true).head).unwrap();
        assert_eq!(
            text,
            "GET /x?n=7 HTTP/1.1\r\nHost: h\r\nx-segue-n: 7\r\nConnection: close\r\nA: b\r\n\r\n"
        );
        let request = writer().download(7, "/d", true, 10, Duration::from_millis(1500));
        assert!(
            request
                .head
                .starts_with(b"GET /d?bytes=10&ms=1500&n=7 HTTP/1.1\r\n")
        );
    }

    #[test]
    fn chunked_bodies_hold_the_same_bytes() {
        let body: Vec<u8> = (0..100).collect();
        let by_length = writer().post(1, "/", false, &body, BodyFraming::Length, Duration::ZERO);
        assert_eq!(by_length.pieces.concat(), body);
        let chunked = writer().post(1, "/", false, &body, BodyFraming::Chunked, Duration::ZERO);
        assert!(chunked.pieces.concat().ends_with(b"\r\n0\r\n\r\n"));
        assert_eq!(chunked.expected, by_length.expected);
        let empty = writer().post(1, "/", false, &[], BodyFraming::Chunked, Duration::ZERO);
        assert_eq!(empty.pieces.concat(), b"0\r\n\r\n");
    }

    #[test]
    fn the_pattern_depends_on_number_and_length() {
        let bytes: Vec<u8> = (0..600_u64).map(|i| ((9 + i) % 251) as u8).collect();
        assert_eq!(pattern_sha256(9, 600), hex(&Sha256::digest(&bytes)));
        assert_ne!(pattern_sha256(9, 600), pattern_sha256(10, 600));
    }
}
