//! The channel against workers that behave, and those that die.

mod connections;
mod cuts;
mod fake;
mod misbehaviour;
mod node;
mod scripted;
mod seat;
mod succession;
mod supervision;

use std::os::fd::AsFd;

use segue_sys::passing;
use segue_wire::node::AddressType;
use serde_json::json;

use super::*;
use fake::*;

#[tokio::test]
async fn talks_in_pieces_of_one_byte() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    for byte in format!("{ONLINE}{ONLINE}{QUERY}").chars() {
        fake.say(&byte.to_string()).await;
    }
    assert_eq!(next(&mut reports).await, Report::Online);
    let Report::Query(query) = next(&mut reports).await else {
        panic!("it asked")
    };
    assert_eq!((query.seq, query.place.address_type), (1, AddressType::V4));

    let (mut client, socket) = connection();
    channel.give(
        query.seq,
        "k",
        &query.data,
        (SOCKET, socket),
        HandleType::NetNative,
    );
    let line = fake.hear().await.expect("an answer");
    assert_eq!(line["msg"]["ack"], 1);
    assert_eq!(line["msg"]["key"], "k");
    let theirs = fake.sockets.pop().expect("a socket comes with it");
    assert!(
        fcntl_getfl(&theirs)
            .expect("it is open")
            .contains(OFlags::NONBLOCK)
    );
    fake.say(ACK).await;
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"index\":0,\"port\":80,\"addressType\":4}\n").await;
    fake.say("\"ready\"\n\"ready\"\n{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"k\"}\n")
        .await;
    assert!(matches!(
        next(&mut reports).await,
        Report::Listening { index: 0, .. }
    ));
    drop(theirs);
    assert_released(&mut client);
    assert_eq!(next(&mut reports).await, Report::SaidReady);
    assert_eq!(next(&mut reports).await, Report::Closed { key: "k".into() });

    channel.disconnect();
    assert_eq!(fake.hear().await.expect("an order")["act"], "disconnect");
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":9}\n")
        .await;
    assert_eq!(fake.hear().await.expect("an answer")["ack"], 9);
    drop(fake);
    assert_eq!(end(&mut reports).await, End::Eof);
    assert!(reports.recv().await.is_none());
}

#[tokio::test]
async fn one_socket_is_in_flight_at_a_time() {
    let (channel, mut fake, _reports) = open(Limits::default());
    for seq in 1..=3 {
        channel.give(
            seq,
            &format!("k{seq}"),
            &Value::Null,
            (SOCKET, connection().1),
            HandleType::NetNative,
        );
    }
    channel.deny(4, "k4", &json!({"ticketKeys": "00"}), 98);
    assert_eq!(fake.hear_handle().await.0, 1);
    let denied = fake.hear().await.expect("it need not wait");
    assert_eq!(
        (&denied["errno"], &denied["data"]),
        (&json!(-98), &json!({"ticketKeys": "00"}))
    );
    // An answer to the worker's own message shows that nothing else has been written.
    for seq in 2..=3 {
        fake.say("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n")
            .await;
        assert_eq!(
            fake.hear().await.expect("an answer")["cmd"],
            "NODE_HANDLE_ACK"
        );
        fake.say(ACK).await;
        assert_eq!(fake.hear_handle().await.0, seq);
    }
}

#[tokio::test]
async fn keeps_a_connection_until_it_is_accepted() {
    let (channel, mut fake, _reports) = open(Limits::default());
    let (mut client, server) = connection();
    let handed = channel.hand_over("k", None, deposit(server));
    let (seq, theirs) = fake.hear_handle().await;
    drop(theirs);
    fake.say(ACK).await;
    assert!(is_held(&mut client));
    fake.accept(seq, true).await;
    handed.await.expect("it was accepted");
    assert_released(&mut client);

    let (mut client, server) = connection();
    let handed = channel.hand_over("k", None, deposit(server));
    let (seq, _theirs) = fake.hear_handle().await;
    fake.say(ACK).await;
    fake.accept(seq, false).await;
    same(&mut client, handed.await.expect_err("it was declined"));
}

#[tokio::test]
async fn a_death_during_hand_over_gives_the_connection_back() {
    // How far the worker gets with the first of two connections.
    for stage in ["unread", "received", "acknowledged"] {
        let (channel, mut fake, mut reports) = open(Limits::default());
        let (mut first, server) = connection();
        let one = channel.hand_over("k", None, deposit(server));
        let (mut second, server) = connection();
        let two = channel.hand_over("k", None, deposit(server));
        if stage != "unread" {
            let _ = fake.hear_handle().await;
        }
        if stage == "acknowledged" {
            fake.say(ACK).await;
        }
        drop(fake);
        assert_eq!(ended(&mut reports).await, End::Eof, "{stage}");
        same(&mut first, one.await.expect_err(stage));
        same(&mut second, two.await.expect_err(stage));

        let (mut third, server) = connection();
        same(
            &mut third,
            channel
                .hand_over("k", None, deposit(server))
                .await
                .expect_err("it has ended"),
        );
        let (mut given, socket) = connection();
        channel.give(
            1,
            "k",
            &Value::Null,
            (SOCKET, socket),
            HandleType::NetNative,
        );
        assert_released(&mut given);
    }
}

#[tokio::test]
async fn everything_said_before_the_end_is_reported() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (_client, server) = connection();
    let handed = channel.hand_over("k", None, deposit(server));
    let (seq, _theirs) = fake.hear_handle().await;
    channel.disconnect();
    fake.say(ACK).await;
    fake.accept(seq, true).await;
    for key in 0..200 {
        fake.say(&format!(
            "{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"{key}\"}}\n"
        ))
        .await;
    }
    fake.say("half a li").await;
    // It dies with `disconnect` unread, which resets the channel.
    drop(fake);
    for key in 0..200 {
        assert_eq!(
            next(&mut reports).await,
            Report::Closed {
                key: key.to_string()
            }
        );
    }
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Garbage)
    );
    assert_eq!(end(&mut reports).await, End::Eof);
    assert!(reports.recv().await.is_none());
    handed.await.expect("it was accepted before the end");
}

#[tokio::test]
async fn sockets_from_a_worker_are_acknowledged_and_closed() {
    let (_channel, mut fake, _reports) = open(Limits::default());
    for _ in 0..3 {
        let (mut client, server) = connection();
        let line = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":\"x\"}\n";
        passing::send(&fake.stream, line, Some(server.as_fd())).expect("it fits");
        drop(server);
        assert_eq!(
            fake.hear().await.expect("an answer")["cmd"],
            "NODE_HANDLE_ACK"
        );
        assert_released(&mut client);
    }
}

#[tokio::test]
async fn dropping_it_closes_it() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (mut client, server) = connection();
    let handed = channel.hand_over("k", None, deposit(server));
    let other = channel.clone();
    drop(channel);
    let _ = fake.hear_handle().await;
    drop(other);
    same(&mut client, handed.await.expect_err("it comes back"));
    assert_eq!(fake.hear().await, None);
    assert!(reports.recv().await.is_none(), "who closes it knows");
}
