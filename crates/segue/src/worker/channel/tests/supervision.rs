//! Supervisors one after another, each of which takes over where the one before has ended, with a
//! worker and clients that outlive them. Each is as small as can be: it does with what a channel
//! reports what the real one does, in the same transactions.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use segue_core::SocketRef;
use segue_wire::handoff::Contents;
use segue_wire::node::Idle;
use tokio::runtime::Builder;
use tokio::task::yield_now;

use super::super::report::Receipt;
use super::super::*;
use super::fake::SOCKET;
use super::scripted::Scripted;
use crate::handoff::cupboard::{Cupboard, Cut, Lease};

/// Names of everything of the worker's begin so.
const WORKER: &str = "worker/7/";

/// No conversation takes so many rounds.
const MOST_ROUNDS: u32 = 3_000;

/// What makes one conversation different from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) is_preloaded: bool,
    /// The worker writes its lines in two pieces each.
    pub(super) in_pieces: bool,
    /// It has its turn in every so many rounds.
    pub(super) pace: u32,
    /// It goes on while nobody supervises it.
    pub(super) acts_alone: bool,
}

/// How a supervisor has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Somewhere in the middle.
    Cut,
    /// With its worker.
    Done,
}

/// Everything that outlives a supervisor.
pub(super) struct Stage {
    manner: Manner,
    cupboard: Cupboard,
    worker: Scripted,
    clients: BTreeMap<char, Pair>,
    supervisors: u64,
    /// Orders of which a successor could not know whether they were heard: must not be heard twice,
    /// and may have been lost.
    doubtful: usize,
    cuts: Vec<usize>,
}

impl Stage {
    /// `cuts` are where its supervisors will end.
    pub(super) fn new(manner: Manner, cuts: &[usize]) -> Self {
        let mut clients = BTreeMap::new();
        let mut connect = |name: char| {
            let (mut client, server) = Pair::pair().expect("a socket pair");
            client.write_all(&[name as u8]).expect("there is room");
            client.set_nonblocking(true).expect("it is open");
            clients.insert(name, client);
            OwnedFd::from(server)
        };
        let cupboard = Cupboard::default();
        let journal = cupboard.begin(&Contents::default());
        // Three connections have been accepted and have no worker yet.
        for (number, name) in (1_u64..).zip(['A', 'B', 'C']) {
            let number = format!("connection/{number}");
            journal.hold(&number, connect(name));
            journal.put(&number, &name);
        }
        journal.commit();
        let open = match manner.is_preloaded {
            true => vec![connect('P'), connect('Q')],
            false => Vec::new(),
        };
        let (ours, theirs) = Pair::pair().expect("a socket pair");
        cupboard.put(&format!("{WORKER}channel"), &ours);
        let worker = Scripted::new(theirs, manner.is_preloaded, manner.in_pieces, open);
        Self {
            manner,
            cupboard,
            worker,
            clients,
            supervisors: 0,
            doubtful: 0,
            cuts: cuts.to_vec(),
        }
    }

    /// One supervisor after another, the last of which has as much time as it likes. Says how many
    /// were cut short.
    pub(super) fn play(mut self) -> usize {
        let mut cuts = self.cuts.clone().into_iter();
        let mut count = 0;
        while self.supervise(cuts.next()) == Ending::Cut {
            count += 1;
        }
        self.assert_exactly_once();
        count
    }

    /// One supervisor, which ends after so many steps if not before.
    fn supervise(&mut self, steps: Option<usize>) -> Ending {
        self.supervisors += 1;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("descriptors for a runtime");
        let lease = self.cupboard.lease(steps);
        let conversation = Supervisor::converse(self, &lease);
        let ending = catch_unwind(AssertUnwindSafe(|| runtime.block_on(conversation)));
        drop(runtime);
        let ending = match ending {
            Ok(ending) => ending,
            Err(panic) if panic.is::<Cut>() => Ending::Cut,
            Err(panic) => resume_unwind(panic),
        };
        if ending == Ending::Cut {
            self.doubtful += usize::from(self.is_in_doubt());
            if self.manner.acts_alone {
                self.worker.act();
            }
        }
        ending
    }

    fn is_in_doubt(&self) -> bool {
        let contents = self.cupboard.contents();
        let channel = contents.values.get(&format!("{WORKER}channel"));
        let first = channel.map(|record| &record["ledger"]["unwritten"][0]);
        first.is_some_and(|piece| {
            let what = &piece["what"];
            let is_lost = what == "Once" || !self.manner.is_preloaded && what != "Repeatable";
            piece["is_tried"] == true && is_lost
        })
    }

