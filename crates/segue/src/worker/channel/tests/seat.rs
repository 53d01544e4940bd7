//! The supervision of a worker by one supervisor after another, for tests of what the next one makes
//! of it.

use std::os::unix::net::UnixStream as Pair;

use segue_core::SocketRef;
use segue_sys::passing;
use segue_wire::handoff::Contents;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::yield_now;

use super::super::*;
use super::fake::*;
use crate::handoff::cupboard::{Cupboard, Lease};

/// The supervision of one worker, by one supervisor after another.
pub(super) struct Seat {
    pub(super) cupboard: Cupboard,
    pub(super) lease: Lease,
    pub(super) journal: Journal,
    /// Our end of the channel.
    pub(super) socket: OwnedFd,
    pub(super) channel: Channel,
    pub(super) heard: mpsc::UnboundedReceiver<Heard>,
    pub(super) offered: Vec<Offered>,
}

impl Seat {
    pub(super) fn new() -> (Self, Fake) {
        let (ours, theirs) = Pair::pair().expect("a socket pair");
        theirs.set_nonblocking(true).expect("it is open");
        let fake = Fake {
            stream: UnixStream::from_std(theirs).expect("a runtime"),
            heard: Vec::new(),
            sockets: Vec::new(),
        };
        let cupboard = Cupboard::default();
        let lease = cupboard.lease(None);
        let journal = begin(&lease, &Contents::default());
        let (news, heard) = mpsc::unbounded_channel();
        let socket = OwnedFd::from(ours);
        let copy = socket.try_clone().expect("room for a descriptor");
        let channel = Channel::open(WorkerId(7), copy, news, journal.under("worker/"));
        let seat = Self {
            cupboard,
            lease,
            journal,
            socket,
            channel,
            heard,
            offered: Vec::new(),
        };
        (seat, fake)
    }

    /// A worker that has spoken its first words, and has a socket under the key 3.
    pub(super) async fn ready(is_preloaded: bool) -> (Self, Fake) {
        let (mut seat, mut fake) = Self::new();
        if is_preloaded {
            fake.say(HELLO).await;
            assert!(matches!(seat.hear().await[..], [Report::Hello(_)]));
        }
        seat.give(1);
        drop(fake.hear_handle().await);
        fake.say(ACK).await;
        assert_eq!(seat.hear().await, []);
        (seat, fake)
    }

    /// Whoever has it is killed, and another one takes over.
    pub(super) fn succeed(&mut self) {
        self.lease.end();
        let mut inherited = self.cupboard.inherited();
        self.lease = self.cupboard.lease(None);
        self.journal = begin(&self.lease, &inherited.contents);
        let own = self.journal.under("worker/");
        let connections = self.journal.under("connection/");
        let record: Option<Record> = inherited.value(&own.full("channel")).expect("a record");
        let (news, heard) = mpsc::unbounded_channel();
        let socket = self.socket.try_clone().expect("room for a descriptor");
        self.heard = heard;
        let Some(record) = record else {
            self.channel = Channel::open(WorkerId(7), socket, news, own);
            return;
        };
        let pending = inherited.take(&own.full(PENDING));
        let predecessor = Predecessor {
            record,
            inbox: inherited.value(&own.full(INBOX)).expect("text"),
            pending,
            lend: &mut |socket: SocketRef| {
                assert_eq!(socket, SOCKET);
                Ok(connection().1)
            },
            connection: &mut |number| {
                let descriptor = inherited.take(&connections.full(&number.to_string()))?;
                Some(Deposit::found(&connections, number, descriptor))
            },
        };
        let (channel, offered) = Channel::take_over(WorkerId(7), socket, news, own, predecessor);
        (self.channel, self.offered) = (channel, offered);
    }

    /// Whoever has it ends after so many steps of `what` it does.
    pub(super) async fn end_within(&mut self, steps: usize, what: impl FnOnce(&mut Self)) {
        self.lease.grant(Some(steps));
        what(self);
        while !self.lease.has_ended() {
            yield_now().await;
        }
    }

    pub(super) async fn lines(&mut self) -> Lines {
        match self.heard.recv().await.expect("the channel is open") {
            (_, News::Lines(lines)) => lines,
            (_, other) => panic!("{other:?}"),
        }
    }

