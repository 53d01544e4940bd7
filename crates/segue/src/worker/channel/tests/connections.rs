//! Workers that hand connections over, as they should and otherwise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use segue_wire::node::{DrainState, Hello, Idle, Totals};

use super::super::*;
use super::fake::*;

/// A worker that has a preload script and a socket under the key 3.
async fn ready(limits: Limits) -> (Channel, Fake, Reports) {
    let (channel, mut fake, mut reports) = open(limits);
    fake.say(HELLO).await;
    let hello = Hello {
        version: 1,
        node: "20.20.2".into(),
        migrates: true,
    };
    assert_eq!(next(&mut reports).await, Report::Hello(hello));
    let (_, socket) = connection();
    channel.give(
        1,
        "3",
        &Value::Null,
        (SOCKET, socket),
        HandleType::NetNative,
    );
    drop(fake.hear_handle().await);
    fake.say(ACK).await;
    (channel, fake, reports)
}

async fn arrival(reports: &mut Reports) -> Arrival {
    match next(reports).await {
        Report::Connection(arrival) => arrival,
        other => panic!("{other:?}"),
    }
}

fn pass_many(fake: &Fake, line: &str, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let line = [io::IoSlice::new(line.as_bytes())];
    sendmsg(&fake.stream, &line, &mut control, SendFlags::empty()).expect("it fits");
}

async fn next_command(fake: &mut Fake) -> String {
    let line = fake.hear().await.expect("the channel is open");
    line["cmd"].as_str().expect("an internal message").into()
}

#[tokio::test]
async fn an_arrival_is_acknowledged_when_there_is_room() {
    let (_channel, mut fake, mut reports) = ready(Limits::default()).await;
    let (mut client, server) = connection();
    pass(&fake, CONNECTION, &server);
    drop(server);
    let arrival = arrival(&mut reports).await;
    assert_eq!(arrival.key, "3");
    assert_eq!(arrival.keep_alive, Duration::from_secs(5));
    // The answer to another message shows that this one has not been answered.
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":9}\n")
        .await;
    assert_eq!(next_command(&mut fake).await, "NODE_CLUSTER");
    drop(arrival.receipt);
    assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    same(&mut client, arrival.connection);
}

#[tokio::test]
async fn without_room_it_is_acknowledged_in_the_end() {
    let limits = Limits {
        held_back: Duration::from_millis(50),
        ..Limits::default()
    };
    let (_channel, mut fake, mut reports) = ready(limits).await;
    let (_client, server) = connection();
    pass(&fake, CONNECTION, &server);
    let arrival = arrival(&mut reports).await;
    assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    drop(arrival);
    // Not a second time: the next answer is one to something else.
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":9}\n")
        .await;
    assert_eq!(next_command(&mut fake).await, "NODE_CLUSTER");
}

#[tokio::test]
async fn messages_in_pieces_and_between_others_keep_their_connections() {
    let (_channel, mut fake, mut reports) = ready(Limits::default()).await;
    let (begin, rest) = CONNECTION.split_at(30);
    let (mut first, server) = connection();
    fake.say("{\"a\":1}\n\"b\"\n").await;
    pass(&fake, begin, &server);
    drop(server);
    fake.say(rest).await;
    let one = arrival(&mut reports).await;
    drop(one.receipt);
    assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");

    // One write after another, read as one or not; garbage before, a message after.
    let (mut second, server) = connection();
    fake.say("oops\n{\"a\":1}\n").await;
    pass(&fake, CONNECTION, &server);
    fake.say("\"ready\"\n").await;
    drop(server);
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Garbage)
    );
    let two = arrival(&mut reports).await;
    assert_eq!(next(&mut reports).await, Report::SaidReady);
    same(&mut first, one.connection);
    same(&mut second, two.connection);
}

