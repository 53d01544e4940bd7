//! What a successor makes of a channel, case by case.

use rustix::net::sockopt::set_socket_send_buffer_size;
use serde_json::json;
use tokio::task::yield_now;

use super::super::ledger::Broken;
use super::super::succession::LONGEST_PART;
use super::super::*;
use super::fake::*;
use super::seat::{Seat, name_of, sync};

/// A supervisor ends right after it has written down that it is about to send, and right after it
/// has sent.
const BEFORE_SENDING: usize = 1;
const AFTER_SENDING: usize = 2;

#[tokio::test]
async fn a_line_is_heard_once_wherever_it_is() {
    // Steps of the first supervisor, whether the line is then in the socket, and in the state.
    let cases = [
        (0, true, false),
        (1, true, true),
        (2, false, true),
        (3, false, true),
    ];
    for (steps, in_socket, in_state) in cases {
        let (mut seat, mut fake) = Seat::new();
        seat.lease.grant(Some(steps));
        fake.say(ONLINE).await;
        seat.end_within(steps, |_| {}).await;
        assert_eq!(seat.is_in_socket(), in_socket, "{steps}");
        assert_eq!(seat.record()["inbox"].is_object(), in_state, "{steps}");
        seat.succeed();
        assert_eq!(seat.hear().await, [Report::Online], "{steps}");
        fake.say("\"ready\"\n").await;
        assert_eq!(seat.hear().await, [Report::SaidReady], "{steps}");
    }
}

#[tokio::test]
async fn lines_that_have_been_heard_are_not_heard_again() {
    let (mut seat, mut fake) = Seat::new();
    fake.say(&format!("{ONLINE}\"ready\"\n{QUERY}")).await;
    let mut lines = seat.lines().await;
    assert_eq!(lines.next(), Some(vec![Report::Online]));
    seat.journal.commit();
    // Heard, and not committed with what it has led to.
    assert_eq!(lines.next(), Some(vec![Report::SaidReady]));
    seat.succeed();
    assert!(matches!(
        seat.hear().await[..],
        [Report::SaidReady, Report::Query(_)]
    ));
}

#[tokio::test]
async fn the_rest_of_a_line_comes_to_the_successor() {
    let (mut seat, mut fake) = Seat::new();
    for piece in ["{\"cmd\":\"NODE_CLUS", "TER\",\"act\":\"onl"] {
        fake.say(piece).await;
        assert_eq!(seat.hear().await, []);
        seat.succeed();
    }
    fake.say("ine\"}\n\"ready\"\n").await;
    assert_eq!(seat.hear().await, [Report::Online, Report::SaidReady]);

    // Too much to be written down: what is left of it is passed over.
    let long = "x".repeat(3 * LONGEST_PART);
    fake.say(&format!("\"{long}")).await;
    while seat.record()["part"] != "lost" {
        assert_eq!(seat.hear().await, []);
    }
    seat.succeed();
    fake.say(&format!("\"\n{QUERY}")).await;
    let mut reports = Vec::new();
    while reports.len() < 2 {
        reports.append(&mut seat.hear().await);
    }
    assert!(matches!(
        reports[..],
        [Report::Attention(Attention::Oversized), Report::Query(_)]
    ));
}

fn is_partly_sent(seat: &Seat) -> bool {
    let record = seat.record();
    let piece = &record["ledger"]["unwritten"][0];
    piece["written"].as_u64() > Some(0) && piece["is_tried"] == false
}

#[tokio::test]
async fn a_line_that_was_sent_in_part_is_sent_to_its_end() {
    for is_preloaded in [false, true] {
        let (mut seat, mut fake) = Seat::ready(is_preloaded).await;
        set_socket_send_buffer_size(&seat.socket, 32 << 10).expect("it is open");
        let long = "x".repeat(200 << 10);
        seat.channel.deny(2, &long, &Value::Null, 98);
        seat.channel.tell_app("end");
        while !is_partly_sent(&seat) {
            yield_now().await;
        }
        for _ in 0..2 {
            seat.succeed();
            yield_now().await;
        }
        let line = fake.hear().await.expect("the channel is open");
        assert_eq!((&line["ack"], &line["key"]), (&2.into(), &long.into()));
        assert_eq!(fake.hear().await, Some("end".into()));
    }
}

#[tokio::test]
async fn a_long_line_in_doubt_breaks_the_channel() {
    // What comes next would be taken for the rest of it, and that ends a worker.
    for steps in [BEFORE_SENDING, AFTER_SENDING] {
        let (mut seat, fake) = Seat::ready(true).await;
        set_socket_send_buffer_size(&seat.socket, 32 << 10).expect("it is open");
        let long = "x".repeat(200 << 10);
        seat.end_within(steps, |seat| seat.channel.deny(2, &long, &Value::Null, 98))
            .await;
        seat.succeed();
        assert!(matches!(seat.end().await, End::Broken(Broken::Torn(_))));
        drop(fake);
    }
}

