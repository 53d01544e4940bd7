//! One client: asks, waits, asks again, in the way of its kind of load. It never repeats a
//! request; after a failure the next one is a new request on a new connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::connection::{Connection, CutOutcome, Idle};
use crate::contract::Contract;
use crate::failure::Trouble;
use crate::kind::{Framing, KeepAlive, Kind, Post, Think};
use crate::random::Random;
use crate::request::{BodyFraming, Request, Writer};
use crate::tally::{Closing, Place, Tally, Ticket};
use crate::target::Target;

/// How long a server that announced the end of a connection is given to end it.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) target: Target,
    pub(crate) contract: Contract,
    pub(crate) writer: Writer,
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) pause_after_failure: Duration,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) class: usize,
    kind: Kind,
    pub(crate) random: Random,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) connection: Option<Connection>,
    /// The last request, and how many there have been.
    pub(crate) number: u64,
    turns: u64,
}

impl Client {
    pub(crate) fn new(
        shared: Arc<Shared>,
        class: usize,
        kind: Kind,
        random: Random,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shared,
            class,
            kind,
            random,
            stop,
            connection: None,
            number: 0,
            turns: 0,
        }
    }

    /// Runs until it is told to stop or the run's number of requests is reached. What it has begun it ends.
    pub(crate) async fn run(mut self) {
        while !*self.stop.borrow() {
            self.look().await;
            let Some(ticket) = self.shared.tally.begin(self.class) else {
                break;
            };
            self.number = ticket.number;
            self.turns += 1;
            let is_right = self.turn(ticket).await;
            if !is_right {
                self.pause(self.shared.pause_after_failure).await;
            }
            self.rest().await;
        }
        self.close().await;
    }

    /// Sees what the server has done to the idle connection.
    async fn look(&mut self) {
        if let Some(connection) = &mut self.connection {
            let idle = connection.look().await;
            self.notice(idle);
        }
    }

    /// What this kind of load does with one number. Says whether all went well.
    async fn turn(&mut self, ticket: Ticket) -> bool {
        let shared = Arc::clone(&self.shared);
        let writer = &shared.writer;
        let number = ticket.number;
        match &self.kind {
            Kind::Fresh(kind) => {
                let closes = kind.asks_to_close;
                let request = writer.get(number, &kind.path, closes);
                self.ask(&ticket, &request, closes).await
            }
            Kind::KeepAlive(KeepAlive { path, .. }) | Kind::Think(Think { path, .. }) => {
                let request = writer.get(number, path, false);
                self.ask(&ticket, &request, false).await
            }
            Kind::Download(kind) => {
                let request = writer.download(number, &kind.path, true, kind.bytes, kind.over);
                self.ask(&ticket, &request, true).await
            }
            Kind::Events(kind) => {
                let request = writer.events(number, &kind.path, kind.count, kind.over);
                self.ask(&ticket, &request, true).await
            }
            Kind::Upload(kind) => {
                let body = self
                    .random
                    .bytes(usize::try_from(kind.bytes).unwrap_or(usize::MAX));
                let framing = framing(kind.framing, self.turns);
                let request = writer.post(number, &kind.path, true, &body, framing, kind.over);
                self.ask(&ticket, &request, true).await
            }
            Kind::Post(kind) => {
                let closes = kind.fresh;
                let request = post(writer, kind, &mut self.random, self.turns, number);
                self.ask(&ticket, &request, closes).await
            }
            Kind::Cut(kind) => {
                let body = body(&mut self.random, kind.bytes);
                let framing = framing(Framing::Alternating, self.turns);
                let request = writer.post(number, &kind.path, true, &body, framing, Duration::ZERO);
                self.cut(&ticket, &request).await
            }
            Kind::Mixed(kind) => {
                let kind = kind.clone();
                self.mix(ticket, &kind).await
            }
            Kind::WebSocket(kind) => {
                let kind = kind.clone();
                self.converse(ticket, &kind).await
            }
            #[cfg(feature = "http2")]
            Kind::Http2(kind) => {
                let kind = kind.clone();
                self.multiplex(ticket, &kind).await
            }
        }
    }

    async fn ask(&mut self, ticket: &Ticket, request: &Request, closes: bool) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect(ticket).await {
                Some(connection) => connection,
                None => return false,
            },
        };
        let place = place(&connection);
        let limit = shared.answer_timeout + self.kind.extra_time();
        match connection.exchange(request, &shared.contract, limit).await {
            Err(trouble) => {
                shared.tally.failed(ticket, place, trouble);
                false
            }
            Ok(answer) => {
                shared
                    .tally
                    .answered(ticket, connection.opened, place, &answer);
                self.connection = Some(connection);
                if answer.closes {
                    self.await_end().await;
                } else if closes || is_fresh(&self.kind) {
                    self.close().await;
                }
                true
            }
        }
    }

    /// One connection attempt; a failure is the request's.
    pub(crate) async fn connect(&self, ticket: &Ticket) -> Option<Connection> {
        match Connection::open(&self.shared.target, self.shared.connect_timeout).await {
            Ok(connection) => {
                self.shared.tally.opened(self.class);
                Some(connection)
            }
            Err(trouble) => {
                self.shared.tally.failed(ticket, Place::default(), trouble);
                None
            }
        }
    }

    /// Sends less than a whole request.
    async fn cut(&mut self, ticket: &Ticket, request: &Request) -> bool {
        let mut bytes: Vec<u8> = request.bytes().collect();
        let length = self.random.up_to((bytes.len() - 1) as u64);
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        let Some(connection) = self.connect(ticket).await else {
            return false;
        };
        let half_close = self.random.up_to(1) == 0;
        let place = place(&connection);
        let outcome = connection
            .cut(&bytes, half_close, self.shared.answer_timeout)
            .await;
        self.shared.tally.closed(self.class, Closing::Client);
        match outcome {
            CutOutcome::Rejected => self.shared.tally.cut(ticket),
            CutOutcome::Answered(trouble) => {
                self.shared.tally.failed(ticket, place, trouble);
                return false;
            }
        }
        true
    }

    /// After an announced end: nothing may come but the end.
    pub(crate) async fn await_end(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let closing = match connection.watch(CLOSING_TIME).await {
            Idle::Closed => Closing::Announced,
            Idle::Reset => Closing::Reset,
            Idle::Open => Closing::AnnouncedOnly,
            Idle::Bytes(trouble) => return self.fail_after(&connection, trouble),
        };
        self.shared.tally.closed(self.class, closing);
    }

    /// We close. What has come by now and belongs to nothing is a failure all the same.
    async fn close(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        match connection.look().await {
            Idle::Bytes(trouble) => self.fail_after(&connection, trouble),
            Idle::Open | Idle::Closed | Idle::Reset => {
                self.shared.tally.closed(self.class, Closing::Client)
            }
        }
    }

    /// Draws the consequence of what was seen on the idle connection.
    fn notice(&mut self, idle: Idle) {
        let closing = match idle {
            Idle::Open => return,
            Idle::Closed => Closing::Unannounced,
            Idle::Reset => Closing::Reset,
            Idle::Bytes(trouble) => {
                if let Some(connection) = self.connection.take() {
                    self.fail_after(&connection, trouble);
                }
                return;
            }
        };
        self.connection = None;
        self.shared.tally.closed(self.class, closing);
    }

    fn fail_after(&self, connection: &Connection, trouble: Trouble) {
        self.shared
            .tally
            .failed_after(self.class, self.number, place(connection), trouble);
    }

    /// What lies between two requests.
    async fn rest(&mut self) {
        match &self.kind {
            Kind::Fresh(kind) => self.pause(kind.pause).await,
            Kind::Cut(kind) => self.pause(kind.pause).await,
            Kind::Think(kind) => {
                let pause = self.random.duration(kind.pause);
                self.think(pause).await;
            }
            Kind::Mixed(kind) => {
                let pause = self.random.duration(kind.pause);
                self.think(pause).await;
            }
            Kind::KeepAlive(_)
            | Kind::Post(_)
            | Kind::Download(_)
            | Kind::Upload(_)
            | Kind::Events(_)
            | Kind::WebSocket(_) => {}
            #[cfg(feature = "http2")]
            Kind::Http2(_) => {}
        }
    }

    async fn think(&mut self, pause: Duration) {
        let Some(connection) = &mut self.connection else {
            return self.pause(pause).await;
        };
        let idle = tokio::select! {
            idle = connection.watch(pause) => idle,
            () = stopped(&mut self.stop) => Idle::Open,
        };
        self.notice(idle);
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(pause) => {}
            () = stopped(&mut stop) => {}
        }
    }
}

/// Whether each request has a connection of its own, even if the client does not say so in it.
fn is_fresh(kind: &Kind) -> bool {
    matches!(kind, Kind::Fresh(_))
}

pub(crate) fn place(connection: &Connection) -> Place {
    Place {
        local_port: connection.local_port,
        answered_before: connection.answered,
    }
}

// An error says that the handle is gone, which stops as well.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn post(writer: &Writer, kind: &Post, random: &mut Random, turn: u64, number: u64) -> Request {
    let body = body(random, kind.bytes);
    writer.post(
        number,
        &kind.path,
        kind.fresh,
        &body,
        framing(kind.framing, turn),
        kind.over,
    )
}

pub(crate) fn body(random: &mut Random, longest: u64) -> Vec<u8> {
    let length = random.up_to(longest);
    random.bytes(usize::try_from(length).unwrap_or(usize::MAX))
}

fn framing(framing: Framing, turn: u64) -> BodyFraming {
    match framing {
        Framing::Length => BodyFraming::Length,
        Framing::Chunked => BodyFraming::Chunked,
        Framing::Alternating if turn.is_multiple_of(2) => BodyFraming::Chunked,
        Framing::Alternating => BodyFraming::Length,
    }
}
