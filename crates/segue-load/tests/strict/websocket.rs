//! WebSocket servers that behave, and those that do not.

use std::time::Duration;

use crate::app::{Peer, serve};
use segue_load::{Builder, FailureKind, Load, Report, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(60);

const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nx-segue-version: v1\r\n\r\n";

fn websocket(requests: u64) -> Builder {
    let kind = WebSocket {
        clients: 1,
        pause: Duration::from_millis(2),
        ..WebSocket::default()
    };
    Load::builder()
        .with(kind)
        .requests(requests)
        .answer_timeout(Duration::from_secs(1))
}

/// The server's end of a connection.
struct Socket(Peer);

impl Socket {
    async fn accept(mut peer: Peer) -> Self {
        peer.request().await.unwrap();
        peer.write(ACCEPT).await;
        Self(peer)
    }

    /// Opcode and payload of the next frame, which must be masked; none at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let stream = &mut self.0.stream;
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.ok()?;
        assert_eq!(two[0] & 0xf0, 0x80, "whole and without extensions");
        assert_eq!(two[1] & 0x80, 0x80, "masked");
        let length = match two[1] & 0x7f {
            126 => usize::from(stream.read_u16().await.ok()?),
            127 => unreachable!("the load's messages are shorter"),
            short => usize::from(short),
        };
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await.ok()?;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.ok()?;
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        Some((two[0] & 0x0f, payload))
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut bytes = vec![first];
        if payload.len() < 126 {
            bytes.push(payload.len() as u8);
        } else {
            bytes.push(126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        bytes.extend(payload);
        self.0.write(bytes).await;
    }

    /// Echoes so many messages, or all there are; answers a close frame.
    async fn echo(&mut self, messages: usize) {
        for _ in 0..messages {
            match self.frame().await {
                Some((1, payload)) => self.send(0x81, &payload).await,
                Some((8, payload)) => return self.send(0x88, &payload).await,
                Some((opcode, _)) => panic!("opcode {opcode}"),
                None => return,
            }
        }
    }

    async fn close(mut self, code: u16) {
        self.send(0x88, &code.to_be_bytes()).await;
        // The client's messages on their way, then its close frame, then the end.
        while let Some((opcode, payload)) = self.frame().await {
            if opcode == 8 {
                assert_eq!(payload, code.to_be_bytes());
                return;
            }
        }
        panic!("the client did not answer the close frame");
    }
}

#[track_caller]
fn check(report: &Report, kind: FailureKind, count: u64) {
    assert_eq!(report.failed_by(kind), count, "{report}");
    assert_eq!(report.failed(), count, "{report}");
}

#[tokio::test]
async fn a_server_that_behaves_is_left_with_a_handshake() {
    let address = serve(|_, peer| async move {
        Socket::accept(peer).await.echo(usize::MAX).await;
    })
    .await;
    let report = websocket(300).start(address).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (0, 300), "{report}");
    let class = &report.classes[0];
    assert_eq!(
        (class.connections.opened, class.connections.closed_by_client),
        (1, 1)
    );
    assert!(class.connections.close_codes.is_empty());
    assert_eq!(report.versions["v1"].on_old_connections, 299);
}

#[tokio::test]
async fn pings_and_fragments_are_understood() {
    let address = serve(|_, peer| async move {
        let mut socket = Socket::accept(peer).await;
        while let Some((opcode, payload)) = socket.frame().await {
            if opcode == 8 {
                return socket.send(0x88, &payload).await;
            }
            assert_eq!(opcode, 1);
            let (first, second) = payload.split_at(payload.len() / 2);
            socket.send(0x01, first).await;
            socket.send(0x89, b"there?").await;
            socket.send(0x80, second).await;
            assert_eq!(socket.frame().await, Some((10, b"there?".to_vec())));
        }
    })
    .await;
    let report = websocket(20).start(address).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (0, 20), "{report}");
}

#[tokio::test]
async fn close_frames_are_counted_by_their_codes_and_messages_under_way_apart() {
    let address = serve(|index, peer| async move {
        let mut socket = Socket::accept(peer).await;
        // Two connections end while a message is under way, the third while none is.
        match index {
            0 | 1 => {
                socket.echo(4).await;
                socket.frame().await.unwrap();
                socket.close(1012).await;
            }
            2 => {
                socket.echo(5).await;
                socket.close(1001).await;
            }
            _ => socket.echo(usize::MAX).await,
        }
    })
    .await;
    // A pause long enough that the third close frame finds the client in it.
    let kind = WebSocket {
        clients: 1,
        pause: Duration::from_millis(100),
        ..WebSocket::default()
    };
    let load = Load::builder().with(kind).requests(30);
    let report = load.start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 0, "{report}");
    let class = &report.classes[0];
    assert_eq!(class.connections.close_codes, [(1001, 1), (1012, 2)].into());
    // The third may come so late that the client's pause is over.
    assert!((2..=3).contains(&class.lost_echoes), "{report}");
    assert_eq!(class.answers + class.lost_echoes, 30, "{report}");
    assert_eq!(class.connections.opened, 4);
    assert_eq!(report.closed_by_server(), 3);
}

