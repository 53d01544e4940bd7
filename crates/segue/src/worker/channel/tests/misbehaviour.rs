//! Workers that hang, flood, garble, never read or speak out of turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use segue_sys::passing;

use super::super::conversation::TURN;
use super::super::ledger::Broken;
use super::super::*;
use super::fake::*;

#[tokio::test]
async fn sends_again_what_was_refused() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (mut client, server) = connection();
    let handed = channel.hand_over("k", None, deposit(server));
    for _ in 0..4 {
        assert_eq!(fake.hear_handle().await.0, 1);
        fake.say(NACK).await;
    }
    assert_eq!(ended(&mut reports).await, End::Broken(Broken::Refused));
    same(&mut client, handed.await.expect_err("it comes back"));
}

#[tokio::test]
async fn waits_end_and_the_worker_keeps_its_channel() {
    for acknowledges in [false, true] {
        let (channel, mut fake, mut reports) = open(hasty());
        let (mut client, server) = connection();
        let handed = channel.hand_over("k", None, deposit(server));
        let _ = fake.hear_handle().await;
        if acknowledges {
            fake.say(ACK).await;
        }
        let patience = hasty().patience;
        let expected = match acknowledges {
            false => Broken::Unacknowledged(patience),
            true => Broken::Undecided(patience),
        };
        assert_eq!(ended(&mut reports).await, End::Broken(expected));
        // An end of the channel would end the worker, with the requests it has.
        fake.say(ONLINE).await;
        drop(channel);
        assert_eq!(fake.hear().await, None);
        assert!(reports.recv().await.is_none());
        same(&mut client, handed.await.expect_err("it comes back"));
    }
}

#[tokio::test]
async fn a_connection_that_a_hanging_worker_has_is_not_served_twice() {
    for dies in [false, true] {
        let (channel, mut fake, mut reports) = open(hasty());
        let (mut sent, server) = connection();
        let handed = channel.hand_over("k", None, deposit(server));
        let (mut unsent, server) = connection();
        let waiting = channel.hand_over("k", None, deposit(server));
        let (seq, _theirs) = fake.hear_handle().await;
        assert!(matches!(ended(&mut reports).await, End::Broken(_)));
        same(&mut unsent, waiting.await.expect_err("it was never sent"));
        assert!(is_held(&mut sent));
        if dies {
            drop(fake);
            same(&mut sent, handed.await.expect_err("nobody will serve it"));
        } else {
            fake.say(ACK).await;
            fake.accept(seq, true).await;
            handed.await.expect("accepted, if late");
        }
        drop(channel);
        assert!(reports.recv().await.is_none());
    }
}

#[tokio::test]
async fn what_came_in_time_counts_even_if_it_is_read_late() {
    let (channel, mut fake, mut reports) = open(hasty());
    let (_client, server) = connection();
    let handed = channel.hand_over("k", None, deposit(server));
    let (seq, _theirs) = fake.hear_handle().await;
    let long = "x".repeat(2 * TURN);
    fake.say(&format!("\"{long}\"\n")).await;
    passing::send(&fake.stream, ACK.as_bytes(), None).expect("it fits");
    let accepted = json!({"cmd": "NODE_CLUSTER", "ack": seq, "accepted": true});
    passing::send(&fake.stream, format!("{accepted}\n").as_bytes(), None).expect("it fits");
    // As if the supervisor had been stopped: no task has its turn until the deadline is past.
    thread::park_timeout(2 * hasty().patience);
    handed.await.expect("accepted in time");
    fake.say(ONLINE).await;
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn one_that_never_reads_is_broken() {
    let limits = Limits {
        unwritten: 1 << 20,
        ..Limits::default()
    };
    let long = "k".repeat(64 << 10);
    let (channel, fake, mut reports) = open(limits);
    for seq in 0..32 {
        channel.deny(seq, &long, &Value::Null, 98);
    }
    assert!(
        matches!(ended(&mut reports).await, End::Broken(Broken::Unread(bytes)) if bytes > 1 << 20)
    );

    // Messages that wait for an acknowledgement count too.
    let (channel, _fake, mut reports) = open(limits);
    let connections: Vec<_> = (0..32)
        .map(|_| channel.hand_over(&long, None, deposit(connection().1)))
        .collect();
    assert!(matches!(
        ended(&mut reports).await,
        End::Broken(Broken::Unread(_))
    ));
    // The first one may have been sent: only the worker's end decides about it.
    drop(channel);
    for handed in connections {
        handed.await.expect_err("all come back");
    }
    drop(fake);
}

#[tokio::test]
async fn one_that_asks_without_end_is_broken() {
    let limits = Limits {
        unanswered: 10,
        ..Limits::default()
    };
    let (channel, mut fake, mut reports) = open(limits);
    for _ in 0..20 {
        fake.say(QUERY).await;
        let Report::Query(query) = next(&mut reports).await else {
            panic!("it asked")
        };
        channel.deny(query.seq, "k", &query.data, 13);
    }
    fake.say(&QUERY.repeat(11)).await;
    assert_eq!(
        ended(&mut reports).await,
        End::Broken(Broken::Insatiable(11))
    );
}

#[tokio::test]
async fn garbage_is_survived_and_reported_once() {
    let (_channel, mut fake, mut reports) = open(Limits::default());
    fake.say("oops\n\n{]\n").await;
    fake.say(ACK).await;
    fake.say(NACK).await;
    fake.stream
        .write_all(&[0xff, 0, b'\n'])
        .await
        .expect("the channel is open");
    let long = "x".repeat(1 << 20);
    fake.say("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":\"")
        .await;
    for _ in 0..9 {
        fake.say(&long).await;
    }
    fake.say("\"}\n").await;
    assert_eq!(
        fake.hear().await.expect("it must be answered")["cmd"],
        "NODE_HANDLE_ACK"
    );
    fake.say(ONLINE).await;
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Garbage)
    );
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::OutOfStep)
    );
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Oversized)
    );
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn an_app_that_speaks_for_its_node_does_no_harm() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (mut first, server) = connection();
    let one = channel.hand_over("k", None, deposit(server));
    let (mut second, server) = connection();
    let two = channel.hand_over("k", None, deposit(server));
    let _ = fake.hear_handle().await;
    // Accepts what it has not been sent, and something that never was.
    fake.accept(2, true).await;
    fake.accept(99, true).await;
    two.await.expect("so it says");
    assert_released(&mut second);
    fake.say(ACK).await;
    fake.accept(1, false).await;
    same(&mut first, one.await.expect_err("declined"));
    // The second line is not sent: without its socket it could end a worker.
    channel.disconnect();
    assert_eq!(fake.hear().await.expect("an order")["act"], "disconnect");
    fake.say(ONLINE).await;
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn a_flood_starves_nobody() {
    let (_flooded, mut flooder, _) = open(Limits::default());
    let (_channel, mut fake, mut reports) = open(Limits::default());
    // The flood goes on until the quiet neighbour has been heard.
    let is_heard = AtomicBool::new(false);
    let flood = async {
        let lines = "{\"a\":1}\n".repeat(8 << 10);
        while !is_heard.load(Ordering::Relaxed) {
            flooder.say(&lines).await;
        }
    };
    let neighbour = async {
        for _ in 0..200 {
            fake.say(QUERY).await;
            assert!(matches!(next(&mut reports).await, Report::Query(_)));
        }
        is_heard.store(true, Ordering::Relaxed);
    };
    tokio::join!(flood, neighbour);
}
