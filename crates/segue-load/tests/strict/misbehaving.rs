//! Every kind of failure, provoked by a server that misbehaves on purpose: a client that cannot
//! fail proves nothing.

use std::time::Duration;

use crate::app::{Peer, right_answer, serve, sha256};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use segue_load::{
    Builder, Cut, Download, FailureKind, Fresh, KeepAlive, Load, Post, Report, Think,
};

const LIMIT: Duration = Duration::from_secs(60);

fn fresh() -> Builder {
    let kind = Fresh {
        clients: 1,
        ..Fresh::default()
    };
    Load::builder().with(kind).requests(3)
}

fn keep_alive() -> Builder {
    let kind = KeepAlive {
        clients: 1,
        ..KeepAlive::default()
    };
    Load::builder().with(kind).requests(3)
}

/// Exactly `count` failures, all of this kind.
#[track_caller]
fn check(report: &Report, kind: FailureKind, count: u64) {
    assert_eq!(report.failed_by(kind), count, "{report}");
    assert_eq!(report.failed(), count, "{report}");
    assert_eq!(report.first_failures.len() as u64, count, "{report}");
}

/// Three requests to a server that answers each with what `answer` makes of the right answer, then closes.
async fn with_answers(
    load: Builder,
    answer: impl Fn(Vec<u8>) -> Vec<u8> + Clone + Send + Sync + 'static,
) -> Report {
    let address = serve(move |_, mut peer| {
        let answer = answer.clone();
        async move {
            while let Some(asked) = peer.request().await {
                peer.write(answer(right_answer(&asked, "v1"))).await;
                if asked.closes {
                    return;
                }
            }
        }
    })
    .await;
    load.start(address).finish(LIMIT).await
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}

#[tokio::test]
async fn nobody_listens() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let report = fresh().start(address).finish(LIMIT).await;
    check(&report, FailureKind::Refused, 3);
    assert!(
        report.first_failures[0].detail.contains("refused"),
        "{report}"
    );
}

#[tokio::test]
async fn no_such_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let report = fresh()
        .start(directory.path().join("none"))
        .finish(LIMIT)
        .await;
    check(&report, FailureKind::Refused, 3);
}

// With a backlog of 0 one connection is queued and the SYNs of others are dropped.
#[tokio::test]
async fn the_queue_is_full() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let _queued = tokio::net::TcpStream::connect(address).await.unwrap();
    let load = fresh()
        .requests(1)
        .connect_timeout(Duration::from_millis(200));
    let report = load.start(address).finish(LIMIT).await;
    check(&report, FailureKind::ConnectTimeout, 1);
}

#[tokio::test]
async fn the_queue_of_a_unix_socket_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full");
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let load = fresh()
        .requests(1)
        .connect_timeout(Duration::from_millis(200));
    let report = load.start(path).finish(LIMIT).await;
    check(&report, FailureKind::ConnectTimeout, 1);
}

#[tokio::test]
async fn resets_before_the_answer() {
    let address = serve(|_, mut peer| async move {
        peer.request().await;
        peer.reset();
    })
    .await;
    let report = fresh().start(address).finish(LIMIT).await;
    check(&report, FailureKind::ResetBeforeAnswer, 3);
    let failure = &report.first_failures[0];
    assert!(
        failure.local_port.is_some() && failure.detail.contains("reset"),
        "{failure}"
    );
}

#[tokio::test]
async fn resets_while_a_body_is_being_sent() {
    let address = serve(|_, peer| async move { peer.reset() }).await;
    let post = Post {
        clients: 1,
        bytes: 4 << 20,
        fresh: true,
        ..Post::default()
    };
    let report = Load::builder()
        .with(post)
        .requests(3)
        .start(address)
        .finish(LIMIT)
        .await;
    check(&report, FailureKind::ResetBeforeAnswer, 3);
}

#[tokio::test]
async fn resets_in_the_answer() {
    let address = serve(|_, mut peer| async move {
        let asked = peer.request().await.unwrap();
        let answer = right_answer(&asked, "v1");
        peer.write(&answer[..answer.len() - 2]).await;
        peer.reset();
    })
    .await;
    let report = fresh().start(address).finish(LIMIT).await;
    check(&report, FailureKind::ResetInAnswer, 3);
}

#[tokio::test]
async fn closes_before_the_answer() {
    let address = serve(|_, mut peer| async move {
        peer.request().await;
    })
    .await;
    let report = fresh().start(address).finish(LIMIT).await;
    check(&report, FailureKind::EofBeforeAnswer, 3);
}

