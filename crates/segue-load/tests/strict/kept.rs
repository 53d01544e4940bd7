//! Mixed load on kept connections, and transfers: servers that get something wrong about them.

use std::time::Duration;

use crate::app::{Peer, right_answer, serve, sha256};
use segue_load::{Builder, Contract, Events, FailureKind, Framing, Load, Mixed, Report, Upload};

const LIMIT: Duration = Duration::from_secs(60);

/// The length of the status line of every answer.
const STATUS_LINE: usize = "HTTP/1.1 200 OK\r\n".len();

/// One client that has nothing but pipelines of short requests half of the time.
fn mixed(requests: u64) -> Builder {
    let kind = Mixed {
        clients: 1,
        pause: Duration::ZERO,
        cut: Duration::from_millis(1),
        ..Mixed::default()
    };
    Load::builder().with(kind).requests(requests)
}

/// Every request is accounted for in exactly one way.
#[track_caller]
fn check_sum(report: &Report) {
    let class = &report.classes[0];
    assert_eq!(class.requests, class.answers + class.failed(), "{report}");
    assert_eq!(report.in_flight, 0, "{report}");
}

#[tokio::test]
async fn a_server_that_behaves_keeps_every_connection() {
    let address = serve(|_, peer| peer.behave("v1")).await;
    let report = mixed(2000).start(address).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (0, 2000), "{report}");
    assert_eq!(report.classes[0].connections.opened, 1, "{report}");
    assert_eq!(report.closed_by_server(), 0, "{report}");
    check_sum(&report);
}

#[tokio::test]
async fn closes_within_a_pipeline() {
    // Each connection is closed, with an announcement, by its tenth answer: what was sent behind it is lost.
    let address = serve(|_, mut peer: Peer| async move {
        for count in 1.. {
            let Some(asked) = peer.request().await else {
                return;
            };
            let mut answer = right_answer(&asked, "v1");
            if count == 10 {
                let field = *b"Connection: close\r\n";
                answer.splice(STATUS_LINE..STATUS_LINE, field);
            }
            peer.write(answer).await;
            if count == 10 {
                return;
            }
        }
    })
    .await;
    let report = mixed(2000).start(address).finish(LIMIT).await;
    check_sum(&report);
    let closed = &report.classes[0].connections;
    assert!(closed.closed_announced > 10, "{report}");
    assert!(report.failed() > 10, "{report}");
    let cut_off = report
        .first_failures
        .iter()
        .filter(|failure| failure.kind.is_cut_off());
    assert_eq!(cut_off.count() as u64, report.failed(), "{report}");
}

#[tokio::test]
async fn answers_a_pipeline_out_of_order() {
    let address = serve(|_, mut peer: Peer| async move {
        let mut held = None;
        while let Some(asked) = peer.request().await {
            // One answer is held back until the next request has been answered.
            if asked.number % 20 == 7 && held.is_none() {
                held = Some(right_answer(&asked, "v1"));
                continue;
            }
            peer.write(right_answer(&asked, "v1")).await;
            if let Some(held) = held.take() {
                peer.write(held).await;
            }
        }
    })
    .await;
    let load = mixed(2000).answer_timeout(Duration::from_millis(200));
    let report = load.start(address).finish(LIMIT).await;
    check_sum(&report);
    assert!(report.failed_by(FailureKind::WrongAnswer) > 5, "{report}");
    let details = &report.first_failures;
    assert!(
        details
            .iter()
            .any(|failure| failure.detail.contains("answers request")),
        "{report}"
    );
}

#[tokio::test]
async fn closes_an_idle_connection() {
    let address = serve(|_, mut peer: Peer| async move {
        while let Some(asked) = peer.request().await {
            peer.write(right_answer(&asked, "v1")).await;
            if asked.number % 50 == 0 {
                return;
            }
        }
    })
    .await;
    let kind = Mixed {
        clients: 1,
        pause: Duration::from_millis(2),
        pipeline: 1,
        ..Mixed::default()
    };
    let load = Load::builder().with(kind).requests(1000);
    let report = load.start(address).finish(LIMIT).await;
    check_sum(&report);
    let closed = &report.classes[0].connections;
    assert!(closed.closed_unannounced > 10, "{report}");
    assert_eq!(report.closed_by_server(), closed.closed_unannounced);
}

