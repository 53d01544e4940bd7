//! What is no failure, and what is counted about it.

use std::time::Duration;

use crate::app::{Peer, right_answer, serve, serve_at};
use segue_load::{
    Contract, Cut, Download, FailureKind, Framing, Fresh, KeepAlive, Load, Phase, Post, Report,
    Think, pattern_sha256,
};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);

fn everything() -> Load {
    let ms = Duration::from_millis;
    Load::builder()
        .with(Fresh {
            clients: 4,
            ..Fresh::default()
        })
        .with(Fresh {
            clients: 1,
            asks_to_close: false,
            pause: ms(1),
            ..Fresh::default()
        })
        .with(KeepAlive {
            clients: 4,
            ..KeepAlive::default()
        })
        .with(Think {
            clients: 4,
            pause: ms(5),
            ..Think::default()
        })
        .with(Post {
            clients: 2,
            ..Post::default()
        })
        .with(Post {
            clients: 1,
            bytes: 900,
            over: ms(20),
            framing: Framing::Chunked,
            fresh: true,
            ..Post::default()
        })
        .with(Download {
            clients: 2,
            bytes: 100_000,
            over: ms(10),
            ..Download::default()
        })
        .with(Cut {
            clients: 2,
            pause: ms(1),
            ..Cut::default()
        })
        .requests(2000)
        .build()
}

#[track_caller]
fn check_everything(report: &Report) {
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.requests(), 2000);
    assert_eq!(report.in_flight, 0);
    let ended: u64 = report
        .classes
        .iter()
        .map(|class| class.answers + class.cut)
        .sum();
    assert_eq!(ended, 2000);
    for class in &report.classes {
        assert!(
            class.answers + class.cut > 0,
            "{} was never served\n{report}",
            class.name
        );
    }
}

#[tokio::test]
async fn a_good_server_has_no_failures() {
    let address = serve(|_, peer| peer.behave("v1")).await;
    let report = everything().start(address).finish(LIMIT).await;
    check_everything(&report);
    let fresh = &report.classes[0];
    assert_eq!(fresh.connections.opened, fresh.answers);
    assert_eq!(fresh.connections.closed_announced, fresh.answers);
    assert_eq!(
        report.classes[1].connections.closed_by_client,
        report.classes[1].answers
    );
    assert_eq!(report.class("keepalive").unwrap().connections.opened, 4);
    assert_eq!(report.workers.keys().collect::<Vec<_>>(), ["4711"]);
    assert_eq!(report.steady.count, report.windows[0].latency.count);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    assert!(report.to_string().contains("failed requests: 0"));
}

#[tokio::test]
async fn ipv6_is_served() {
    let address = serve_at("[::1]:0", |_, peer| peer.behave("v1")).await;
    check_everything(&everything().start(address).finish(LIMIT).await);
}

#[tokio::test]
async fn unix_sockets_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Peer::new(stream).behave("v1"));
        }
    });
    check_everything(&everything().start(path.as_path()).finish(LIMIT).await);
}

