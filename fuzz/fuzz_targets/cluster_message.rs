//! Any line is read without a panic; what is JSON is a message, and what is answered is one line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_wire::node::{
    Decoder, Drain, HandleType, Idle, Line, Message, Order, Said, TicketKeys,
};

fuzz_target!(|line: &[u8]| {
    let message = Message::read(line);
    if serde_json::from_slice::<serde_json::Value>(line).is_ok() {
        assert!(message.is_some());
    }
    let query = match message {
        Some(Message::QueryServer(query)) => query,
        Some(Message::Handle {
            passed: Some(passed),
            ..
        }) => {
            return check(&Order::NewConnection {
                seq: 1,
                key: &passed.key,
                keep_alive: Some(passed.keep_alive),
            });
        }
        Some(Message::Segue(said)) => return check_said(&said),
        _ => return,
    };
    let data = TicketKeys::default().answer(&query.data);
    assert_eq!(data, query.data);
    let key = query.place.address.as_deref().unwrap_or_default();
    let (seq, ack) = (query.index, query.seq);
    check(&Order::Give {
        seq,
        ack,
        key,
        data: &data,
        kind: HandleType::NetNative,
    });
    check(&Order::Deny {
        seq,
        ack,
        key,
        data: &data,
        errno: 98,
    });
    check(&Order::NewConnection {
        seq,
        key,
        keep_alive: None,
    });
    check(&Order::Say(key));
});

/// Numbers add up without overflow, texts are short and can be shown.
fn check_said(said: &Said) {
    let is_fit = |text: &String| text.len() <= 800 && !text.contains(char::is_control);
    match said {
        Said::Hello(hello) => assert!(is_fit(&hello.node)),
        Said::Bypass(bypass) => assert!(is_fit(&bypass.place)),
        Said::State(state) => {
            assert!(state.connections() >= state.busy);
            check(&Order::Drain(Drain {
                accept: true,
                idle: Idle::Migrate,
                stall: state.idle,
                deadline: state.oldest,
                websocket_after: state.totals.cut,
                websocket_code: 1012,
            }));
        }
        Said::Drained(_) | Said::Counted(_) | Said::Pong { .. } | Said::Synced { .. } => {}
    }
}

fn check(order: &Order<'_>) {
    let mut lines = Vec::new();
    Decoder::default().feed(&order.line(), |line| lines.push(line));
    assert!(matches!(lines.as_slice(), [Line::Message(_)]), "{lines:?}");
}
