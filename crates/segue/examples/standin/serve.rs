//! The stand-in's servers: accept on what the primary gave, answer as the fixtures do.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::AddressFamily;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

use crate::behaviour::{self, Behaviour};

/// Counts the connections that are open, and knows what to answer.
pub(crate) struct Connections {
    shared: Rc<Shared>,
}

struct Shared {
    version: String,
    open: Cell<usize>,
    closed: Notify,
}

impl Connections {
    pub(crate) fn new(behaviour: &Behaviour) -> Self {
        Self {
            shared: Rc::new(Shared {
                version: behaviour.version.clone(),
                open: Cell::new(0),
                closed: Notify::new(),
            }),
        }
    }

    /// Accepts on a listening socket until `closing` turns true.
    pub(crate) fn listen(&self, socket: OwnedFd, closing: watch::Receiver<bool>) -> io::Result<()> {
        // As libuv does: the worker's own listen sets the queue's length again.
        rustix::net::listen(&socket, 511)?;
        let shared = Rc::clone(&self.shared);
        if rustix::net::getsockname(&socket)?.address_family() == AddressFamily::UNIX {
            let listener = UnixListener::from_std(socket.into())?;
            tokio::task::spawn_local(accept(shared, closing, async move || {
                listener.accept().await.map(|(stream, _)| stream)
            }));
        } else {
            let listener = TcpListener::from_std(socket.into())?;
            tokio::task::spawn_local(accept(shared, closing, async move || {
                listener.accept().await.map(|(stream, _)| stream)
            }));
        }
        Ok(())
    }

    /// Serves a connection that the primary accepted.
    pub(crate) fn serve_handed(
        &self,
        socket: OwnedFd,
        closing: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let shared = Rc::clone(&self.shared);
        if rustix::net::getsockname(&socket)?.address_family() == AddressFamily::UNIX {
            let stream = UnixStream::from_std(socket.into())?;
            tokio::task::spawn_local(serve(shared, stream, closing));
        } else {
            let stream = TcpStream::from_std(socket.into())?;
            tokio::task::spawn_local(serve(shared, stream, closing));
        }
        Ok(())
    }

    /// Waits until no connection is open.
    pub(crate) async fn finished(&self) {
        while self.shared.open.get() > 0 {
            self.shared.closed.notified().await;
        }
    }
}

async fn accept<S>(
    shared: Rc<Shared>,
    mut closing: watch::Receiver<bool>,
    next: impl AsyncFn() -> io::Result<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = next() => accepted,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        if let Ok(stream) = accepted {
            tokio::task::spawn_local(serve(Rc::clone(&shared), stream, closing.clone()));
        }
    }
}

async fn serve<S>(shared: Rc<Shared>, stream: S, mut closing: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    shared.open.set(shared.open.get() + 1);
    let answering = Rc::clone(&shared);
    let service = service_fn(move |request| answer(Rc::clone(&answering), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = closing.wait_for(|closing| *closing) => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        // Whoever was cut off counts it; here there is nobody to tell.
        let _ = connection.await;
    }
    shared.open.set(shared.open.get() - 1);
    shared.closed.notify_waiters();
}

async fn answer(
    shared: Rc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let query: HashMap<&str, &str> = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let value = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    let number = |name: &str| value(name).unwrap_or(0);
    let given = head.headers.get("x-segue-n");
    let given = given.and_then(|given| given.to_str().ok()?.parse().ok());
    let given = given.or_else(|| value("n"));
    let has_body = head.method == Method::POST;
    let posted = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let body = match head.uri.path() {
        "/delay" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            Bytes::from_static(b"late\n")
        }
        "/download" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            pattern(given.unwrap_or(0), number("bytes"))
        }
        "/exit" => behaviour::leave(i32::try_from(number("code")).unwrap_or(1)),
        "/info" => describe(&shared.version),
        _ if has_body => posted,
        _ => Bytes::from(format!("{}\n", shared.version)),
    };
    let mut response = Response::builder()
        .header("x-segue-version", shared.version.as_str())
        .header("x-segue-worker", std::process::id())
        .header("x-body-sha256", hex(&Sha256::digest(&body)));
    if let Some(given) = given {
        response = response.header("x-segue-echo", given);
    }
    Ok(response.body(Full::new(body)).unwrap_or_default())
}

/// The byte at offset i is (number + i) % 251.
fn pattern(number: u64, length: u64) -> Bytes {
    (0..length)
        .map(|offset| u8::try_from((number % 251 + offset % 251) % 251).unwrap_or(0))
        .collect()
}

fn describe(version: &str) -> Bytes {
    let environment: HashMap<String, String> = std::env::vars().collect();
    let described = serde_json::json!({
        "argv": std::env::args().skip(1).collect::<Vec<_>>(),
        "cwd": std::env::current_dir().unwrap_or_default(),
        "env": environment,
        "pid": std::process::id(),
        "version": version,
        "workerId": std::env::var("NODE_UNIQUE_ID").ok().and_then(|id| id.parse::<u32>().ok()),
    });
    Bytes::from(described.to_string())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