    /// Every effect has come about, once, and nothing is left behind.
    fn assert_exactly_once(&mut self) {
        let contents = self.cupboard.contents();
        let heard: Vec<&str> = contents.lists["heard"]
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let expected: &[&str] = match self.manner.is_preloaded {
            true => &[
                "online",
                "hello",
                "query",
                "listening",
                "ready",
                "connection",
                "connection",
                "drained",
                "end",
            ],
            false => &["online", "query", "listening", "ready", "end"],
        };
        if self.doubtful == 0 {
            assert_eq!(heard, expected);
            assert_eq!(self.worker.ends, 1);
        } else {
            // The worker waits for what was lost, and is ended in time.
            let (last, before) = heard.split_last().expect("it ends");
            assert!(*last == "end" && expected.starts_with(before), "{heard:?}");
            assert!(self.worker.ends <= 1);
        }
        for (name, client) in &mut self.clients {
            let heard = hear(client);
            let is_lost = self.doubtful > 0 && !self.manner.is_preloaded;
            match name {
                'A' | 'B' if is_lost && heard == "s" => {}
                'A' | 'B' => assert_eq!(heard, "w", "connection {name}"),
                _ => assert_eq!(heard, "s", "connection {name}"),
            }
        }
        let left: Vec<&String> = contents.values.keys().collect();
        assert!(left.is_empty(), "{left:?} is left");
        let held = self.cupboard.names();
        assert_eq!(held, ["state", &format!("{WORKER}channel")]);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { manner, cuts, .. } = self;
            eprintln!("with supervisors that ended after {cuts:?} steps and {manner:?}");
        }
    }
}