/// What a supervisor is about to say when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Give,
    Offer,
    Deny,
    Acknowledge,
    TellApp,
}

impl Last {
    fn name(self) -> &'static str {
        match self {
            Self::Give | Self::Deny => "NODE_CLUSTER",
            Self::Offer => "newconn",
            Self::Acknowledge => "NODE_HANDLE_ACK",
            Self::TellApp => "end",
        }
    }
}

/// A supervisor ends when it has sent this, or is about to. Its successor is answered as a worker
/// answers, and says this again or not.
async fn check_doubt(last: Last, steps: usize, is_preloaded: bool, is_said_again: bool) {
    let context = format!("{last:?}, {steps}, {is_preloaded}");
    let is_sent = steps == AFTER_SENDING;
    let (mut seat, mut fake) = Seat::ready(is_preloaded).await;
    let (mut client, deposit) = seat.deposit(1);
    let mut receipt = None;
    if last == Last::Acknowledge {
        let (_, server) = connection();
        pass(&fake, CONNECTION, server);
        receipt = Some(seat.arrival().await.receipt);
    }
    let (client, deposit) = (&mut client, &mut Some(deposit));
    seat.end_within(steps, |seat| match last {
        Last::Give => seat.give(2),
        Last::Offer => seat.offer(deposit.take().expect("one of them")),
        Last::Deny => seat.channel.deny(2, "3", &Value::Null, 98),
        Last::Acknowledge => drop(receipt),
        Last::TellApp => seat.channel.tell_app("end"),
    })
    .await;
    seat.succeed();
    let mut heard = Vec::new();
    if is_preloaded {
        let awaits = last == Last::Acknowledge && !is_sent;
        heard = seat.until(sync(&mut fake, awaits)).await;
        assert_eq!(heard.pop().as_deref(), Some("sync"), "{context}");
    }
    fake.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":9}\n")
        .await;
    heard.append(&mut seat.told(&mut fake).await);
    heard.retain(|name| name == last.name());
    if matches!(last, Last::Give | Last::Deny) {
        // The answer to the question above has the same name.
        heard.pop();
    }
    let count = usize::from(is_sent) + usize::from(is_said_again);
    assert_eq!(heard.len(), count, "{context}: {heard:?}");
    if last == Last::Offer {
        assert!(is_held(client), "{context}");
    }
}

#[tokio::test]
async fn a_preload_resolves_the_doubt() {
    use Last::*;
    // Whether it is said again where it had been sent, and where it had not.
    for (last, if_sent, if_not_sent) in [
        (Give, false, true),
        (Offer, false, true),
        (Acknowledge, false, true),
        // Twice does no harm.
        (Deny, true, true),
        // Nothing shows whether the app has heard it.
        (TellApp, false, false),
    ] {
        check_doubt(last, AFTER_SENDING, true, if_sent).await;
        check_doubt(last, BEFORE_SENDING, true, if_not_sent).await;
    }
}

#[tokio::test]
async fn without_a_preload_the_likely_is_assumed() {
    use Last::*;
    for (last, is_said_again) in [(Give, true), (Offer, false), (Deny, true), (TellApp, false)] {
        check_doubt(last, AFTER_SENDING, false, is_said_again).await;
        check_doubt(last, BEFORE_SENDING, false, is_said_again).await;
    }
}