    /// What comes next.
    pub(super) async fn hear(&mut self) -> Vec<Report> {
        let mut lines = self.lines().await;
        let mut reports = Vec::new();
        while let Some(mut more) = lines.next() {
            reports.append(&mut more);
            self.journal.commit();
        }
        reports
    }

    /// Hears what comes until something else has happened, which is not to be a report.
    pub(super) async fn until<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                happened = &mut other => return happened,
                reports = self.hear() => assert_eq!(reports, []),
            }
        }
    }

    pub(super) async fn end(&mut self) -> End {
        loop {
            match self.heard.recv().await.expect("an end") {
                (_, News::Lines(mut lines)) => while lines.next().is_some() {},
                (_, News::Ended(_, end)) => return end,
            }
        }
    }

    pub(super) fn give(&self, seq: u64) {
        let socket = (SOCKET, connection().1);
        let kind = HandleType::NetNative;
        self.channel.give(seq, "3", &Value::Null, socket, kind);
    }

    /// A connection that a successor will find.
    pub(super) fn deposit(&self, number: u64) -> (Pair, Deposit) {
        let (client, server) = connection();
        let connections = self.journal.under("connection/");
        let deposit = Deposit::make(&connections, number, server, &());
        self.journal.commit();
        (client, deposit)
    }

    pub(super) fn offer(&self, connection: Deposit) {
        // Whoever waits for it is gone with the supervisor.
        drop(self.channel.hand_over("3", None, connection));
    }

    /// What becomes of the only connection that was on offer.
    pub(super) async fn verdict(&mut self) -> Result<(), Deposit> {
        assert_eq!(self.offered.len(), 1);
        let offered = self.offered.remove(0);
        self.until(offered.verdict).await.expect("it is decided")
    }

    /// Everything that the worker has been told by the time it has been told something of its own.
    pub(super) async fn told(&mut self, fake: &mut Fake) -> Vec<String> {
        // Whatever it has said before has been heard by then.
        fake.say(ONLINE).await;
        loop {
            let reports = self.hear().await;
            if reports == [Report::Online] {
                break;
            }
            assert_eq!(reports, []);
        }
        self.channel.tell_app("last");
        let mut heard = Vec::new();
        self.until(async {
            loop {
                let line = fake.hear().await.expect("the channel is open");
                match name_of(&line) {
                    last if last == "last" => return heard,
                    other => heard.push(other),
                }
            }
        })
        .await
    }

    /// The next connection from a worker, once nothing more is to be done about its message.
    pub(super) async fn arrival(&mut self) -> Arrival {
        let reports = self.hear().await;
        let [Report::Connection(arrival)] = <[Report; 1]>::try_from(reports).expect("one report")
        else {
            panic!("a connection")
        };
        while self.cupboard.names().contains(&"worker/pending".to_owned()) {
            yield_now().await;
        }
        arrival
    }

    pub(super) fn is_in_socket(&self) -> bool {
        passing::peek_bytes(&self.socket, &mut [0]).is_ok()
    }

    /// What is written down of the channel.
    pub(super) fn record(&self) -> Value {
        let contents = self.cupboard.contents();
        contents
            .values
            .get("worker/channel")
            .cloned()
            .unwrap_or_default()
    }
}

fn begin(lease: &Lease, contents: &Contents) -> Journal {
    let journal = Journal::begin(Box::new(lease.clone()), contents);
    journal.expect("memory for it").always_whole()
}

/// Answers everything that asks for an answer, until a sync is answered. Says what came.
pub(super) async fn sync(fake: &mut Fake, awaits: bool) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let line = fake.hear().await.expect("the channel is open");
        heard.push(name_of(&line));
        if line["act"] == "sync" {
            let answer = json!({"cmd": "NODE_HANDLE_ACK", "segue": "synced", "n": line["n"],
                "awaits": awaits});
            fake.say(&format!("{answer}\n")).await;
            return heard;
        }
        if line["cmd"] == "NODE_HANDLE" {
            fake.sockets.clear();
            fake.say(ACK).await;
        }
    }
}

pub(super) fn name_of(line: &Value) -> String {
    let of = |line: &Value| {
        let words = [&line["act"], &line["cmd"], line];
        let mut words = words.into_iter().filter_map(Value::as_str);
        words.next().unwrap_or_default().to_owned()
    };
    match line["cmd"] == "NODE_HANDLE" {
        true => of(&line["msg"]),
        false => of(line),
    }
}
