//! One connection: sends a request, reads its answer, and notices everything that belongs to
//! neither. Judges what happened; counting is not its business.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::contract::Contract;
use crate::failure::{FailureKind, Trouble};
use crate::request::{Request, hex};
use crate::response::{Body, Head};
use crate::tally::Place;
use crate::target::{Stream, Target};

const READ_SIZE: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    /// Bytes that have come and were not read yet.
    buffer: Vec<u8>,
    /// When connect was called: before the SYN left.
    pub(crate) opened: Instant,
    pub(crate) local_port: Option<u16>,
    /// How many answers came over it.
    pub(crate) answered: u64,
    /// The request that was answered last.
    last: Option<u64>,
}

/// Where the sending of bytes pauses, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) at: usize,
    pub(crate) pause: Duration,
}

/// A right answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: Option<String>,
    pub(crate) worker: Option<String>,
    /// The server said that it closes now.
    pub(crate) closes: bool,
}

/// What was seen on a connection without a request on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Open,
    /// The server closed it: end of stream.
    Closed,
    /// The server closed it with a reset.
    Reset,
    /// Something came that nobody asked for.
    Bytes(Trouble),
}

/// What became of a request that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CutOutcome {
    /// No answer, or one that says that the request was bad.
    Rejected,
    /// An answer as if the request had been whole.
    Answered(Trouble),
}

