//! Any line is read without a panic; what is JSON is a message, and what is answered is one line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_wire::node::{Decoder, HandleType, Line, Message, Order, TicketKeys};

fuzz_target!(|line: &[u8]| {
    let message = Message::read(line);
    if serde_json::from_slice::<serde_json::Value>(line).is_ok() {
        assert!(message.is_some());
    }
    let Some(Message::QueryServer(query)) = message else {
        return;
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
    check(&Order::NewConnection { seq, key });
});

fn check(order: &Order<'_>) {
    let mut lines = Vec::new();
    Decoder::default().feed(&order.line(), |line| lines.push(line));
    assert!(matches!(lines.as_slice(), [Line::Message(_)]), "{lines:?}");
}
