//! One connection: sends a request, reads its answer, and notices everything that belongs to
//! neither. Judges what happened; counting is not its business.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::contract::Contract;
use crate::failure::{FailureKind, Trouble};
use crate::request::{Request, hex};
use crate::response::{Body, Head};
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

/// A right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            Poll::Ready(Err(_)) => Idle::Reset,
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
            Ok(Err(_)) => Idle::Reset,
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
