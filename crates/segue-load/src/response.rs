//! A strict reader of HTTP/1.1 answers (RFC 9112): pure, incremental, total. What two readers
//! could read differently is an error here.
//!
//! It knows nothing of sockets; end of stream is told to it by its caller.

/// Longest head or trailer section, and longest line of a chunk's size, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
const CHUNK_LINE_LIMIT: usize = 4 * 1024;

/// Why bytes are not an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Syntax(pub(crate) String);

fn bad<T>(what: impl Into<String>) -> Result<T, Syntax> {
    Err(Syntax(what.into()))
}

/// Status line and fields of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// The server will close the connection after this answer.
    pub(crate) closes: bool,
    framing: Framing,
    fields: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilEnd,
}

impl Head {
    /// Reads one head. `None`: more bytes are needed. Also says how many bytes it took.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Syntax> {
        check_start(bytes)?;
        let Some(end) = end_of_section(bytes)? else {
            return Ok(None);
        };
        let mut lines = bytes
            .get(..end)
            .unwrap_or_default()
            .split(|&byte| byte == b'\n');
        let (status, is_http10) = status_line(lines.next().unwrap_or_default())?;
        let mut fields = Vec::new();
        for line in lines.take_while(|line| *line != b"\r") {
            if line.is_empty() {
                continue;
            }
            fields.push(field(line)?);
        }
        let closes = closes(&fields, is_http10);
        let framing = framing(&fields, status, closes)?;
        Ok(Some((
            Self {
                status,
                closes,
                framing,
                fields,
            },
            end,
        )))
    }

    /// The head of an answer that was framed by another protocol.
    #[cfg(feature = "http2")]
    pub(crate) fn of_fields(status: u16, fields: Vec<(String, String)>) -> Self {
        Self {
            status,
            closes: false,
            framing: Framing::UntilEnd,
            fields,
        }
    }

    /// The value of a field that may stand once. The name is given in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    /// 100 to 199 except 101: another answer follows.
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    pub(crate) fn body(&self) -> Body {
        match self.framing {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::ChunkSize,
            Framing::UntilEnd => Body::UntilEnd,
        }
    }
}

/// Refuses what can never become an answer, before its head is complete.
fn check_start(bytes: &[u8]) -> Result<(), Syntax> {
    let expected = b"HTTP/1.";
    let length = bytes.len().min(expected.len());
    if bytes.get(..length) != expected.get(..length) {
        let shown = bytes.get(..bytes.len().min(24)).unwrap_or_default();
        return bad(format!(
            "not an HTTP/1 answer: \"{}\"",
            shown.escape_ascii()
        ));
    }
    Ok(())
}

/// The index behind the empty line. Lines end with CRLF, nothing else.
fn end_of_section(bytes: &[u8]) -> Result<Option<usize>, Syntax> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let section = bytes
        .get(..end.map_or(bytes.len(), |end| end + 4))
        .unwrap_or_default();
    let mut previous = 0;
    for &byte in section {
        if byte == b'\n' && previous != b'\r' {
            return bad("a line ends without CR");
        }
        if previous == b'\r' && byte != b'\n' {
            return bad("CR within a line");
        }
        if byte == 0 {
            return bad("NUL in the head");
        }
        previous = byte;
    }
    if section.len() > HEAD_LIMIT {
        return bad(format!("head longer than {HEAD_LIMIT} bytes"));
    }
    Ok(end.map(|end| end + 4))
}

