//! HTTP/2 servers that leave as they should, and those that do not.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use segue_load::{Builder, FailureKind, Http2, Load, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{Peer, serve, sha256};

const LIMIT: Duration = Duration::from_secs(60);

fn http2(requests: u64) -> Builder {
    let kind = Http2 {
        clients: 1,
        streams: 8,
        pause: Duration::from_millis(1),
        ..Http2::default()
    };
    Load::builder()
        .with(kind)
        .requests(requests)
        .answer_timeout(Duration::from_secs(2))
}

/// Every request is accounted for in exactly one way.
#[track_caller]
fn check_sum(report: &Report) {
    let class = &report.classes[0];
    assert_eq!(
        class.requests,
        class.answers + class.failed() + class.safe_to_retry,
        "{report}"
    );
    assert_eq!(report.in_flight, 0, "{report}");
}

async fn answer(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>, shift: u64) {
    let number: u64 = request.headers()["x-segue-n"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let is_post = request.method() == http::Method::POST;
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        bytes.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    if !is_post {
        bytes = b"hello".to_vec();
    }
    let response = http::Response::builder()
        .header("x-segue-echo", number + shift)
        .header("x-segue-version", "v1")
        .header("x-segue-worker", "1")
        .header("x-body-sha256", sha256(&bytes))
        .body(())
        .unwrap();
    if let Ok(mut stream) = respond.send_response(response, false) {
        let _ = stream.send_data(bytes.into(), true);
    }
}

/// Answers each connection's requests, `shift` added to their numbers, and leaves gracefully after so many.
async fn behave(peer: Peer, requests: usize, shift: u64) {
    let mut connection = h2::server::handshake(peer.stream).await.unwrap();
    let mut count = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        count += 1;
        tokio::spawn(answer(request, respond, shift));
        if count == requests {
            connection.graceful_shutdown();
        }
    }
}

#[tokio::test]
async fn a_server_that_behaves_keeps_the_connection() {
    let address = serve(|_, peer| behave(peer, usize::MAX, 0)).await;
    let report = http2(500).start(address).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (0, 500), "{report}");
    let connections = &report.classes[0].connections;
    assert_eq!((connections.opened, connections.closed_by_client), (1, 1));
}

#[tokio::test]
async fn a_graceful_end_fails_nothing() {
    let address = serve(|_, peer| behave(peer, 20, 0)).await;
    let report = http2(500).start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 0, "{report}");
    check_sum(&report);
    assert!(
        report.classes[0].connections.closed_announced > 10,
        "{report}"
    );
    assert_eq!(
        report.classes[0].connections.closed_unannounced, 0,
        "{report}"
    );
}

#[tokio::test]
async fn a_wrong_number_fails() {
    let address = serve(|_, peer| behave(peer, usize::MAX, 1)).await;
    let report = http2(8).start(address).finish(LIMIT).await;
    assert_eq!(
        report.failed_by(FailureKind::WrongAnswer),
        report.failed(),
        "{report}"
    );
    assert_eq!(report.answers(), 0, "{report}");
    check_sum(&report);
}

#[tokio::test]
async fn a_stream_that_is_refused_is_counted_apart_and_one_that_is_reset_fails() {
    for (reason, refused) in [(Reason::REFUSED_STREAM, true), (Reason::CANCEL, false)] {
        let address = serve(move |_, peer: Peer| async move {
            let mut connection = h2::server::handshake(peer.stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reason);
            }
        })
        .await;
        let report = http2(20).start(address).finish(LIMIT).await;
        check_sum(&report);
        let class = &report.classes[0];
        let expected = if refused { (20, 0) } else { (0, 20) };
        assert_eq!((class.safe_to_retry, class.failed()), expected, "{report}");
        if !refused {
            assert_eq!(
                report.failed_by(FailureKind::ResetBeforeAnswer),
                20,
                "{report}"
            );
        }
    }
}

async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.ok()?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    Some((header[3], header[4], id, payload))
}

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// Waits for the first stream, says GOAWAY with `last`, answers nothing, and closes.
async fn leaves(mut peer: Peer, last: u32) {
    let stream = &mut peer.stream;
    stream.read_exact(&mut [0; 24]).await.unwrap();
    stream.write_all(&SETTINGS).await.unwrap();
    while let Some((kind, flags, _, _)) = frame(stream).await {
        match kind {
            4 if flags & 1 == 0 => stream.write_all(&SETTINGS_ACK).await.unwrap(),
            1 => break,
            _ => {}
        }
    }
    let mut goaway = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
    goaway.extend(last.to_be_bytes());
    goaway.extend([0; 4]);
    stream.write_all(&goaway).await.unwrap();
    // Reads on, so that the end is no reset.
    stream.shutdown().await.unwrap();
    while frame(stream).await.is_some() {}
}

#[tokio::test]
async fn streams_above_the_last_one_are_safe_to_retry_and_those_below_fail() {
    let address = serve(|_, peer| leaves(peer, 0)).await;
    let report = http2(30).start(address).finish(LIMIT).await;
    check_sum(&report);
    let class = &report.classes[0];
    assert_eq!((class.safe_to_retry, report.failed()), (30, 0), "{report}");

    let address = serve(|_, peer| leaves(peer, 1)).await;
    let report = http2(30).start(address).finish(LIMIT).await;
    check_sum(&report);
    let class = &report.classes[0];
    assert!(class.safe_to_retry > 0, "{report}");
    assert_eq!(
        report.failed(),
        class.connections.opened,
        "the first of each\n{report}"
    );

    let address = serve(|_, peer| leaves(peer, 0x7fff_ffff)).await;
    let report = http2(30).start(address).finish(LIMIT).await;
    check_sum(&report);
    assert_eq!(report.classes[0].safe_to_retry, 0, "{report}");
    assert_eq!(report.failed(), 30, "{report}");
}

#[tokio::test]
async fn an_end_without_goaway_fails_what_is_under_way() {
    let address = serve(|_, mut peer: Peer| async move {
        peer.stream.read_exact(&mut [0; 24]).await.unwrap();
        peer.stream.write_all(&SETTINGS).await.unwrap();
        while let Some((kind, ..)) = frame(&mut peer.stream).await {
            if kind == 1 {
                return;
            }
        }
    })
    .await;
    let report = http2(20).start(address).finish(LIMIT).await;
    check_sum(&report);
    assert_eq!(report.failed(), 20, "{report}");
    assert!(
        report
            .first_failures
            .iter()
            .all(|failure| failure.kind.is_cut_off()),
        "{report}"
    );
    assert_eq!(
        report.classes[0].connections.closed_announced, 0,
        "{report}"
    );
}

#[tokio::test]
async fn a_server_that_speaks_something_else_fails() {
    let address = serve(|_, mut peer: Peer| async move {
        peer.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
        while matches!(peer.stream.read(&mut [0; 64]).await, Ok(1..)) {}
    })
    .await;
    let report = http2(3).start(address).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (3, 0), "{report}");
}