#[tokio::test]
async fn doubt_stays_until_it_is_resolved() {
    let (mut seat, mut fake) = Seat::ready(true).await;
    let (mut client, deposit) = seat.deposit(1);
    seat.end_within(BEFORE_SENDING, |seat| seat.offer(deposit))
        .await;
    for _ in 0..3 {
        seat.succeed();
        let line = fake.hear().await.expect("a question");
        assert_eq!(line["act"], "sync");
    }
    // Answers to questions of supervisors that are gone: said before the last one has asked.
    for number in [0, 1, 2] {
        let answer = json!({"cmd": "NODE_HANDLE_ACK", "segue": "synced", "n": number,
            "awaits": false});
        fake.say(&format!("{answer}\n{ONLINE}")).await;
        let _ = seat.hear().await;
    }
    assert_eq!(seat.record()["ledger"]["unwritten"][0]["is_tried"], true);
    seat.succeed();
    seat.until(sync(&mut fake, false)).await;
    let (seq, theirs) = seat.until(fake.hear_handle()).await;
    drop(theirs);
    fake.say(ACK).await;
    fake.accept(seq, true).await;
    seat.hear().await;
    seat.verdict().await.expect("it is accepted");
    assert_released(&mut client);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_say_what_it_has_read_is_waited_for_5_s() {
    use Last::*;
    for (last, is_said_again) in [(Give, true), (Offer, false), (Deny, true), (TellApp, false)] {
        let (mut seat, mut fake) = Seat::ready(true).await;
        let (_client, deposit) = seat.deposit(1);
        let deposit = &mut Some(deposit);
        seat.end_within(BEFORE_SENDING, |seat| match last {
            Give => seat.give(2),
            Offer => seat.offer(deposit.take().expect("one of them")),
            Deny => seat.channel.deny(2, "3", &Value::Null, 98),
            TellApp | Acknowledge => seat.channel.tell_app("end"),
        })
        .await;
        seat.succeed();
        let began = Instant::now();
        let mut heard = seat.told(&mut fake).await;
        assert_eq!(heard.remove(0), "sync");
        // Its deadline is of the system clock, which goes on.
        assert!(
            (4_900..6_000).contains(&began.elapsed().as_millis()),
            "{last:?}"
        );
        let expected: &[&str] = if is_said_again { &[last.name()] } else { &[] };
        assert_eq!(heard, expected, "{last:?}");
    }
}

#[tokio::test]
async fn a_question_without_an_answer_gets_one() {
    let (mut seat, mut fake) = Seat::new();
    fake.say(&QUERY.repeat(1000)).await;
    let mut questions = 0;
    while questions < 1000 {
        questions += seat.hear().await.len();
    }
    seat.succeed();
    seat.give(1);
    assert_eq!(fake.hear_handle().await.0, 1);
    fake.say(ACK).await;
    // 999 are left of those that it had asked before.
    fake.say(&QUERY.repeat(26)).await;
    assert_eq!(seat.end().await, End::Broken(Broken::Insatiable(1025)));
}

/// How far a worker has come with a connection that it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offering {
    /// Another one is under way.
    Waiting,
    Received,
    Acknowledged,
}

/// A supervisor ends while a connection is on offer; `accepted` is what becomes of it, `None` that
/// the worker dies. Either before or after the next one takes over.
async fn check_offer(stage: Offering, accepted: Option<bool>, is_alone: bool) {
    let context = format!("{stage:?}, {accepted:?}, {is_alone}");
    let (mut seat, mut fake) = Seat::ready(true).await;
    if stage == Offering::Waiting {
        seat.give(2);
    }
    let (mut client, deposit) = seat.deposit(1);
    seat.offer(deposit);
    let (mut seq, theirs) = fake.hear_handle().await;
    drop(theirs);
    if stage == Offering::Acknowledged {
        fake.say(ACK).await;
        assert_eq!(seat.hear().await, [], "{context}");
    }
    if !is_alone {
        seat.succeed();
    }
    if let Some(accepted) = accepted {
        match stage {
            Offering::Acknowledged => {}
            Offering::Received => fake.say(ACK).await,
            Offering::Waiting => {
                fake.say(ACK).await;
                if is_alone {
                    seat.succeed();
                }
                seat.hear().await;
                let theirs;
                (seq, theirs) = fake.hear_handle().await;
                drop(theirs);
                fake.say(ACK).await;
            }
        }
        fake.accept(seq, accepted).await;
    } else {
        drop(fake);
    }
    if is_alone && (stage != Offering::Waiting || accepted.is_none()) {
        seat.succeed();
    }
    let verdict = seat.verdict().await;
    match (accepted, verdict) {
        (Some(true), Ok(())) => assert_released(&mut client),
        (Some(false) | None, Err(deposit)) => same(&mut client, deposit),
        (_, verdict) => panic!("{context}: {verdict:?}"),
    }
}

#[tokio::test]
async fn an_offer_is_decided_whoever_made_it() {
    for stage in [
        Offering::Waiting,
        Offering::Received,
        Offering::Acknowledged,
    ] {
        for accepted in [Some(true), Some(false), None] {
            for is_alone in [false, true] {
                check_offer(stage, accepted, is_alone).await;
            }
        }
    }
}