fn status_line(line: &[u8]) -> Result<(u16, bool), Syntax> {
    let wrong = || Syntax(format!("bad status line \"{}\"", line.escape_ascii()));
    let rest = line.strip_prefix(b"HTTP/1.").ok_or_else(wrong)?;
    let (is_http10, rest) = match rest {
        [b'0', b' ', rest @ ..] => (true, rest),
        [b'1', b' ', rest @ ..] => (false, rest),
        _ => return Err(wrong()),
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or_else(wrong)?;
    if !matches!(reason.first(), Some(b' ')) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let status = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    if (100..600).contains(&status) {
        Ok((status, is_http10))
    } else {
        Err(wrong())
    }
}

fn field(line: &[u8]) -> Result<(String, String), Syntax> {
    let wrong = |why: &str| Syntax(format!("{why} in field \"{}\"", line.escape_ascii()));
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .ok_or_else(|| wrong("no colon"))?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(wrong("bad name"));
    }
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    if value
        .iter()
        .any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
    {
        return Err(wrong("control character"));
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, String::from_utf8_lossy(value).into_owned()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn values<'a>(fields: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    let name = name.to_owned();
    fields
        .iter()
        .filter(move |(have, _)| *have == name)
        .flat_map(|(_, value)| value.split(','))
        .map(str::trim)
}

fn closes(fields: &[(String, String)], is_http10: bool) -> bool {
    let mut options = values(fields, "connection");
    if is_http10 {
        !options.any(|option| option.eq_ignore_ascii_case("keep-alive"))
    } else {
        options.any(|option| option.eq_ignore_ascii_case("close"))
    }
}

/// RFC 9112, 6.3, without its leniencies: a body that only the end of the stream ends is
/// accepted only from a server that said it would close.
fn framing(fields: &[(String, String)], status: u16, closes: bool) -> Result<Framing, Syntax> {
    let mut lengths = values(fields, "content-length");
    let length = match lengths.next() {
        None => None,
        Some(text) if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) => {
            return bad(format!("bad content-length \"{text}\""));
        }
        Some(text) => match text.parse::<u64>() {
            Ok(length) => Some(length),
            Err(_) => return bad(format!("bad content-length \"{text}\"")),
        },
    };
    if lengths.next().is_some() {
        return bad("more than one content-length");
    }
    let codings: Vec<&str> = values(fields, "transfer-encoding").collect();
    if (100..200).contains(&status) || status == 204 || status == 304 {
        if !codings.is_empty() {
            return bad(format!("transfer-encoding in a {status}"));
        }
        return Ok(Framing::Length(0));
    }
    match (codings.as_slice(), length) {
        ([], Some(length)) => Ok(Framing::Length(length)),
        ([], None) if closes => Ok(Framing::UntilEnd),
        ([], None) => bad("neither a length nor the end of the connection is announced"),
        ([_, ..], Some(_)) => bad("content-length and transfer-encoding"),
        ([coding], None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (codings, None) => bad(format!("transfer-encoding \"{}\"", codings.join(", "))),
    }
}

/// Where the reader is within a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// At the line that says how long the next chunk is.
    ChunkSize,
    /// So many bytes of a chunk are left.
    ChunkData(u64),
    /// At the CRLF behind a chunk.
    ChunkEnd,
    /// At the fields behind the last chunk.
    Trailer,
    /// Whatever comes belongs to it.
    UntilEnd,
    Complete,
}

impl Body {
    /// Takes what it can of `bytes`, hands content to `sink`, and says how much it took. Stops behind
    /// the last byte of the body: what follows is not its own.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]),
    ) -> Result<usize, Syntax> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            match *self {
                Self::Complete | Self::Length(0) => {
                    *self = Self::Complete;
                    return Ok(taken);
                }
                Self::UntilEnd => {
                    sink(rest);
                    return Ok(bytes.len());
                }
                Self::Length(left) => {
                    let content = content(rest, left);
                    if content.is_empty() {
                        return Ok(taken);
                    }
                    sink(content);
                    taken += content.len();
                    *self = Self::Length(left - content.len() as u64);
                }
                Self::ChunkSize => {
                    let Some((size, line)) = chunk_size(rest)? else {
                        return Ok(taken);
                    };
                    taken += line;
                    *self = if size == 0 {
                        Self::Trailer
                    } else {
                        Self::ChunkData(size)
                    };
                }
                Self::ChunkData(0) => *self = Self::ChunkEnd,
                Self::ChunkData(left) => {
                    let content = content(rest, left);
                    if content.is_empty() {
                        return Ok(taken);
                    }
                    sink(content);
                    taken += content.len();
                    *self = Self::ChunkData(left - content.len() as u64);
                }
                Self::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        taken += 2;
                        *self = Self::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(taken),
                    _ => return bad("a chunk is longer than it said"),
                },
                Self::Trailer => {
                    if rest.starts_with(b"\r\n") {
                        taken += 2;
                        *self = Self::Complete;
                        continue;
                    }
                    let Some(end) = end_of_section(rest)? else {
                        return Ok(taken);
                    };
                    for line in rest
                        .get(..end - 2)
                        .unwrap_or_default()
                        .split_inclusive(|&b| b == b'\n')
                    {
                        field(line.strip_suffix(b"\n").unwrap_or(line))?;
                    }
                    taken += end;
                    *self = Self::Complete;
                }
            }
        }
    }

    /// Whether the body is whole now that the stream has ended.
    pub(crate) fn is_whole_at_end(self) -> bool {
        matches!(self, Self::Complete | Self::UntilEnd | Self::Length(0))
    }
}

