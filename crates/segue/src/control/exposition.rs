//! Metrics at a TCP address, for Prometheus: `GET /metrics`, and nothing else. A caller that is slow or
//! one of too many is let go; nobody else feels it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::command::Command;
use super::metrics;

/// Callers at once.
const MOST: usize = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: u32 = 16;

/// Listens there.
///
/// # Errors
/// Those of bind(2): somebody else listens there, or it is not ours.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // After an upgrade the place may still hold connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Answers whoever asks, as long as the supervisor does.
pub(crate) async fn serve(listener: TcpListener, commands: mpsc::Sender<Command>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let commands = commands.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &commands));
            let connection = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(PATIENCE, connection).await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    commands: &mpsc::Sender<Command>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match status(commands).await {
            Some(text) => (StatusCode::OK, metrics::TYPE, text),
            None => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", String::new()),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "there is /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

async fn status(commands: &mpsc::Sender<Command>) -> Option<String> {
    let (reply, told) = oneshot::channel();
    commands.send(Command::Status { reply }).await.ok()?;
    told.await.ok().map(metrics::render)
}