impl Connection {
    pub(crate) async fn open(target: &Target, limit: Duration) -> Result<Self, Trouble> {
        let opened = Instant::now();
        let stream = match timeout(limit, target.connect(limit)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Trouble::of_connect(&error)),
            Err(_) => {
                let detail = format!("not connected after {limit:?}");
                return Err(Trouble::new(FailureKind::ConnectTimeout, detail));
            }
        };
        Ok(Self {
            local_port: stream.local_port(),
            stream,
            buffer: Vec::new(),
            opened,
            answered: 0,
            last: None,
        })
    }

    /// One request and its answer, complete within `limit`. After an error the connection must not be used again.
    pub(crate) async fn exchange(
        &mut self,
        request: &Request,
        contract: &Contract,
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let result = match timeout(limit, self.exchange_unbounded(request, contract)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::new(
                FailureKind::Timeout,
                format!(
                    "no whole answer after {limit:?}, {} bytes pending",
                    self.buffer.len()
                ),
            )),
        };
        if result.is_ok() {
            self.answered += 1;
            self.last = Some(request.number);
        }
        result
    }

    async fn exchange_unbounded(
        &mut self,
        request: &Request,
        contract: &Contract,
    ) -> Result<Answer, Trouble> {
        // Both directions at once: a server may answer while it still reads, and a server that
        // closed may have answered before.
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut receiver = Receiver {
            buffer: &mut self.buffer,
            last: self.last,
            has_begun: false,
            local_port: self.local_port,
        };
        let mut send_error = None;
        let mut is_sent = false;
        let received = {
            let send = request.send(&mut writer);
            let receive = receiver.receive(&mut reader, request, contract);
            tokio::pin!(send, receive);
            loop {
                tokio::select! {
                    biased;
                    result = &mut send, if !is_sent => {
                        is_sent = true;
                        send_error = result.err();
                    }
                    result = &mut receive => break result,
                }
            }
        };
        match (received, send_error) {
            (Ok(mut answer), error) => {
                // An answer before the whole request: what is left of it would be taken for the next one.
                answer.closes |= !is_sent || error.is_some();
                Ok(answer)
            }
            (Err(trouble), Some(error)) if !receiver.has_begun => {
                let mut reset = Trouble::of_transfer("write", &error, false);
                reset.detail = format!("{}; {}", reset.detail, trouble.detail);
                Err(reset)
            }
            (Err(trouble), _) => Err(trouble),
        }
    }

    /// Several requests sent without waiting for answers, which must come in their order, all within
    /// `limit`. The sending pauses once, behind the first `cut` bytes. Tells `answered` of each right
    /// answer; after an error the connection must not be used again.
    pub(crate) async fn pipeline(
        &mut self,
        requests: &[Request],
        cut: Option<Cut>,
        contract: &Contract,
        limit: Duration,
        answered: impl FnMut(usize, Place, &Answer),
    ) -> Result<Answer, Trouble> {
        let exchanged = self.pipeline_unbounded(requests, cut, contract, answered);
        match timeout(limit, exchanged).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::new(
                FailureKind::Timeout,
                format!(
                    "no whole answer after {limit:?}, {} bytes pending",
                    self.buffer.len()
                ),
            )),
        }
    }

    async fn pipeline_unbounded(
        &mut self,
        requests: &[Request],
        cut: Option<Cut>,
        contract: &Contract,
        mut answered: impl FnMut(usize, Place, &Answer),
    ) -> Result<Answer, Trouble> {
        let bytes: Vec<u8> = requests.iter().flat_map(Request::bytes).collect();
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut receiver = Receiver {
            buffer: &mut self.buffer,
            last: self.last,
            has_begun: false,
            local_port: self.local_port,
        };
        let count = &mut self.answered;
        let last = &mut self.last;
        let send = send_cut(&mut writer, &bytes, cut);
        let receive = async {
            let mut closing = Answer::default();
            for (index, request) in requests.iter().enumerate() {
                receiver.has_begun = false;
                closing = receiver.receive(&mut reader, request, contract).await?;
                receiver.last = Some(request.number);
                let place = Place {
                    local_port: receiver.local_port,
                    answered_before: *count,
                };
                answered(index, place, &closing);
                *count += 1;
                *last = receiver.last;
            }
            Ok(closing)
        };
        tokio::pin!(send, receive);
        let mut is_sent = false;
        let mut send_error: Option<io::Error> = None;
        loop {
            tokio::select! {
                biased;
                result = &mut send, if !is_sent => {
                    is_sent = true;
                    send_error = result.err();
                }
                result = &mut receive => {
                    return result
                        .map(|mut answer: Answer| {
                            // All answers before the last byte of the requests: the rest would be taken for another one.
                            answer.closes |= !is_sent || send_error.is_some();
                            answer
                        })
                        .map_err(|mut trouble: Trouble| {
                            if let Some(error) = &send_error {
                                trouble.detail = format!("write: {error}; {}", trouble.detail);
                            }
                            trouble
                        });
                }
            }
        }
    }

    /// A request whose answer has no body and makes the connection something else.
    pub(crate) async fn upgrade(
        &mut self,
        request: &Request,
        limit: Duration,
    ) -> Result<Head, Trouble> {
        let exchange = async {
            if let Err(error) = request.send(&mut self.stream).await {
                return Err(Trouble::of_transfer("write", &error, false));
            }
            let mut receiver = Receiver {
                buffer: &mut self.buffer,
                last: None,
                has_begun: false,
                local_port: self.local_port,
            };
            receiver.receive_head(&mut self.stream).await
        };
        match timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::new(
                FailureKind::Timeout,
                format!("no answer to an upgrade after {limit:?}"),
            )),
        }
    }

    /// The byte stream, and what has come of it already.
    pub(crate) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Looks, without waiting, at what has happened since the last answer.
    pub(crate) async fn look(&mut self) -> Idle {
        if !self.buffer.is_empty() {
            return Idle::Bytes(self.extra());
        }
        let mut bytes = [0; 1024];
        let mut read = ReadBuf::new(&mut bytes);
        let polled = poll_fn(|context| {
            Poll::Ready(Pin::new(&mut self.stream).poll_read(context, &mut read))
        });
        match polled.await {
            Poll::Pending => Idle::Open,
            Poll::Ready(Err(error)) => ended(&error),
            Poll::Ready(Ok(())) if read.filled().is_empty() => Idle::Closed,
            Poll::Ready(Ok(())) => {
                self.buffer.extend_from_slice(read.filled());
                Idle::Bytes(self.extra())
            }
        }
    }

    /// Watches the connection for `time`, or until something happens on it.
    pub(crate) async fn watch(&mut self, time: Duration) -> Idle {
        if !self.buffer.is_empty() {
            return Idle::Bytes(self.extra());
        }
        match timeout(time, fill(&mut self.stream, &mut self.buffer)).await {
            Err(_) => Idle::Open,
            Ok(Err(error)) => ended(&error),
            Ok(Ok(0)) => Idle::Closed,
            Ok(Ok(_)) => Idle::Bytes(self.extra()),
        }
    }

    /// Sends the first `length` bytes of a request, ends the stream, and sees what comes of it.
    pub(crate) async fn cut(
        mut self,
        bytes: &[u8],
        half_close: bool,
        limit: Duration,
    ) -> CutOutcome {
        let send = async {
            self.stream.write_all(bytes).await?;
            if half_close {
                self.stream.shutdown().await
            } else {
                Ok(())
            }
        };
        let is_sent = matches!(timeout(limit, send).await, Ok(Ok(())));
        if !is_sent || !half_close {
            return CutOutcome::Rejected;
        }
        let receive =
            async { while matches!(fill(&mut self.stream, &mut self.buffer).await, Ok(1..)) {} };
        if timeout(limit, receive).await.is_err() {
            let detail = format!("a cut request is still open after {limit:?}");
            return CutOutcome::Answered(Trouble::new(FailureKind::Timeout, detail));
        }
        match Head::parse(&self.buffer) {
            Ok(Some((head, _))) if head.status < 400 => CutOutcome::Answered(Trouble::new(
                FailureKind::WrongAnswer,
                format!("status {} for a request that was cut", head.status),
            )),
            Err(error) if !self.buffer.is_empty() => {
                CutOutcome::Answered(Trouble::new(FailureKind::BadSyntax, error.0))
            }
            _ => CutOutcome::Rejected,
        }
    }

    /// Names the bytes that came without a request: a second answer, or anything else.
    fn extra(&self) -> Trouble {
        let shown = self
            .buffer
            .get(..self.buffer.len().min(64))
            .unwrap_or_default();
        if let Ok(Some((head, _))) = Head::parse(&self.buffer)
            && let (Some(echo), Some(last)) = (head.field("x-segue-echo"), self.last)
            && echo == last.to_string()
        {
            return Trouble::new(
                FailureKind::RepeatedAnswer,
                format!("request {last} was answered again"),
            );
        }
        Trouble::new(
            FailureKind::UnsolicitedBytes,
            format!(
                "{} bytes without a request: \"{}\"",
                self.buffer.len(),
                shown.escape_ascii()
            ),
        )
    }
}