/// What was written to a client, once nobody has its connection any more.
fn hear(client: &mut Pair) -> String {
    let mut heard = Vec::new();
    // A process that another test has just started holds everything until its exec.
    client.set_nonblocking(false).expect("it is open");
    let limit = Some(Duration::from_secs(10));
    client.set_read_timeout(limit).expect("it is open");
    loop {
        let mut bytes = [0; 8];
        match client.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => heard.extend_from_slice(&bytes[..count]),
            // Closed before everything was read from it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                heard.extend_from_slice(b", and is still held");
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(heard).expect("only text is written")
}

/// One supervisor.
struct Supervisor {
    journal: Journal,
    channel: Channel,
    news: mpsc::UnboundedReceiver<Heard>,
    /// Connections without a worker.
    waiting: Vec<Deposit>,
    /// What has become of those on offer.
    decided: mpsc::UnboundedReceiver<Result<(), Deposit>>,
    deciding: mpsc::UnboundedSender<Result<(), Deposit>>,
    on_offer: usize,
    receipts: Vec<Receipt>,
    orders: VecDeque<(String, String)>,
    last: u64,
    has_ended: bool,
}

impl Supervisor {
    async fn converse(stage: &mut Stage, lease: &Lease) -> Ending {
        let mut supervisor = Self::begin(stage, lease);
        for round in 0..MOST_ROUNDS {
            if lease.has_ended() {
                return Ending::Cut;
            }
            if supervisor.has_ended && supervisor.on_offer == 0 {
                lease.grant(None);
                supervisor.finish();
                return Ending::Done;
            }
            if round % stage.manner.pace == 0 {
                stage.worker.act();
            }
            if stage.doubtful > 0 && round > MOST_ROUNDS / 10 {
                stage.worker.leave();
            }
            supervisor.hear();
            yield_now().await;
        }
        panic!("it never ends: {:?}", stage.cupboard.contents());
    }

    fn begin(stage: &mut Stage, lease: &Lease) -> Self {
        let mut inherited = stage.cupboard.inherited();
        let journal = Journal::begin(Box::new(lease.clone()), &inherited.contents);
        let journal = journal.expect("memory for it").always_whole();
        let connections = journal.under("connection/");
        let mut travellers = BTreeMap::new();
        for (name, _) in inherited.values::<Value>("connection/").expect("any kind") {
            let number: u64 = name.parse().expect("a number");
            match inherited.take(&connections.full(&name)) {
                Some(connection) => {
                    let deposit = Deposit::found(&connections, number, connection);
                    travellers.insert(number, deposit);
                }
                None => connections.drop(&name),
            }
        }
        let own = journal.under(WORKER);
        let socket = inherited.take(&own.full("channel")).expect("it is held");
        let (sender, news) = mpsc::unbounded_channel();
        let written: Option<Record> = inherited.value(&own.full("channel")).expect("a record");
        let (channel, offered) = match written {
            None => (Channel::open(WorkerId(7), socket, sender, own), Vec::new()),
            Some(record) => {
                let pending = inherited.take(&own.full(PENDING));
                let predecessor = Predecessor {
                    record,
                    inbox: inherited.value(&own.full(INBOX)).expect("text"),
                    lend: &mut |socket: SocketRef| {
                        assert_eq!(socket, SOCKET);
                        Ok(Pair::pair()?.0.into())
                    },
                    pending,
                    connection: &mut |number| travellers.remove(&number),
                };
                Channel::take_over(WorkerId(7), socket, sender, own, predecessor)
            }
        };
        for name in inherited.left() {
            journal.release(name);
        }
        let (deciding, decided) = mpsc::unbounded_channel();
        let orders = inherited.values("order/").expect("texts");
        let mut supervisor = Self {
            journal,
            channel,
            news,
            waiting: travellers.into_values().collect(),
            decided,
            deciding,
            on_offer: 0,
            receipts: Vec::new(),
            orders: orders.into(),
            last: stage.supervisors << 32,
            has_ended: false,
        };
        for Offered { verdict, .. } in offered {
            supervisor.follow(async move { verdict.await.unwrap_or(Ok(())) });
        }
        supervisor.perform();
        supervisor
    }

    fn follow(&mut self, verdict: impl Future<Output = Result<(), Deposit>> + Send + 'static) {
        self.on_offer += 1;
        let deciding = self.deciding.clone();
        tokio::spawn(async move { drop(deciding.send(verdict.await)) });
    }

    fn hear(&mut self) {
        self.receipts.clear();
        while let Ok(decided) = self.decided.try_recv() {
            self.on_offer -= 1;
            self.waiting.extend(decided.err());
        }
        while let Ok((_, news)) = self.news.try_recv() {
            match news {
                News::Lines(mut lines) => {
                    while let Some(reports) = lines.next() {
                        reports
                            .into_iter()
                            .for_each(|report| self.hear_report(report));
                        self.journal.commit();
                    }
                }
                News::Ended(last, end) => {
                    last.into_iter().for_each(|report| self.hear_report(report));
                    assert_eq!(end, End::Eof);
                    self.has_ended = true;
                }
            }
        }
    }

    fn hear_report(&mut self, report: Report) {
        let (heard, orders): (_, &[&str]) = match report {
            Report::Online => ("online", &[]),
            Report::Hello(_) => ("hello", &[]),
            Report::Query(_) => ("query", &["give"]),
            Report::Listening { .. } => ("listening", &["offer", "offer", "offer"]),
            Report::SaidReady if self.is_preloaded() => ("ready", &["drain"]),
            Report::SaidReady => ("ready", &["end"]),
            Report::Drained(_) => ("drained", &["end"]),
            Report::Connection(arrival) => {
                self.adopt(arrival);
                ("connection", &[])
            }
            // Without a preload nobody can say whether the socket has come: it is given again.
            Report::Attention(Attention::OutOfStep) if !self.is_preloaded() => return,
            other => panic!("{other:?}"),
        };
        self.journal.append("heard", &heard);
        for order in orders {
            self.last += 1;
            let name = format!("{:020}", self.last);
            self.journal.put(&format!("order/{name}"), order);
            self.orders.push_back((name, (*order).to_owned()));
        }
        if !orders.is_empty() {
            // As an event is, before it is handled.
            self.journal.commit();
            self.perform();
        }
    }

    fn is_preloaded(&self) -> bool {
        self.channel.0.0.lock().desk.takes_descriptors()
    }

    fn adopt(&mut self, arrival: Arrival) {
        self.last += 1;
        let connections = self.journal.under("connection/");
        let deposit = Deposit::make(&connections, self.last, arrival.connection, &"moved");
        self.waiting.push(deposit);
        // There is room for every second one at once.
        match self.receipts.is_empty() && self.last.is_multiple_of(2) {
            true => self.receipts.push(arrival.receipt),
            false => drop(arrival.receipt),
        }
    }

    fn perform(&mut self) {
        while let Some((name, order)) = self.orders.pop_front() {
            self.journal.drop(&format!("order/{name}"));
            match order.as_str() {
                "give" => {
                    let socket = Pair::pair().expect("a socket pair").0.into();
                    let socket = (SOCKET, socket);
                    let kind = HandleType::NetNative;
                    self.channel.give(1, "3", &Value::Null, socket, kind);
                }
                "offer" => {
                    let connection = self.waiting.remove(0);
                    let verdict = self.channel.hand_over("3", None, connection);
                    self.follow(verdict);
                }
                "drain" => self.channel.drain(Drain {
                    accept: false,
                    idle: Idle::Migrate,
                    stall: 1,
                    deadline: 2,
                    websocket_after: 3,
                    websocket_code: 1012,
                }),
                "end" => self.channel.tell_app("end"),
                other => panic!("{other}"),
            }
        }
    }

    /// The worker is gone. Whoever has no worker by now is served elsewhere.
    fn finish(self) {
        for connection in self.waiting {
            let copy = connection.copy().expect("it is open");
            Pair::from(copy).write_all(b"s").expect("its client waits");
        }
        drop(self.channel);
        self.journal.append("heard", &"end");
        self.journal.commit();
    }
}