#[tokio::test]
async fn a_descriptor_that_the_worker_missed_is_sent_again_once() {
    // Refused after the supervisor has ended, which was about to note that it had sent it, or had.
    for is_in_doubt in [true, false] {
        let (mut seat, mut fake) = Seat::ready(true).await;
        let (_client, deposit) = seat.deposit(1);
        match is_in_doubt {
            true => {
                seat.end_within(AFTER_SENDING, |seat| seat.offer(deposit))
                    .await
            }
            false => seat.offer(deposit),
        }
        let (seq, theirs) = fake.hear_handle().await;
        drop(theirs);
        fake.say(NACK).await;
        seat.succeed();
        if is_in_doubt {
            seat.until(sync(&mut fake, false)).await;
        }
        assert_eq!(seat.until(fake.hear_handle()).await.0, seq);
        fake.say(ACK).await;
        assert_eq!(seat.told(&mut fake).await, [""; 0]);
    }
}

#[tokio::test]
async fn an_acknowledgement_that_has_come_is_not_repeated_for_the_next_connection() {
    let (mut seat, mut fake) = Seat::ready(true).await;
    let (_first, server) = connection();
    pass(&fake, CONNECTION, server);
    let one = seat.arrival().await;
    seat.end_within(AFTER_SENDING, |_| drop(one)).await;
    assert_eq!(
        name_of(&fake.hear().await.expect("an answer")),
        "NODE_HANDLE_ACK"
    );
    // It hands the next one over before it reads the question, and awaits an answer to that.
    let (_second, server) = connection();
    pass(&fake, CONNECTION, server);
    seat.succeed();
    let two = seat.arrival().await;
    seat.until(sync(&mut fake, true)).await;
    drop(two);
    assert_eq!(seat.told(&mut fake).await, ["NODE_HANDLE_ACK"]);
}

#[tokio::test]
async fn what_is_owed_to_a_worker_is_given_at_once() {
    let (mut seat, mut fake) = Seat::ready(true).await;
    let (_client, server) = connection();
    pass(&fake, CONNECTION, server);
    let reports = seat.hear().await;
    assert!(matches!(reports[..], [Report::Connection(_)]));
    // There was no room for it yet.
    seat.succeed();
    drop(reports);
    assert_eq!(seat.told(&mut fake).await, ["NODE_HANDLE_ACK"]);
}

#[tokio::test]
async fn a_connection_in_the_middle_of_its_message_is_kept() {
    for cut in [1, 30, CONNECTION.len() - 1] {
        let (mut seat, mut fake) = Seat::ready(true).await;
        let (begin, rest) = CONNECTION.split_at(cut);
        let (mut client, server) = connection();
        pass(&fake, begin, &server);
        drop(server);
        assert_eq!(seat.hear().await, []);
        seat.succeed();
        assert!(seat.cupboard.names().contains(&"worker/pending".to_owned()));
        fake.say(rest).await;
        let mut reports = seat.hear().await;
        let Some(Report::Connection(arrival)) = reports.pop() else {
            panic!("{reports:?}")
        };
        same(&mut client, &arrival.connection);
        drop(arrival);
        // Whoever has it by now may close it.
        assert_eq!(seat.told(&mut fake).await, ["NODE_HANDLE_ACK"]);
        assert!(!seat.cupboard.names().contains(&"worker/pending".to_owned()));
        assert_released(&mut client);
    }
}

#[tokio::test]
async fn a_broken_channel_stays_broken() {
    let (mut seat, mut fake) = Seat::ready(true).await;
    let (mut client, deposit) = seat.deposit(1);
    seat.offer(deposit);
    let (seq, theirs) = fake.hear_handle().await;
    drop(theirs);
    fake.say(&QUERY.repeat(1026)).await;
    assert!(matches!(seat.end().await, End::Broken(_)));
    seat.journal.commit();
    seat.succeed();
    // It hears only what becomes of what the worker has.
    fake.say(ONLINE).await;
    fake.say(ACK).await;
    fake.accept(seq, true).await;
    let reports = seat.heard.recv();
    let offered = std::mem::take(&mut seat.offered).remove(0);
    tokio::select! {
        verdict = offered.verdict => verdict.expect("it is decided").expect("it is accepted"),
        news = reports => panic!("{news:?}"),
    }
    assert_released(&mut client);
    drop(fake);
    assert_eq!(seat.end().await, End::Eof);
}

#[tokio::test]
async fn a_connection_that_nobody_holds_any_more_is_not_on_offer() {
    let (mut seat, mut fake) = Seat::ready(true).await;
    let (_client, deposit) = seat.deposit(1);
    seat.offer(deposit);
    let (seq, theirs) = fake.hear_handle().await;
    drop(theirs);
    // It was accepted, and its supervisor has ended before that was written down.
    seat.lease.end();
    seat.cupboard.remove("connection/1");
    fake.say(ACK).await;
    fake.accept(seq, true).await;
    seat.succeed();
    assert!(seat.offered.is_empty());
    fake.say(ONLINE).await;
    while seat.hear().await.last() != Some(&Report::Online) {}
}
