//! The mixed load: what one turn on a keep-alive connection is, drawn at random, and its answers.
//! What happens to the connection between turns is the client's business.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, body, place};
use crate::connection::Cut;
use crate::kind::Mixed;
use crate::random::Random;
use crate::request::{BodyFraming, Request, Writer};
use crate::tally::Ticket;

/// The longest delay that is asked for, and the length and time of a short download.
const DELAY: Duration = Duration::from_millis(30);
const DOWNLOAD: (u64, Duration) = (20_000, Duration::from_millis(30));

impl Client {
    /// One request or one pipeline. Says whether all of it was answered rightly.
    pub(crate) async fn mix(&mut self, first: Ticket, kind: &Mixed) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut tickets = vec![first];
        let wants_pipeline = kind.pipeline >= 2 && self.random.up_to(3) == 0;
        if wants_pipeline {
            let more = 1 + self.random.up_to(kind.pipeline - 2);
            tickets.extend((0..more).map_while(|_| shared.tally.begin(self.class)));
        }
        let is_pipeline = tickets.len() > 1;
        let requests: Vec<Request> = tickets
            .iter()
            .map(|ticket| {
                if is_pipeline {
                    short(&shared.writer, &mut self.random, kind, ticket.number)
                } else {
                    any(&shared.writer, &mut self.random, kind, ticket.number)
                }
            })
            .collect();
        let cut = self.draw_cut(kind, &requests);

        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect(&tickets[0]).await {
                Some(connection) => connection,
                None => {
                    for ticket in &tickets[1..] {
                        shared.tally.unsent(ticket);
                    }
                    return false;
                }
            },
        };
        let opened = connection.opened;
        let mut done = 0;
        let result = connection
            .pipeline(
                &requests,
                cut,
                &shared.contract,
                shared.answer_timeout,
                |index, place, answer| {
                    shared
                        .tally
                        .answered(&tickets[index], opened, place, answer);
                    done = index + 1;
                },
            )
            .await;
        if let Some(last) = tickets[..done].last() {
            self.number = last.number;
        }
        match result {
            Ok(answer) => {
                self.connection = Some(connection);
                if answer.closes {
                    self.await_end().await;
                }
                true
            }
            Err(trouble) => {
                let place = place(&connection);
                let followers = trouble.of_follower();
                for (index, ticket) in tickets[done..].iter().enumerate() {
                    let trouble = if index == 0 { &trouble } else { &followers };
                    shared.tally.failed(ticket, place, trouble.clone());
                }
                false
            }
        }
    }

    fn draw_cut(&mut self, kind: &Mixed, requests: &[Request]) -> Option<Cut> {
        let chance = if requests.len() > 1 { 1 } else { 2 };
        if self.random.up_to(chance) > 0 {
            return None;
        }
        let length: usize = requests.iter().map(|request| request.bytes().count()).sum();
        let at = 1 + self.random.up_to((length - 2) as u64);
        Some(Cut {
            at: usize::try_from(at).unwrap_or(1),
            pause: self.random.duration(kind.cut),
        })
    }
}

/// Any single request.
fn any(writer: &Writer, random: &mut Random, kind: &Mixed, number: u64) -> Request {
    match random.up_to(7) {
        0 => {
            let delay = random.up_to(DELAY.as_millis() as u64);
            writer.get(number, &format!("/delay?ms={delay}"), false)
        }
        1 => writer.download(number, "/download?chunked=1", false, DOWNLOAD.0, DOWNLOAD.1),
        _ => short(writer, random, kind, number),
    }
}

/// What a pipeline is made of.
fn short(writer: &Writer, random: &mut Random, kind: &Mixed, number: u64) -> Request {
    let framing = match random.up_to(3) {
        0 => BodyFraming::Length,
        1 => BodyFraming::Chunked,
        _ => return writer.get(number, "/", false),
    };
    let body = body(random, kind.bytes);
    writer.post(number, "/echo", false, &body, framing, Duration::ZERO)
}