#[tokio::test]
async fn slow_answers_and_interim_ones_are_right() {
    let address = serve(|_, mut peer| async move {
        while let Some(asked) = peer.request().await {
            peer.write("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
                .await;
            for byte in right_answer(&asked, "v1") {
                peer.write([byte]).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let load = Load::builder().with(KeepAlive {
        clients: 2,
        ..KeepAlive::default()
    });
    let report = load.requests(10).start(address).finish(LIMIT).await;
    assert_eq!((report.answers(), report.failed()), (10, 0), "{report}");
}

#[tokio::test]
async fn the_time_to_the_whole_answer_is_measured() {
    let delay = Duration::from_millis(30);
    let address = serve(move |_, mut peer| async move {
        while let Some(asked) = peer.request().await {
            let answer = right_answer(&asked, "v1");
            peer.write(&answer[..10]).await;
            tokio::time::sleep(delay).await;
            peer.write(&answer[10..]).await;
        }
    })
    .await;
    let load = Load::builder().with(KeepAlive {
        clients: 2,
        ..KeepAlive::default()
    });
    let report = load.requests(10).start(address).finish(LIMIT).await;
    let class = &report.classes[0].latency;
    for latency in [*class, report.steady, report.windows[0].latency] {
        assert_eq!(latency.count, 10);
        let least = u64::try_from(delay.as_micros()).unwrap();
        assert!(latency.p50_us >= least && latency.p50_us <= latency.max_us);
        assert!(
            latency.max_us <= report.elapsed_ms * 1000 + 1000,
            "{report}"
        );
    }
}

#[tokio::test]
async fn idle_connections_closed_without_a_word_are_counted() {
    let address = serve(|_, mut peer| async move {
        if let Some(asked) = peer.request().await {
            peer.write(right_answer(&asked, "v1")).await;
        }
    })
    .await;
    let load = Load::builder().with(Think {
        clients: 1,
        ..Think::default()
    });
    let report = load.requests(5).start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 0, "{report}");
    let connections = &report.class("think").unwrap().connections;
    assert_eq!(
        (connections.opened, connections.closed_unannounced),
        (5, 5),
        "{report}"
    );
}

#[tokio::test]
async fn idle_connections_that_are_reset_are_counted() {
    let address = serve(|_, mut peer| async move {
        if let Some(asked) = peer.request().await {
            peer.write(right_answer(&asked, "v1")).await;
        }
        peer.reset();
    })
    .await;
    let load = Load::builder().with(Think {
        clients: 1,
        ..Think::default()
    });
    let report = load.requests(5).start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(
        report.class("think").unwrap().connections.reset_idle,
        5,
        "{report}"
    );
}

#[tokio::test]
async fn announced_closes_are_counted() {
    let address = serve(|_, mut peer| async move {
        let mut asked = peer.request().await.unwrap();
        asked.closes = true;
        peer.write(right_answer(&asked, "v1")).await;
    })
    .await;
    let load = Load::builder().with(KeepAlive {
        clients: 1,
        ..KeepAlive::default()
    });
    let report = load.requests(5).start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(
        report
            .class("keepalive")
            .unwrap()
            .connections
            .closed_announced,
        5,
        "{report}"
    );
}

#[tokio::test]
async fn announced_closes_that_do_not_come_are_counted() {
    let address = serve(|_, mut peer| async move {
        let mut asked = peer.request().await.unwrap();
        asked.closes = true;
        peer.write(right_answer(&asked, "v1")).await;
        peer.request().await;
    })
    .await;
    let load = Load::builder().with(KeepAlive {
        clients: 1,
        ..KeepAlive::default()
    });
    let report = load.requests(1).start(address).finish(LIMIT).await;
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(
        report
            .class("keepalive")
            .unwrap()
            .connections
            .announced_but_open,
        1,
        "{report}"
    );
}

#[tokio::test]
async fn any_app_can_be_loaded() {
    let address = serve(|_, mut peer| async move {
        while peer.request().await.is_some() {
            peer.write("HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
    })
    .await;
    let load = Load::builder()
        .with(KeepAlive::default())
        .contract(Contract::any_app());
    let report = load
        .number_in_query(false)
        .requests(100)
        .start(address)
        .finish(LIMIT)
        .await;
    assert_eq!((report.answers(), report.failed()), (100, 0), "{report}");
}

/// A server whose version can be changed; it answers with the one that is current, or was when the connection came.
async fn versioned(version: watch::Receiver<String>, at_accept: bool) -> std::net::SocketAddr {
    serve(move |_, mut peer| {
        let accepted = version.borrow().clone();
        let version = version.clone();
        async move {
            while let Some(asked) = peer.request().await {
                let now = version.borrow().clone();
                let answer = right_answer(&asked, if at_accept { &accepted } else { &now });
                peer.write(answer).await;
                if asked.closes {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn answers_are_told_apart_by_version_and_age_of_the_connection() {
    let (version, current) = watch::channel("v1".to_owned());
    let address = versioned(current, true).await;
    let load = Load::builder()
        .with(Fresh {
            clients: 2,
            ..Fresh::default()
        })
        .with(KeepAlive {
            clients: 2,
            ..KeepAlive::default()
        });
    let running = load.start(address);
    running.answered(50).await;
    running.mark("reload to v2", Phase::Reload);
    version.send_replace("v2".to_owned());
    running
        .until(|report| report.versions.contains_key("v2"))
        .await;
    running.committed("v2");
    let before = running.snapshot().versions["v2"].on_new_connections;
    running
        .until(|report| report.versions["v2"].on_new_connections > before + 50)
        .await;
    let report = running.stop().await;
    assert_eq!((report.failed(), report.stale), (0, 0), "{report}");
    // The keep-alive connections stay with v1 to the end; no other connection does.
    assert!(report.versions["v1"].on_old_connections > 0, "{report}");
    assert_eq!(report.versions["v2"].on_old_connections, 0, "{report}");
    let names: Vec<_> = report
        .windows
        .iter()
        .map(|window| window.name.as_str())
        .collect();
    assert_eq!(names, ["start", "reload to v2", "committed v2"]);
    assert!(
        report.reload.count > 0 && report.steady.count > 0,
        "{report}"
    );
}

#[tokio::test]
async fn old_versions_on_new_connections_after_the_commit_are_counted() {
    let (version, current) = watch::channel("v1".to_owned());
    let address = versioned(current, false).await;
    let running = Load::builder()
        .with(Fresh {
            clients: 2,
            ..Fresh::default()
        })
        .start(address);
    running.answered(10).await;
    version.send_replace("v2".to_owned());
    running
        .until(|report| report.versions.contains_key("v2"))
        .await;
    running.committed("v2");
    // A worker of the old version is still reached.
    version.send_replace("v1".to_owned());
    let report = running.until(|report| report.stale >= 5).await;
    assert_eq!(report.failed(), 0, "{report}");
    // A way back is a commit, too: v1 is right again.
    running.committed("v1");
    let known = running.snapshot();
    running.answered(known.answers() + 50).await;
    assert_eq!(running.stop().await.stale, known.stale);
}

#[tokio::test]
async fn failures_in_a_fault_are_excused_up_to_what_was_under_way() {
    let (kill, killed) = watch::channel(false);
    let address = serve(move |_, mut peer| {
        let mut killed = killed.clone();
        async move {
            peer.request().await;
            killed.wait_for(|killed| *killed).await.unwrap();
            peer.reset();
        }
    })
    .await;
    let load = Load::builder().with(Fresh {
        clients: 3,
        ..Fresh::default()
    });
    let running = load.pause_after_failure(Duration::ZERO).start(address);
    running_requests(&running, 3).await;
    // What is under way when a process is killed may have begun before other things were done.
    running.mark("reload", Phase::Reload);
    running.mark("after it", Phase::Steady);
    running.mark("kill", Phase::Fault);
    kill.send_replace(true);
    let report = running.until(|report| report.failed() >= 10).await;
    assert_eq!(
        report.failed(),
        report.failed_by(FailureKind::ResetBeforeAnswer)
    );
    assert_eq!(report.excused(), 3, "{report}");
    let mut others = report.windows.iter().filter(|window| window.name != "kill");
    assert!(others.all(|window| window.failures.is_empty()), "{report}");
}

/// Nothing is answered, so that there is no change to wait for but the clients' start.
async fn running_requests(running: &segue_load::Running, count: u64) {
    while running.snapshot().in_flight < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_without_an_outcome_are_reported() {
    let address = serve(|_, mut peer| async move { while peer.request().await.is_some() {} }).await;
    let running = Load::builder()
        .with(Fresh {
            clients: 3,
            ..Fresh::default()
        })
        .start(address);
    running_requests(&running, 3).await;
    let report = running.finish(Duration::from_millis(50)).await;
    assert_eq!((report.in_flight, report.failed()), (3, 0), "{report}");
}

#[tokio::test]
async fn the_same_seed_sends_the_same_bodies() {
    let (seen, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let address = serve(move |_, mut peer| {
        let seen = seen.clone();
        async move {
            while let Some(asked) = peer.request().await {
                seen.send(asked.body.clone()).unwrap();
                peer.write(right_answer(&asked, "v1")).await;
            }
        }
    })
    .await;
    let load = Load::builder()
        .with(Post {
            clients: 1,
            ..Post::default()
        })
        .requests(5)
        .seed(42)
        .build();
    let mut runs = Vec::new();
    for _ in 0..2 {
        assert_eq!(load.start(address).finish(LIMIT).await.failed(), 0);
        let mut run = Vec::new();
        while let Ok(body) = bodies.try_recv() {
            run.push(body);
        }
        runs.push(run);
    }
    assert_eq!(runs[0].len(), 5);
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn the_pattern_of_downloads_is_what_the_documentation_says() {
    let bytes: Vec<u8> = (0..1000_u64)
        .map(|offset| ((7 + offset) % 251) as u8)
        .collect();
    assert_eq!(pattern_sha256(7, 1000), crate::app::sha256(&bytes));
}