#[tokio::test]
async fn descriptors_that_come_with_anything_else_are_closed() {
    let (_channel, mut fake, mut reports) = ready(Limits::default()).await;
    let others = [
        "{\"a\":1}\n",
        "garbage\n",
        "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n",
        "{\"cmd\":\"NODE_SEGUE\",\"act\":\"conn\",\"key\":\"3\",\"ka\":1}\n",
    ];
    for other in others {
        let (mut client, server) = connection();
        pass(&fake, other, &server);
        drop(server);
        // It comes back only after what was sent before it has been heard.
        let (_, server) = connection();
        pass(&fake, CONNECTION, &server);
        loop {
            match next(&mut reports).await {
                Report::Connection(_) => break,
                Report::Attention(Attention::Garbage) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_released(&mut client);
        if other.contains("NODE_HANDLE") {
            assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
        }
        assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    }
}

#[tokio::test]
async fn of_several_with_one_message_the_first_is_taken() {
    let (_channel, fake, mut reports) = ready(Limits::default()).await;
    let (mut first, one) = connection();
    let (mut second, two) = connection();
    let (mut third, three) = connection();
    pass_many(
        &fake,
        CONNECTION,
        &[one.as_fd(), two.as_fd(), three.as_fd()],
    );
    drop((one, two, three));
    let arrival = arrival(&mut reports).await;
    assert_released(&mut second);
    assert_released(&mut third);
    same(&mut first, arrival.connection);
}

#[tokio::test]
async fn what_is_no_connection_of_the_app_is_closed() {
    let (_channel, mut fake, mut reports) = ready(Limits::default()).await;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let (reader, _writer) = io::pipe().expect("a pipe");
    let file = tempfile::tempfile().expect("a file");
    for descriptor in [listener.as_fd(), reader.as_fd(), file.as_fd()] {
        pass(&fake, CONNECTION, descriptor);
        assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    }
    let (mut client, server) = connection();
    pass(
        &fake,
        &CONNECTION.replace("\"key\":\"3\"", "\"key\":\"4\""),
        &server,
    );
    drop(server);
    assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    assert_released(&mut client);
    // A message whose connection did not arrive is sent again.
    fake.say(CONNECTION).await;
    assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_NACK");
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::NoConnection)
    );
    fake.say(ONLINE).await;
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn without_a_preload_nothing_is_taken() {
    let (channel, mut fake, mut reports) = open(Limits::default());
    let (_, socket) = connection();
    channel.give(
        1,
        "3",
        &Value::Null,
        (SOCKET, socket),
        HandleType::NetNative,
    );
    drop(fake.hear_handle().await);
    fake.say(ACK).await;
    let (mut client, server) = connection();
    pass(&fake, CONNECTION, &server);
    drop(server);
    assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    assert_released(&mut client);
    fake.say("{\"cmd\":\"NODE_SEGUE\",\"act\":\"drained\"}\n")
        .await;
    fake.say(ONLINE).await;
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn a_death_in_the_middle_keeps_what_arrived_and_closes_the_rest() {
    let (_channel, fake, mut reports) = ready(Limits::default()).await;
    let (mut first, server) = connection();
    pass(&fake, CONNECTION, &server);
    drop(server);
    let (mut second, server) = connection();
    pass(&fake, CONNECTION.split_at(40).0, &server);
    drop((server, fake));
    let arrival = arrival(&mut reports).await;
    assert_eq!(
        next(&mut reports).await,
        Report::Attention(Attention::Garbage)
    );
    assert_eq!(end(&mut reports).await, End::Eof);
    assert_released(&mut second);
    same(&mut first, arrival.connection);
}

#[tokio::test]
async fn one_that_does_not_wait_for_its_turn_loses_nothing() {
    let (_channel, mut fake, mut reports) = ready(Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let (client, server) = connection();
        pass(&fake, CONNECTION, &server);
        clients.push(client);
    }
    for mut client in clients {
        let arrival = arrival(&mut reports).await;
        same(&mut client, arrival.connection);
    }
    for _ in 0..10 {
        assert_eq!(next_command(&mut fake).await, "NODE_HANDLE_ACK");
    }
}

#[tokio::test]
async fn a_broken_channel_leaves_the_worker_its_connections() {
    let (channel, fake, mut reports) = ready(hasty()).await;
    let (_client, server) = connection();
    let _handed = channel.hand_over("3", None, deposit(server));
    assert!(matches!(ended(&mut reports).await, End::Broken(_)));
    let (mut client, server) = connection();
    pass(&fake, CONNECTION, &server);
    assert!(is_held(&mut client));
    drop(server);
    drop(channel);
    // Our end closes; what lay in it was closed too.
    assert!(reports.recv().await.is_none());
}

#[tokio::test]
async fn a_drain_is_ordered_and_followed() {
    let (channel, mut fake, mut reports) = ready(Limits::default()).await;
    channel.drain(Drain {
        accept: false,
        idle: Idle::Close,
        stall: 1,
        deadline: 2,
        websocket_after: 3,
        websocket_code: 1012,
    });
    let order = fake.hear().await.expect("an order");
    assert_eq!(
        (&order["act"], &order["idle"]),
        (&"drain".into(), &"close".into())
    );
    channel.tell_app("shutdown");
    assert_eq!(fake.hear().await.expect("a message"), "shutdown");

    let state = "{\"cmd\":\"NODE_SEGUE\",\"act\":\"state\",\"busy\":3}\n";
    fake.say(&state.repeat(3)).await;
    let drained = "{\"cmd\":\"NODE_SEGUE\",\"act\":\"drained\",\"moved\":2}\n";
    fake.say(&drained.repeat(2)).await;
    fake.say(ONLINE).await;
    let busy = DrainState {
        busy: 3,
        ..DrainState::default()
    };
    assert_eq!(next(&mut reports).await, Report::State(busy));
    let totals = Totals {
        moved: 2,
        ..Totals::default()
    };
    assert_eq!(next(&mut reports).await, Report::Drained(totals));
    assert_eq!(next(&mut reports).await, Report::Online);
}

#[tokio::test]
async fn a_worker_that_serves_on_knows_that_a_connection_was_served_before() {
    let (channel, mut fake, _reports) = ready(Limits::default()).await;
    for (keep_alive, expected) in [
        (None, Value::Null),
        (Some(Duration::from_secs(5)), 5000.into()),
    ] {
        let (_client, server) = connection();
        let handed = channel.hand_over("3", keep_alive, deposit(server));
        let line = fake.hear().await.expect("an order");
        fake.sockets.clear();
        assert_eq!(line["msg"]["segue"]["ka"], expected);
        fake.say(ACK).await;
        fake.accept(line["msg"]["seq"].as_u64().expect("a number"), true)
            .await;
        handed.await.expect("it was accepted");
    }
}