#[tokio::test]
async fn truncates_a_body_with_a_length() {
    let cut = |answer: Vec<u8>| answer[..answer.len() - 1].to_vec();
    let report = with_answers(fresh(), cut).await;
    check(&report, FailureKind::EofInAnswer, 3);
}

#[tokio::test]
async fn truncates_a_chunked_body_and_a_head() {
    let chunked = |answer: Vec<u8>| {
        let head = replaced(&answer, "Content-Length: 5", "Transfer-Encoding: chunked");
        replaced(&head, "hello", "5\r\nhello\r\n")
    };
    check(
        &with_answers(fresh(), chunked).await,
        FailureKind::EofInAnswer,
        3,
    );
    let head = |answer: Vec<u8>| answer[..40].to_vec();
    check(
        &with_answers(fresh(), head).await,
        FailureKind::EofInAnswer,
        3,
    );
}

#[tokio::test]
async fn truncates_a_body_that_ends_with_the_connection() {
    let cut = |answer: Vec<u8>| {
        replaced(
            &replaced(&answer, "Content-Length: 5\r\n", ""),
            "hello",
            "hell",
        )
    };
    check(
        &with_answers(fresh(), cut).await,
        FailureKind::WrongAnswer,
        3,
    );
}

#[tokio::test]
async fn never_answers() {
    let address = serve(|_, mut peer| async move { while peer.request().await.is_some() {} }).await;
    let load = fresh().answer_timeout(Duration::from_millis(100));
    check(
        &load.start(address).finish(LIMIT).await,
        FailureKind::Timeout,
        3,
    );
}

#[tokio::test]
async fn stops_in_the_middle_of_an_answer() {
    let address = serve(|_, mut peer| async move {
        let asked = peer.request().await.unwrap();
        peer.write(&right_answer(&asked, "v1")[..30]).await;
        peer.request().await;
    })
    .await;
    let load = fresh().answer_timeout(Duration::from_millis(100));
    check(
        &load.start(address).finish(LIMIT).await,
        FailureKind::Timeout,
        3,
    );
}

#[tokio::test]
async fn answers_with_another_number() {
    let other = |answer: Vec<u8>| replaced(&answer, "x-segue-echo: ", "x-segue-echo: 9");
    let report = with_answers(keep_alive(), other).await;
    check(&report, FailureKind::WrongAnswer, 3);
    assert!(
        report.first_failures[0].detail.contains("instead of 1"),
        "{report}"
    );
}

#[tokio::test]
async fn answers_without_what_the_contract_requires() {
    for name in ["x-segue-echo", "x-segue-version", "x-segue-worker"] {
        let report = with_answers(fresh(), move |answer| replaced(&answer, name, "x-other")).await;
        check(&report, FailureKind::WrongAnswer, 3);
        assert!(report.first_failures[0].detail.contains(name), "{report}");
    }
}

#[tokio::test]
async fn answers_with_an_error() {
    let report = with_answers(fresh(), |answer| replaced(&answer, "200 OK", "503 x")).await;
    check(&report, FailureKind::WrongAnswer, 3);
    assert!(
        report.first_failures[0].detail.contains("status 503"),
        "{report}"
    );
}

#[tokio::test]
async fn answers_with_another_body_than_its_hash() {
    let report = with_answers(fresh(), |answer| replaced(&answer, "hello", "hallo")).await;
    check(&report, FailureKind::WrongAnswer, 3);
}

#[tokio::test]
async fn echoes_another_body() {
    let address = serve(|_, mut peer| async move {
        while let Some(mut asked) = peer.request().await {
            let right = sha256(&asked.body);
            asked.body.reverse();
            let wrong = sha256(&asked.body);
            let answer = right_answer(&asked, "v1");
            // The hash is right, the body is not.
            let at = answer
                .windows(64)
                .position(|window| window == wrong.as_bytes())
                .unwrap();
            let answer = [&answer[..at], right.as_bytes(), &answer[at + 64..]].concat();
            peer.write(answer).await;
        }
    })
    .await;
    let post = Post {
        clients: 1,
        ..Post::default()
    };
    let report = Load::builder()
        .with(post)
        .requests(3)
        .start(address)
        .finish(LIMIT)
        .await;
    check(&report, FailureKind::WrongAnswer, 3);
}

#[tokio::test]
async fn claims_another_hash_of_what_was_sent() {
    let address = serve(|_, mut peer| async move {
        while let Some(asked) = peer.request().await {
            let text = right_answer(&asked, "v1");
            let right = sha256(&asked.body);
            let at = text
                .windows(64)
                .position(|window| window == right.as_bytes())
                .unwrap();
            let answer = [&text[..at], sha256(b"else").as_bytes(), &text[at + 64..]].concat();
            peer.write(answer).await;
        }
    })
    .await;
    let post = Post {
        clients: 1,
        ..Post::default()
    };
    let report = Load::builder()
        .with(post)
        .requests(3)
        .start(address)
        .finish(LIMIT)
        .await;
    check(&report, FailureKind::WrongAnswer, 3);
}

