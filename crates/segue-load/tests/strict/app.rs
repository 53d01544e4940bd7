//! A server for the tests that behaves exactly as it is told, well or badly, on one runtime
//! thread with the client: what it does without awaiting, the client sees as one moment.

use std::future::Future;
use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as the server read it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) number: u64,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    pub(crate) closes: bool,
}

/// The server's end of a connection.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next whole request; `None` at the end or when it is cut.
    pub(crate) async fn request(&mut self) -> Option<Asked> {
        let end = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let field = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(have, _)| have.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        let body = if field("transfer-encoding").is_some() {
            self.chunks().await?
        } else {
            let length = field("content-length").map_or(0, |text| text.parse().unwrap());
            self.take(length).await?
        };
        Some(Asked {
            number: field("x-segue-n").unwrap().parse().unwrap(),
            target: head.split(' ').nth(1).unwrap().to_owned(),
            body,
            closes: field("connection").as_deref() == Some("close"),
        })
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break self.buffer.drain(..at + 2).collect::<Vec<u8>>();
                }
                self.more().await?;
            };
            let size = std::str::from_utf8(&line).unwrap().trim();
            let size = usize::from_str_radix(size, 16).unwrap();
            body.extend(self.take(size).await?);
            self.take(2).await?;
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Writes as much as the client takes.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Answers everything rightly until the client is done.
    pub(crate) async fn behave(mut self, version: &str) {
        while let Some(asked) = self.request().await {
            self.write(right_answer(&asked, version)).await;
            if asked.closes {
                return;
            }
        }
    }
}

impl Peer {
    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// The headers of the contract and the right body, with `Connection: close` if the client asked for it.
pub(crate) fn right_answer(asked: &Asked, version: &str) -> Vec<u8> {
    let body = if asked.target.starts_with("/download") {
        pattern(asked)
    } else if asked.body.is_empty() {
        b"hello".to_vec()
    } else {
        asked.body.clone()
    };
    let hashed = if asked.target.starts_with("/echo") {
        &asked.body
    } else {
        &body
    };
    let closing = if asked.closes {
        "Connection: close\r\n"
    } else {
        ""
    };
    let body = if asked.target.starts_with("/echo") {
        asked.body.clone()
    } else {
        body.clone()
    };
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nx-segue-echo: {}\r\nx-segue-version: {version}\r\n\
         x-segue-worker: 4711\r\nx-body-sha256: {}\r\n{closing}\r\n",
        body.len(),
        asked.number,
        sha256(hashed),
    )
    .into_bytes();
    answer.extend(body);
    answer
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn pattern(asked: &Asked) -> Vec<u8> {
    let (_, rest) = asked.target.split_once("bytes=").unwrap();
    let length: u64 = rest.split('&').next().unwrap().parse().unwrap();
    (0..length)
        .map(|offset| ((asked.number + offset) % 251) as u8)
        .collect()
}

/// Serves each connection, numbered from 0, as `handler` says.
pub(crate) async fn serve<F>(handler: impl Fn(usize, Peer) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    serve_at("127.0.0.1:0", handler).await
}

pub(crate) async fn serve_at<F>(
    address: &str,
    handler: impl Fn(usize, Peer) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for index in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(handler(index, Peer::new(stream)));
        }
    });
    address
}
