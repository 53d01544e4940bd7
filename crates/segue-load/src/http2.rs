//! The HTTP/2 load: batches of concurrent streams on one connection until its end. A stream that the
//! server says it has not begun is counted apart; everything else that is not a right answer is a failure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Client, body, place, stopped};
use crate::connection::Answer;
use crate::contract::Contract;
use crate::failure::{FailureKind, Trouble};
use crate::kind::Http2;
use crate::random::Random;
use crate::request::{BodyFraming, Request, Writer, hex};
use crate::response::Head;
use crate::tally::{Closing, Place, Ticket};
use crate::watched::{Notes, Watched};

/// A connection with what drives it.
#[derive(Debug)]
struct Session {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    notes: Notes,
}

// Whatever happens to the client, the connection does not outlive it.
impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A stream that was opened.
struct Asked {
    ticket: Ticket,
    request: Request,
    stream: u32,
    response: ResponseFuture,
}

impl Client {
    /// One connection, with its batches until somebody ends it. Says whether all went well.
    pub(crate) async fn multiplex(&mut self, first: Ticket, kind: &Http2) -> bool {
        let shared = Arc::clone(&self.shared);
        let limit = shared.answer_timeout;
        let Some(connection) = self.connect(&first).await else {
            return false;
        };
        let opened = connection.opened;
        let mut place = place(&connection);
        let (stream, _) = connection.into_parts();
        let (watched, notes) = Watched::new(stream);
        let (sender, connection) = match timeout(limit, h2::client::handshake(watched)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => {
                shared.tally.failed(&first, place, trouble(&error, false));
                return false;
            }
            Err(_) => {
                let detail = format!("no HTTP/2 after {limit:?}");
                let trouble = Trouble::new(FailureKind::Timeout, detail);
                shared.tally.failed(&first, place, trouble);
                return false;
            }
        };
        let mut session = Session {
            sender,
            driver: tokio::spawn(connection),
            notes,
        };

        let mut tickets = vec![first];
        let mut is_right = true;
        loop {
            let more = self.random.up_to(kind.streams.saturating_sub(1));
            tickets.extend((0..more).map_while(|_| shared.tally.begin(self.class)));
            let mut asked = Vec::new();
            for ticket in tickets.drain(..) {
                self.number = ticket.number;
                let request = draw(&shared.writer, &mut self.random, kind, ticket.number);
                match session.open(&shared.writer.host, &request, limit).await {
                    Some((stream, response)) => asked.push(Asked {
                        ticket,
                        request,
                        stream,
                        response,
                    }),
                    None => shared.tally.unsent(&ticket),
                }
            }
            for asked in asked {
                let received = receive(asked.response, &asked.request, &shared.contract, place);
                let result = match timeout(limit, received).await {
                    Ok(result) => result,
                    Err(_) => Err(Trouble::new(
                        FailureKind::Timeout,
                        format!("no whole answer after {limit:?}"),
                    )),
                };
                match result {
                    Ok(answer) => {
                        shared.tally.answered(&asked.ticket, opened, place, &answer);
                        place.answered_before += 1;
                    }
                    Err(_) if session.notes.read().has_refused(asked.stream) => {
                        shared.tally.refused(&asked.ticket);
                    }
                    Err(trouble) => {
                        shared.tally.failed(&asked.ticket, place, trouble);
                        is_right = false;
                    }
                }
            }
            if !is_right || session.is_over() {
                break;
            }
            let pause = self.random.duration(kind.pause);
            tokio::select! {
                () = sleep(pause) => {}
                () = stopped(&mut self.stop) => {}
            }
            if session.is_over() {
                break;
            }
            let next = if *self.stop.borrow() {
                None
            } else {
                shared.tally.begin(self.class)
            };
            match next {
                Some(next) => tickets.push(next),
                None => {
                    shared.tally.closed(self.class, Closing::Client);
                    return is_right;
                }
            }
        }
        let closing = if session.notes.read().is_leaving() {
            Closing::Announced
        } else {
            Closing::Unannounced
        };
        shared.tally.closed(self.class, closing);
        is_right
    }
}

impl Session {
    /// Opens a stream and sends the whole request; `None` if the connection takes no more streams.
    async fn open(
        &mut self,
        host: &str,
        request: &Request,
        limit: Duration,
    ) -> Option<(u32, ResponseFuture)> {
        if self.is_over() {
            return None;
        }
        let ready = self.sender.clone().ready();
        self.sender = timeout(limit, ready).await.ok()?.ok()?;
        let method = if request.expected.sent.is_some() {
            http::Method::POST
        } else {
            http::Method::GET
        };
        let has_body = method == http::Method::POST;
        let head = http::Request::builder()
            .method(method)
            .uri(format!("http://{host}{}", request.target()))
            .header("x-segue-n", request.number)
            .body(())
            .ok()?;
        let (response, mut body) = self.sender.send_request(head, !has_body).ok()?;
        if has_body {
            // An error here shows in the response.
            let _ = body.send_data(request.pieces.concat().into(), true);
        }
        Some((response.stream_id().as_u32(), response))
    }

    fn is_over(&self) -> bool {
        self.notes.read().is_leaving() || self.driver.is_finished()
    }
}

async fn receive(
    response: ResponseFuture,
    request: &Request,
    contract: &Contract,
    place: Place,
) -> Result<Answer, Trouble> {
    let response = response.await.map_err(|error| trouble(&error, false))?;
    let (parts, mut body) = response.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect();
    let head = Head::of_fields(parts.status.as_u16(), fields);
    let mut hash = Sha256::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| trouble(&error, true))?;
        hash.update(&data);
        // Fails only when the stream is over, which the next read says.
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await;
    trailers.map_err(|error| trouble(&error, true))?;
    let hash = hex(&hash.finalize());
    request
        .check(&head, Some(&hash), contract)
        .and_then(|()| contract.check_port(&head, place.local_port))
        .map_err(|detail| Trouble::new(FailureKind::WrongAnswer, detail))?;
    Ok(Answer {
        version: head.field("x-segue-version").map(str::to_owned),
        worker: head.field("x-segue-worker").map(str::to_owned),
        closes: false,
    })
}

/// GET or POST.
fn draw(writer: &Writer, random: &mut Random, kind: &Http2, number: u64) -> Request {
    if random.up_to(1) == 0 {
        return writer.get(number, "/", false);
    }
    let body = body(random, kind.bytes);
    let framing = BodyFraming::Length;
    writer.post(number, "/echo", false, &body, framing, Duration::ZERO)
}

fn trouble(error: &h2::Error, in_answer: bool) -> Trouble {
    let kind = match (error.is_io(), error.is_remote(), in_answer) {
        (true, _, false) => FailureKind::EofBeforeAnswer,
        (true, _, true) => FailureKind::EofInAnswer,
        (false, true, false) => FailureKind::ResetBeforeAnswer,
        (false, true, true) => FailureKind::ResetInAnswer,
        (false, false, _) => FailureKind::BadSyntax,
    };
    Trouble::new(kind, format!("HTTP/2: {error}"))
}