async fn with_port(
    contract: Contract,
    port: impl Fn(u16) -> String + Clone + Send + Sync + 'static,
) -> Report {
    let address = serve(move |_, mut peer: Peer| {
        let field = port(peer.stream.peer_addr().unwrap().port());
        async move {
            while let Some(asked) = peer.request().await {
                let answer = right_answer(&asked, "v1");
                let (status, rest) = answer.split_at(STATUS_LINE);
                assert!(status.ends_with(b"\r\n"));
                peer.write([status, field.as_bytes(), rest].concat()).await;
            }
        }
    })
    .await;
    mixed(50)
        .contract(contract)
        .start(address)
        .finish(LIMIT)
        .await
}

#[tokio::test]
async fn the_app_sees_another_connection() {
    let required = Contract {
        port: true,
        ..Contract::full()
    };
    let right = with_port(required.clone(), |port| format!("x-segue-port: {port}\r\n")).await;
    assert_eq!(right.failed(), 0, "{right}");
    let wrong = with_port(Contract::full(), |_| "x-segue-port: 1\r\n".to_owned()).await;
    assert_eq!(wrong.answers(), 0, "{wrong}");
    assert!(
        wrong.first_failures[0].detail.contains("sees port 1"),
        "{wrong}"
    );
    let none = with_port(required, |_| String::new()).await;
    assert_eq!(none.answers(), 0, "{none}");
    let unasked = with_port(Contract::full(), |_| String::new()).await;
    assert_eq!(unasked.failed(), 0, "{unasked}");
}

fn upload() -> Builder {
    let kind = Upload {
        clients: 1,
        bytes: 50_000,
        over: Duration::from_millis(50),
        framing: Framing::Chunked,
        ..Upload::default()
    };
    Load::builder().with(kind).requests(2)
}

#[tokio::test]
async fn uploads_are_whole_or_they_fail() {
    let address = serve(|_, peer| peer.behave("v1")).await;
    let report = upload().start(address).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (0, 2), "{report}");

    // A byte short, and the hash of what came.
    let address = serve(|_, mut peer: Peer| async move {
        while let Some(mut asked) = peer.request().await {
            assert_eq!(asked.body.len(), 50_000);
            asked.body.pop();
            peer.write(right_answer(&asked, "v1")).await;
        }
    })
    .await;
    let report = upload().start(address).finish(LIMIT).await;
    assert_eq!(report.failed_by(FailureKind::WrongAnswer), 2, "{report}");

    // Closed in the middle.
    let address = serve(|_, mut peer: Peer| async move {
        use tokio::io::AsyncReadExt;
        let mut some = [0; 20_000];
        peer.stream.read_exact(&mut some).await.unwrap();
    })
    .await;
    let report = upload().start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 2, "{report}");
    assert!(
        report
            .first_failures
            .iter()
            .all(|failure| failure.kind.is_cut_off()),
        "{report}"
    );
}

/// Two streams of three events, of which the server sends what `edit` makes.
async fn events(edit: fn(String) -> String) -> Report {
    let address = serve(move |_, mut peer: Peer| async move {
        let asked = peer.request().await.unwrap();
        assert!(asked.target.contains("count=3"));
        let events: String = (0..3)
            .map(|id| format!("id: {id}\ndata: {}\n\n", asked.number + id))
            .collect();
        let events = edit(events);
        let head = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nx-segue-echo: {}\r\n\
             x-segue-version: v1\r\nx-segue-worker: 1\r\nx-body-sha256: {}\r\n\r\n",
            asked.number,
            sha256(events.as_bytes()),
        );
        let chunk = format!("{:x}\r\n{events}\r\n", events.len());
        peer.write(head + &chunk).await;
        if events.len() > 10 {
            peer.write("0\r\n\r\n").await;
        }
    })
    .await;
    let kind = Events {
        clients: 1,
        count: 3,
        over: Duration::from_millis(30),
        ..Events::default()
    };
    Load::builder()
        .with(kind)
        .requests(2)
        .start(address)
        .finish(LIMIT)
        .await
}

#[tokio::test]
async fn event_streams_are_whole_or_they_fail() {
    let right = events(|events| events).await;
    assert_eq!((right.failed(), right.answers()), (0, 2), "{right}");
    let repeated = events(|events| format!("{events}{events}")).await;
    assert_eq!(
        repeated.failed_by(FailureKind::WrongAnswer),
        2,
        "{repeated}"
    );
    let cut = events(|events| events[..5].to_owned()).await;
    assert_eq!(cut.failed_by(FailureKind::EofInAnswer), 2, "{cut}");
}