#[tokio::test]
async fn an_end_without_a_close_frame_fails() {
    let address = serve(|index, peer| async move {
        let mut socket = Socket::accept(peer).await;
        match index {
            // Instead of an echo, between two messages, and with a reset.
            0 => {
                socket.frame().await.unwrap();
            }
            1 => socket.echo(3).await,
            2 => {
                socket.frame().await.unwrap();
                socket.0.reset();
            }
            _ => socket.echo(usize::MAX).await,
        }
    })
    .await;
    let report = websocket(20).start(address).finish(LIMIT).await;
    check(&report, FailureKind::NoCloseFrame, 3);
}

#[tokio::test]
async fn a_handshake_that_is_none_fails() {
    let handshakes = [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ACCEPT.replace("xOo=", "xOO="),
        ACCEPT.replace("Upgrade: websocket", "Upgrade: h2c"),
        ACCEPT.replace(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        ),
    ];
    let count = handshakes.len() as u64;
    let address = serve(move |index, mut peer| {
        let handshake = handshakes[index].clone();
        async move {
            peer.request().await.unwrap();
            peer.write(handshake).await;
            let _ = peer.stream.read(&mut [0; 64]).await;
        }
    })
    .await;
    let report = websocket(count).start(address).finish(LIMIT).await;
    check(&report, FailureKind::WrongAnswer, count);
}

/// What a server sends instead of the third echo.
async fn instead_of_an_echo(sent: fn(Vec<u8>, Vec<u8>) -> Vec<u8>) -> Report {
    let address = serve(move |_, peer| async move {
        let mut socket = Socket::accept(peer).await;
        let (_, first) = socket.frame().await.unwrap();
        socket.send(0x81, &first).await;
        let (_, second) = socket.frame().await.unwrap();
        let bytes = sent(first, second);
        let _ = socket.0.stream.write_all(&bytes).await;
        while socket.frame().await.is_some() {}
    })
    .await;
    websocket(2).start(address).finish(LIMIT).await
}

fn text(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x81, 126];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn a_wrong_echo_fails() {
    let repeated = instead_of_an_echo(|first, _| {
        let mut bytes = vec![0x81, 126];
        if first.len() < 126 {
            bytes = vec![0x81, first.len() as u8];
        } else {
            bytes.extend((first.len() as u16).to_be_bytes());
        }
        bytes.extend(first);
        bytes
    })
    .await;
    check(&repeated, FailureKind::RepeatedAnswer, 1);
    let other = instead_of_an_echo(|_, _| text(&[b'x'; 200])).await;
    check(&other, FailureKind::WrongAnswer, 1);
    let silent = instead_of_an_echo(|_, _| Vec::new()).await;
    check(&silent, FailureKind::Timeout, 1);
    let masked = instead_of_an_echo(|_, _| vec![0x81, 0x81, 0, 0, 0, 0, b'x']).await;
    check(&masked, FailureKind::BadSyntax, 1);
    let code = instead_of_an_echo(|_, _| vec![0x88, 2, 0x03, 0xee]).await;
    check(&code, FailureKind::BadSyntax, 1);
    let stray = instead_of_an_echo(|_, _| vec![0x80, 1, b'x']).await;
    check(&stray, FailureKind::BadSyntax, 1);
}

#[tokio::test]
async fn what_comes_behind_a_close_frame_fails() {
    let behind =
        instead_of_an_echo(|_, second| [vec![0x88, 2, 0x03, 0xf4], text(&second)].concat()).await;
    assert_eq!(
        behind.failed_by(FailureKind::UnsolicitedBytes),
        1,
        "{behind}"
    );
    assert_eq!(
        behind.classes[0].connections.close_codes,
        [(1012, 1)].into()
    );
    let open = serve(|_, peer| async move {
        let mut socket = Socket::accept(peer).await;
        socket.frame().await.unwrap();
        socket.send(0x88, &1012_u16.to_be_bytes()).await;
        // Never ends the stream.
        std::future::pending::<()>().await;
    })
    .await;
    let report = websocket(1).start(open).finish(LIMIT).await;
    check(&report, FailureKind::Timeout, 1);
}