fn content(rest: &[u8], left: u64) -> &[u8] {
    let length = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
    rest.get(..length).unwrap_or_default()
}

/// The size and the length of its line; extensions are allowed and ignored.
fn chunk_size(bytes: &[u8]) -> Result<Option<(u64, usize)>, Syntax> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        if bytes.len() > CHUNK_LINE_LIMIT {
            return bad("the line of a chunk's size is too long");
        }
        return Ok(None);
    };
    let line = bytes.get(..end).unwrap_or_default();
    let Some(line) = line.strip_suffix(b"\r") else {
        return bad("the line of a chunk's size ends without CR");
    };
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return bad(format!("bad size of a chunk \"{}\"", line.escape_ascii()));
    }
    let text = String::from_utf8_lossy(digits);
    match u64::from_str_radix(&text, 16) {
        Ok(size) => Ok(Some((size, end + 1))),
        Err(error) => bad(format!("bad size of a chunk \"{text}\": {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Reads a whole answer in pieces of `step` bytes: status, body, bytes left over.
    fn read(bytes: &[u8], step: usize) -> Result<(u16, Vec<u8>, Vec<u8>), String> {
        let mut buffer = Vec::new();
        let mut head: Option<Head> = None;
        let mut body = Body::Complete;
        let mut content = Vec::new();
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            if head.is_none()
                && let Some((parsed, used)) = Head::parse(&buffer).map_err(|error| error.0)?
            {
                buffer.drain(..used);
                body = parsed.body();
                head = Some(parsed);
            }
            if head.is_some() {
                let used = body
                    .feed(&buffer, |bytes| content.extend_from_slice(bytes))
                    .map_err(|error| error.0)?;
                buffer.drain(..used);
            }
        }
        let head = head.ok_or("no head")?;
        if body.is_whole_at_end() {
            Ok((head.status, content, buffer))
        } else {
            Err("truncated".to_owned())
        }
    }

    fn check(text: &str, expected: Result<(u16, &str, &str), &str>) {
        for step in [1, 2, 3, 7, text.len()] {
            let got = read(text.as_bytes(), step);
            match (&got, expected) {
                (Ok((status, body, rest)), Ok((want_status, want_body, want_rest))) => {
                    assert_eq!(*status, want_status, "{text:?} by {step}");
                    assert_eq!(body, want_body.as_bytes(), "{text:?} by {step}");
                    assert_eq!(rest, want_rest.as_bytes(), "{text:?} by {step}");
                }
                (Err(got), Err(want)) => assert!(got.contains(want), "{text:?} by {step}: {got}"),
                _ => panic!("{text:?} by {step}: {got:?}, wanted {expected:?}"),
            }
        }
    }

    #[test]
    fn reads_what_is_right() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            Ok((200, "hi", "")),
        );
        check(
            "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
            Ok((200, "", "")),
        );
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, "", "")));
        check(
            "HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n",
            Ok((304, "", "")),
        );
        check(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
            Ok((200, "until the end", "")),
        );
        check("HTTP/1.0 200 OK\r\n\r\nold", Ok((200, "old", "")));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\nA\r\n0123456789\r\n0\r\n\r\n",
            Ok((200, "hi0123456789", "")),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n",
            Ok((200, "x", "")),
        );
    }

    #[test]
    fn leaves_what_follows_an_answer() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1";
        let (_, body, rest) = read(text.as_bytes(), text.len()).unwrap();
        assert_eq!(
            (body.as_slice(), rest.as_slice()),
            (&b"hi"[..], &b"HTTP/1.1"[..])
        );
    }

    #[test]
    fn knows_truncated_bodies() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            Err("truncated"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
            Err("truncated"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
            Err("truncated"),
        );
        check("HTTP/1.1 200 OK\r\nContent-", Err("no head"));
    }

    #[test]
    fn refuses_what_is_wrong() {
        check("HELLO", Err("not an HTTP/1 answer"));
        check("HTTP/2 200 OK\r\n\r\n", Err("not an HTTP/1 answer"));
        check("HTTP/1.2 200 OK\r\n\r\n", Err("bad status line"));
        check("HTTP/1.1 200OK\r\n\r\n", Err("bad status line"));
        check("HTTP/1.1 20 OK\r\n\r\n", Err("bad status line"));
        check("HTTP/1.1 999 OK\r\n\r\n", Err("bad status line"));
        check("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Err("without CR"));
        check("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", Err("CR within"));
        check("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Err("bad name"));
        check("HTTP/1.1 200 OK\r\n folded\r\n\r\n", Err("no colon"));
        check("HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", Err("bad name"));
        check("HTTP/1.1 200 OK\r\n\r\n", Err("neither a length"));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            Err("bad content-length"),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            Err("bad content-length"),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            Err("more than one"),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err("content-length and transfer-encoding"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Err("transfer-encoding"),
        );
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{chunked}g\r\n"), Err("bad size"));
        check(&format!("{chunked}\r\n"), Err("bad size"));
        check(&format!("{chunked}ffffffffffffffffff\r\n"), Err("bad size"));
        check(&format!("{chunked}2\nhi"), Err("without CR"));
        check(
            &format!("{chunked}2\r\nhi!\r\n"),
            Err("longer than it said"),
        );
        check(&format!("{chunked}0\r\nno colon\r\n\r\n"), Err("no colon"));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_LIMIT));
        assert!(Head::parse(long.as_bytes()).is_err());
    }

    /// Whatever the bytes and wherever they are cut, nothing panics, and what is read does not
    /// depend on the cuts.
    #[test]
    fn spoilt_answers_are_read_alike_however_they_come() {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789HTTP/1.1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhi\r\n1f\r\n0123456789012345678901234567890\r\n0\r\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nX: y\r\n\r\nto the end",
        ];
        let alphabet = b"\r\n\0 :;,/0123456789abcdefHTPCLclose\xff";
        let mut random = Random::new(11, 0);
        let mut below = |limit: usize| usize::try_from(random.up_to(limit as u64 - 1)).unwrap();
        let mut good = 0;
        for round in 0..20_000 {
            let mut bytes = answers[round % answers.len()].as_bytes().to_vec();
            for _ in 0..below(4) {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] = alphabet[below(alphabet.len())],
                    1 => bytes.insert(at, alphabet[below(alphabet.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let whole = read(&bytes, bytes.len()).ok();
            let step = 1 + below(bytes.len());
            assert_eq!(read(&bytes, 1).ok(), whole, "{}", bytes.escape_ascii());
            assert_eq!(read(&bytes, step).ok(), whole, "{}", bytes.escape_ascii());
            good += u32::from(whole.is_some());
        }
        assert!(
            (5_000..19_000).contains(&good),
            "{good} of 20000 were readable"
        );
    }

    #[test]
    fn finds_out_whether_the_server_closes() {
        let closes = |text: &str| Head::parse(text.as_bytes()).unwrap().unwrap().0.closes;
        assert!(!closes("HTTP/1.1 204 x\r\n\r\n"));
        assert!(closes(
            "HTTP/1.1 204 x\r\nConnection: Upgrade, Close\r\n\r\n"
        ));
        assert!(!closes("HTTP/1.1 204 x\r\nConnection: keep-alive\r\n\r\n"));
        assert!(closes("HTTP/1.0 204 x\r\n\r\n"));
        assert!(!closes("HTTP/1.0 204 x\r\nConnection: Keep-Alive\r\n\r\n"));
    }
}
