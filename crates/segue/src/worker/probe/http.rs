//! One GET over HTTP/1.1 or HTTP/2. The head of the answer decides; its body is read while it comes, so
//! that the worker has nothing to complain of.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use segue_core::ProbeFailure;
use tokio::task::JoinHandle;

use super::{Failed, Question, Stream};

/// A body is read for so long, and so far.
const BODY_TIME: Duration = Duration::from_secs(1);
const BODY_BYTES: usize = 1 << 20;

/// Ends with whoever waits for it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn first(
    question: &Question,
    authority: &str,
    stream: impl Stream + 'static,
) -> Result<u16, Failed> {
    let request = request(question)
        .header("host", authority)
        .header("connection", "close")
        .uri(&question.path)
        .body(Empty::<Bytes>::new())
        .map_err(unaskable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| of_hyper(&error))?;
    let _driver = Driver(tokio::spawn(async move {
        // What is wrong with it shows in the answer.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| of_hyper(&error))?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let read = async {
        let mut left = BODY_BYTES;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| of_hyper(&error))?;
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(length) {
                Some(left) => left,
                None => break,
            };
        }
        Ok(())
    };
    // One that goes on for ever is no worse than another.
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Err(failed)) => Err(failed),
        Ok(Ok(())) | Err(_) => Ok(status),
    }
}

pub(super) async fn second(
    question: &Question,
    authority: &str,
    stream: impl Stream,
) -> Result<u16, Failed> {
    let request = request(question)
        .uri(format!("https://{authority}{}", question.path))
        .body(())
        .map_err(unaskable)?;
    let stream = Box::pin(stream);
    let (sender, connection) = h2::client::handshake(stream)
        .await
        .map_err(|error| of_h2(&error))?;
    let answer = async {
        let mut sender = sender.ready().await?;
        let (response, _) = sender.send_request(request, true)?;
        let response = response.await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let read = async {
            let mut left = BODY_BYTES;
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                left = match left.checked_sub(data.len()) {
                    Some(left) => left,
                    None => break,
                };
            }
            Ok(())
        };
        match tokio::time::timeout(BODY_TIME, read).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Ok(status),
        }
    };
    let answer = async { answer.await.map_err(|error| of_h2(&error)) };
    tokio::select! {
        biased;
        answer = answer => answer,
        ended = connection => match ended {
            Ok(()) => Err(ProbeFailure::Closed.into()),
            Err(error) => Err(of_h2(&error)),
        },
    }
}

fn request(question: &Question) -> hyper::http::request::Builder {
    let agent = concat!("segue-probe/", env!("CARGO_PKG_VERSION"));
    let mut request = Request::get("/").header("user-agent", agent);
    for (name, value) in &question.headers {
        request = request.header(name, value);
    }
    request
}

fn unaskable(error: hyper::http::Error) -> Failed {
    Failed::because(ProbeFailure::Other, error)
}

fn of_hyper(error: &hyper::Error) -> Failed {
    let source = std::error::Error::source(error);
    if let Some(error) = source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        return Failed::of_io(error);
    }
    let failure = if error.is_parse() {
        ProbeFailure::NotHttp
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        ProbeFailure::Closed
    } else {
        ProbeFailure::Other
    };
    Failed::because(failure, error)
}

fn of_h2(error: &h2::Error) -> Failed {
    if let Some(error) = error.get_io() {
        return Failed::of_io(error);
    }
    let failure = match error.is_remote() {
        true => ProbeFailure::Closed,
        false => ProbeFailure::NotHttp,
    };
    Failed::because(failure, error)
}