#[tokio::test]
async fn sends_a_wrong_byte_in_a_download() {
    let spoil = |mut answer: Vec<u8>| {
        *answer.last_mut().unwrap() ^= 1;
        // Without the header, so that it is the client's own knowledge that finds it.
        let at = answer
            .windows(13)
            .position(|window| window == b"x-body-sha256")
            .unwrap();
        answer[at] = b'y';
        answer
    };
    let download = Download {
        clients: 1,
        bytes: 1000,
        over: Duration::ZERO,
        ..Download::default()
    };
    let load = Load::builder().with(download).requests(3);
    check(
        &with_answers(load, spoil).await,
        FailureKind::WrongAnswer,
        3,
    );
}

#[tokio::test]
async fn answers_twice_at_once() {
    let twice = |answer: Vec<u8>| answer.repeat(2);
    for load in [fresh(), keep_alive()] {
        let report = with_answers(load.requests(1), twice).await;
        assert_eq!(report.answers(), 1);
        check(&report, FailureKind::RepeatedAnswer, 1);
    }
}

#[tokio::test]
async fn answers_the_previous_request_again() {
    let address = serve(|_, mut peer| async move {
        let first = peer.request().await.unwrap();
        peer.write(right_answer(&first, "v1")).await;
        peer.request().await.unwrap();
        peer.write(right_answer(&first, "v1")).await;
    })
    .await;
    let report = keep_alive().requests(2).start(address).finish(LIMIT).await;
    check(&report, FailureKind::RepeatedAnswer, 1);
}

#[tokio::test]
async fn sends_bytes_behind_the_answer() {
    let more = |answer: Vec<u8>| [answer.as_slice(), b"more"].concat();
    check(
        &with_answers(fresh(), more).await,
        FailureKind::UnsolicitedBytes,
        3,
    );
    check(
        &with_answers(keep_alive().requests(1), more).await,
        FailureKind::UnsolicitedBytes,
        1,
    );
}

#[tokio::test]
async fn sends_bytes_on_an_idle_connection() {
    let (idle, mut waits) = tokio::sync::mpsc::channel(1);
    let address = serve(move |_, mut peer| {
        let idle = idle.clone();
        async move {
            let asked = peer.request().await.unwrap();
            peer.write(right_answer(&asked, "v1")).await;
            idle.send(peer).await.unwrap();
        }
    })
    .await;
    let think = Think {
        clients: 1,
        pause: LIMIT,
        ..Think::default()
    };
    let running = Load::builder().with(think).start(address);
    running.answered(1).await;
    waits
        .recv()
        .await
        .unwrap()
        .write("HTTP/1.1 408 Request Timeout\r\n\r\n")
        .await;
    let report = running.until(|report| report.failed() > 0).await;
    check(&report, FailureKind::UnsolicitedBytes, 1);
}

#[tokio::test]
async fn speaks_something_else() {
    check(
        &with_answers(fresh(), |_| b"220 ready\r\n".to_vec()).await,
        FailureKind::BadSyntax,
        3,
    );
    let twice = |answer: Vec<u8>| {
        replaced(
            &answer,
            "Content-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
        )
    };
    check(
        &with_answers(fresh(), twice).await,
        FailureKind::BadSyntax,
        3,
    );
    let endless = |answer: Vec<u8>| replaced(&answer, "Content-Length: 5\r\n", "");
    check(
        &with_answers(keep_alive(), endless).await,
        FailureKind::BadSyntax,
        3,
    );
}

#[tokio::test]
async fn answers_requests_that_were_cut() {
    let address = serve(|_, mut peer: Peer| async move {
        // As a server would that takes the end of the stream for the end of the request.
        while peer.request().await.is_some() {}
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
    })
    .await;
    let cut = Cut {
        clients: 1,
        pause: Duration::ZERO,
        ..Cut::default()
    };
    let report = Load::builder()
        .with(cut)
        .requests(20)
        .start(address)
        .finish(LIMIT)
        .await;
    let wrong = report.failed_by(FailureKind::WrongAnswer);
    assert!(wrong > 0, "{report}");
    check(&report, FailureKind::WrongAnswer, wrong);
    // The other half was not there to read an answer.
    assert_eq!(report.class("cut").unwrap().cut, 20 - wrong, "{report}");
}