/// TLS without its closing alert ends a connection as any end of a stream does.
fn ended(error: &io::Error) -> Idle {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Idle::Closed
    } else {
        Idle::Reset
    }
}

async fn send_cut(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    cut: Option<Cut>,
) -> io::Result<()> {
    let Some((cut, (before, after))) =
        cut.and_then(|cut| Some((cut, bytes.split_at_checked(cut.at)?)))
    else {
        stream.write_all(bytes).await?;
        return stream.flush().await;
    };
    stream.write_all(before).await?;
    stream.flush().await?;
    tokio::time::sleep(cut.pause).await;
    stream.write_all(after).await?;
    stream.flush().await
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.reserve(READ_SIZE);
    stream.read_buf(buffer).await
}

/// The reading half of an exchange.
struct Receiver<'a> {
    buffer: &'a mut Vec<u8>,
    last: Option<u64>,
    /// A byte of the answer has come.
    has_begun: bool,
    local_port: Option<u16>,
}

impl Receiver<'_> {
    async fn receive(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        request: &Request,
        contract: &Contract,
    ) -> Result<Answer, Trouble> {
        let head = loop {
            let head = self.receive_head(stream).await?;
            if !head.is_interim() {
                break head;
            }
        };
        let mut hash = request.needs_hash(&head, contract).then(Sha256::new);
        self.receive_body(stream, head.body(), hash.as_mut())
            .await?;
        let hash = hash.map(|hash| hex(&hash.finalize()));
        if let Err(detail) = request.check(&head, hash.as_deref(), contract) {
            let is_repeated = self.last.is_some()
                && head.field("x-segue-echo") == self.last.map(|last| last.to_string()).as_deref();
            let kind = if is_repeated {
                FailureKind::RepeatedAnswer
            } else {
                FailureKind::WrongAnswer
            };
            return Err(Trouble::new(kind, detail));
        }
        contract
            .check_port(&head, self.local_port)
            .map_err(|detail| Trouble::new(FailureKind::WrongAnswer, detail))?;
        Ok(Answer {
            version: head.field("x-segue-version").map(str::to_owned),
            worker: head.field("x-segue-worker").map(str::to_owned),
            closes: head.closes,
        })
    }

    async fn receive_head(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Head, Trouble> {
        loop {
            if let Some((head, used)) = Head::parse(self.buffer).map_err(bad_syntax)? {
                self.buffer.drain(..used);
                return Ok(head);
            }
            if self.read(stream).await? == 0 {
                return Err(Trouble::of_eof(self.has_begun));
            }
        }
    }

    async fn receive_body(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        mut body: Body,
        mut hash: Option<&mut Sha256>,
    ) -> Result<(), Trouble> {
        loop {
            let sink = |bytes: &[u8]| {
                if let Some(hash) = hash.as_mut() {
                    hash.update(bytes);
                }
            };
            let used = body.feed(self.buffer, sink).map_err(bad_syntax)?;
            self.buffer.drain(..used);
            if body == Body::Complete {
                return Ok(());
            }
            if self.read(stream).await? == 0 {
                return if body.is_whole_at_end() {
                    Ok(())
                } else {
                    Err(Trouble::of_eof(true))
                };
            }
        }
    }

    async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<usize, Trouble> {
        match fill(stream, self.buffer).await {
            Ok(read) => {
                self.has_begun |= read > 0;
                Ok(read)
            }
            Err(error) => Err(Trouble::of_transfer("read", &error, self.has_begun)),
        }
    }
}

fn bad_syntax(error: crate::response::Syntax) -> Trouble {
    Trouble::new(FailureKind::BadSyntax, error.0)
}
