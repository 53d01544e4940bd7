//! What one worker is still owed: lines not yet written, descriptors not yet acknowledged,
//! connections not yet accepted. Does no I/O and reads no clock; every limit ends in [`Broken`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use segue_core::SocketRef;
use segue_wire::node::{Acknowledged, Drain, HandleQueue, HandleType, Order, Refused};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;

use super::millis;
use crate::handoff::Deposit;

/// What a worker may ask of us before it counts as broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long it may take to acknowledge a descriptor, and then to accept a connection.
    pub(crate) patience: Duration,
    /// Bytes that wait to be written to it.
    pub(crate) unwritten: usize,
    /// Questions it may ask before it has an answer.
    pub(crate) unanswered: usize,
    /// How long a connection that it hands over may go without its acknowledgement, while nobody has
    /// room for it. Nothing else that carries a descriptor can leave the worker meanwhile.
    pub(crate) held_back: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            unwritten: 16 << 20,
            unanswered: 1024,
            held_back: Duration::from_secs(10),
        }
    }
}

/// Why a channel cannot be used any more, although the worker has not closed it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Broken {
    #[error(
        "the worker did not acknowledge a socket within {0:?}: it hangs, or garbage swallowed the answer"
    )]
    Unacknowledged(Duration),
    #[error("the worker did not say within {0:?} whether it accepts a connection")]
    Undecided(Duration),
    #[error("the worker got a message without its socket, four times")]
    Refused,
    #[error("the worker does not read its channel: {0} bytes wait for it")]
    Unread(usize),
    #[error("the worker asks for sockets faster than it can be answered: {0} questions are open")]
    Insatiable(usize),
    #[error("the supervisor before was ended in the middle of a message of {0} bytes")]
    Torn(usize),
    #[error("the channel failed: {0}")]
    Failed(io::ErrorKind),
}

/// What becomes of a connection that a worker was offered.
pub(super) type Verdict = oneshot::Sender<Result<(), Deposit>>;

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) limits: Limits,
    /// Number of the last order.
    pub(super) seq: u64,
    pub(super) unwritten: VecDeque<Piece>,
    /// Bytes in `unwritten` and in handle messages that wait for their turn.
    pub(super) queued: usize,
    pub(super) handles: HandleQueue<Carrier>,
    /// Sockets that answer a question, by the number of the order, until they are acknowledged.
    pub(super) sockets: BTreeMap<u64, (SocketRef, OwnedFd)>,
    /// Every key that a socket was given under.
    pub(super) keys: BTreeSet<String>,
    /// Connections on offer, by the number of the order, until they are accepted.
    pub(super) offers: BTreeMap<u64, Offer>,
    pub(super) unanswered: usize,
    /// The first limit that was passed.
    broken: Option<Broken>,
    /// Nothing is written any more: the worker does not listen, or the channel has ended.
    pub(super) is_shut: bool,
    /// A predecessor may or may not have sent this; the worker is being asked.
    pub(super) doubt: Option<Doubt>,
}

/// A line that is to be written.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) line: Vec<u8>,
    pub(super) written: usize,
    pub(super) what: What,
    /// It is being sent.
    pub(super) is_tried: bool,
}

/// What a line is, as far as a successor must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum What {
    /// The order whose descriptor goes with the first byte.
    Carrier(u64),
    /// The answer to a descriptor of the worker's. A second one would end it.
    Acknowledgement,
    /// Nothing changes if it comes twice.
    Repeatable,
    /// It must not come twice.
    Once,
}

#[derive(Clone, Debug)]
pub(super) struct Carrier {
    pub(super) seq: u64,
    pub(super) line: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Offer {
    pub(super) connection: Deposit,
    pub(super) verdict: Verdict,
    /// The worker may have it, and may serve it.
    pub(super) is_sent: bool,
    /// Set once the worker has acknowledged it.
    pub(super) deadline: Option<u64>,
}

/// A line of which it is not known whether it was sent.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) piece: Piece,
    /// The number of the question.
    pub(super) question: u64,
    /// When the worker is no longer asked.
    pub(super) deadline: u64,
}

/// What is to be written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Piece,
    /// Something whose descriptor is not there any more.
    Void,
}

impl Ledger {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            seq: 0,
            unwritten: VecDeque::new(),
            queued: 0,
            handles: HandleQueue::new(millis(limits.patience)),
            sockets: BTreeMap::new(),
            keys: BTreeSet::new(),
            offers: BTreeMap::new(),
            unanswered: 0,
            broken: None,
            is_shut: false,
            doubt: None,
        }
    }

    pub(super) fn note_question(&mut self) {
        self.unanswered += 1;
        if self.unanswered > self.limits.unanswered {
            self.breaks(Broken::Insatiable(self.unanswered));
        }
    }

    pub(super) fn give(
        &mut self,
        now: u64,
        ack: u64,
        key: &str,
        data: &Value,
        socket: (SocketRef, OwnedFd),
        kind: HandleType,
    ) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.is_shut {
            return;
        }
        let seq = self.number();
        self.sockets.insert(seq, socket);
        self.keys.insert(key.to_owned());
        let order = Order::Give {
            seq,
            ack,
            key,
            data,
            kind,
        };
        self.carry(
            now,
            Carrier {
                seq,
                line: order.line(),
            },
        );
    }

    pub(super) fn deny(&mut self, ack: u64, key: &str, data: &Value, errno: i32) {
        self.unanswered = self.unanswered.saturating_sub(1);
        let seq = self.number();
        let order = Order::Deny {
            seq,
            ack,
            key,
            data,
            errno,
        };
        self.say(&order, What::Repeatable);
    }

    pub(super) fn disconnect(&mut self) {
        let seq = self.number();
        self.say(&Order::Disconnect { seq }, What::Once);
    }

    pub(super) fn drain(&mut self, drain: Drain) {
        self.say(&Order::Drain(drain), What::Repeatable);
    }

    pub(super) fn ping(&mut self, number: u64) {
        self.say(&Order::Ping { number }, What::Repeatable);
    }

    pub(super) fn count(&mut self, on: bool) {
        self.say(&Order::Count { on }, What::Repeatable);
    }

    pub(super) fn fill_cache(&mut self) {
        self.say(&Order::FillCache, What::Repeatable);
    }

    pub(super) fn tell_app(&mut self, text: &str) {
        self.say(&Order::Say(text), What::Once);
    }

    /// Whether the worker was given a socket under this key: only there can it have accepted.
    pub(super) fn has_given(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    pub(super) fn held_back(&self) -> Duration {
        self.limits.held_back
    }

    pub(super) fn confirm_exit(&mut self, ack: u64) {
        let seq = self.number();
        self.say(&Order::ConfirmExit { seq, ack }, What::Repeatable);
    }

    pub(super) fn acknowledge_theirs(&mut self) {
        self.say(&Order::HandleAck, What::Acknowledgement);
    }

    /// The worker's message came without its descriptor.
    pub(super) fn refuse_theirs(&mut self) {
        self.say(&Order::HandleNack, What::Acknowledgement);
    }

    /// `keep_alive` is for a connection that another worker has served: see [`Order::NewConnection`].
    pub(super) fn offer(
        &mut self,
        now: u64,
        key: &str,
        keep_alive: Option<u64>,
        connection: Deposit,
        verdict: Verdict,
    ) {
        if self.is_shut {
            decide(verdict, Err(connection));
            return;
        }
        let seq = self.number();
        let offer = Offer {
            connection,
            verdict,
            is_sent: false,
            deadline: None,
        };
        self.offers.insert(seq, offer);
        let order = Order::NewConnection {
            seq,
            key,
            keep_alive,
        };
        self.carry(
            now,
            Carrier {
                seq,
                line: order.line(),
            },
        );
    }

    /// The worker acknowledged a descriptor. False if it had none to acknowledge.
    pub(super) fn acknowledged(&mut self, now: u64) -> bool {
        let Acknowledged::Arrived { message, next } = self.handles.acknowledge(now) else {
            return false;
        };
        let next = next.cloned();
        self.dispel(message.seq);
        self.sockets.remove(&message.seq);
        if let Some(offer) = self.offers.get_mut(&message.seq) {
            offer.deadline = Some(now.saturating_add(millis(self.limits.patience)));
        }
        if let Some(carrier) = next {
            self.enqueue(carrier.line, What::Carrier(carrier.seq));
        }
        true
    }

    /// The worker missed a descriptor. False if it was sent none.
    pub(super) fn refused(&mut self, now: u64) -> bool {
        let missed = match self.handles.refuse(now) {
            Refused::Resend(carrier) => {
                let carrier = carrier.clone();
                let seq = carrier.seq;
                self.queued += carrier.line.len();
                self.enqueue(carrier.line, What::Carrier(carrier.seq));
                seq
            }
            Refused::GivenUp(carrier) => {
                let seq = carrier.seq;
                self.breaks(Broken::Refused);
                seq
            }
            Refused::Unexpected => return false,
        };
        self.dispel(missed);
        if let Some(offer) = self.offers.get_mut(&missed) {
            offer.is_sent = false;
        }
        true
    }

    /// The worker has answered this: if it was in doubt, it had been sent.
    fn dispel(&mut self, seq: u64) {
        self.doubt
            .take_if(|doubt| doubt.piece.what == What::Carrier(seq));
    }

    /// The worker has sent a descriptor, which it does not do while it awaits an acknowledgement.
    pub(super) fn heard_handle(&mut self) {
        self.doubt
            .take_if(|doubt| doubt.piece.what == What::Acknowledgement);
    }

    /// The worker answered an offer. An answer to anything else is ignored, as Node ignores it.
    pub(super) fn answered(&mut self, seq: u64, accepted: bool) {
        if let Some(offer) = self.offers.remove(&seq) {
            let verdict = if accepted {
                Ok(())
            } else {
                Err(offer.connection)
            };
            decide(offer.verdict, verdict);
        }
    }

    /// When the next wait is over.
    pub(super) fn deadline(&self) -> Option<u64> {
        let doubt = self.doubt.as_ref().map(|doubt| doubt.deadline);
        self.handles
            .deadline()
            .into_iter()
            .chain(self.undecided())
            .chain(doubt)
            .min()
    }

    pub(super) fn tick(&mut self, now: u64) {
        if self
            .handles
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.breaks(Broken::Unacknowledged(self.limits.patience));
        }
        if self.undecided().is_some_and(|deadline| deadline <= now) {
            self.breaks(Broken::Undecided(self.limits.patience));
        }
        if self
            .doubt
            .as_ref()
            .is_some_and(|doubt| doubt.deadline <= now)
        {
            self.resolve(None);
        }
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.next() != Next::Nothing
    }

    /// What is to be written next.
    pub(super) fn next(&self) -> Next {
        let Some(piece) = self.unwritten.front() else {
            return Next::Nothing;
        };
        let is_question = self.doubt.is_some() && piece.what == What::Repeatable;
        match piece.what {
            // Nothing may overtake what is in doubt, besides the question.
            _ if self.doubt.is_some() && !is_question => Next::Nothing,
            // Acknowledged or accepted before it was sent: the app speaks for its Node.
            // Without its descriptor the message would end the worker.
            What::Carrier(seq) if piece.written == 0 && self.descriptor(seq).is_none() => {
                Next::Void
            }
            What::Carrier(_) | What::Acknowledgement | What::Repeatable | What::Once => Next::Piece,
        }
    }

    pub(super) fn discard(&mut self) {
        if let Some(piece) = self.unwritten.pop_front() {
            self.queued = self.queued.saturating_sub(piece.line.len());
        }
    }

    pub(super) fn mark_trying(&mut self, value: bool) {
        if let Some(piece) = self.unwritten.front_mut() {
            piece.is_tried = value;
        }
    }

    fn descriptor(&self, seq: u64) -> Option<BorrowedFd<'_>> {
        let socket = self.sockets.get(&seq).map(|(_, socket)| socket.as_fd());
        let offer = self.offers.get(&seq).map(|offer| offer.connection.as_fd());
        socket.or(offer)
    }

    /// Sends what is next, or as much of it as fits.
    pub(super) fn send(
        &mut self,
        send: impl FnOnce(&[u8], Option<BorrowedFd<'_>>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let Some(piece) = self.unwritten.front() else {
            return Ok(());
        };
        let carried = match piece.what {
            What::Carrier(seq) if piece.written == 0 => Some(seq),
            What::Carrier(_) | What::Acknowledgement | What::Repeatable | What::Once => None,
        };
        let descriptor = carried.and_then(|seq| self.descriptor(seq));
        let rest = piece.line.get(piece.written..).unwrap_or_default();
        let sent = send(rest, descriptor)?;
        if let Some(offer) = carried.and_then(|seq| self.offers.get_mut(&seq)) {
            offer.is_sent = true;
        }
        self.queued = self.queued.saturating_sub(sent);
        if let Some(piece) = self.unwritten.front_mut() {
            piece.written += sent;
            if piece.written == piece.line.len() {
                self.unwritten.pop_front();
            }
        }
        Ok(())
    }

    /// The worker has read everything up to a question, and said whether it awaits an
    /// acknowledgement. A predecessor's question says nothing of what came after it.
    pub(super) fn synced(&mut self, question: u64, awaits: bool) {
        let doubt = self.doubt.as_ref();
        if doubt.is_some_and(|doubt| doubt.question == question) {
            self.resolve(Some(awaits));
        }
    }

    /// What was in doubt is sent (again), unless the worker has it. Without its word, only what may
    /// come twice is.
    fn resolve(&mut self, awaits: Option<bool>) {
        let Some(Doubt { mut piece, .. }) = self.doubt.take() else {
            return;
        };
        let is_missing = match piece.what {
            What::Carrier(seq) => {
                let in_flight = self.handles.in_flight();
                let is_unheard = in_flight.is_some_and(|carrier| carrier.seq == seq);
                is_unheard && (self.sockets.contains_key(&seq) || awaits.is_some())
            }
            What::Acknowledgement => awaits == Some(true),
            What::Repeatable => true,
            What::Once => false,
        };
        if is_missing {
            piece.written = 0;
            piece.is_tried = false;
            self.queued += piece.line.len();
            self.unwritten.push_front(piece);
        }
    }

    pub(super) fn breaks(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.broken.clone()
    }

    /// Nothing can be said to the worker any more. Connections it has not been sent go back; those
    /// it has been sent wait for its answer or its end, so that none is served twice.
    pub(super) fn stop_writing(&mut self) {
        self.is_shut = true;
        self.queued = 0;
        self.doubt = None;
        self.unwritten.clear();
        self.sockets.clear();
        self.give_back(|offer| !offer.is_sent);
    }

    /// The worker is gone, or about to: it will serve nothing any more that it has not accepted.
    pub(super) fn end(&mut self) {
        self.stop_writing();
        self.give_back(|_| true);
    }

    fn give_back(&mut self, which: impl Fn(&Offer) -> bool) {
        for (_, offer) in self.offers.extract_if(.., |_, offer| which(offer)) {
            decide(offer.verdict, Err(offer.connection));
        }
    }

    fn undecided(&self) -> Option<u64> {
        // Offers are acknowledged in order, so the first one waits longest.
        self.offers.values().next().and_then(|offer| offer.deadline)
    }

    fn carry(&mut self, now: u64, carrier: Carrier) {
        self.queued += carrier.line.len();
        match self.handles.offer(carrier, now).cloned() {
            Some(carrier) => self.enqueue(carrier.line, What::Carrier(carrier.seq)),
            None => self.check_queued(),
        }
    }

    pub(super) fn say(&mut self, order: &Order<'_>, what: What) {
        if self.is_shut {
            return;
        }
        let line = order.line();
        self.queued += line.len();
        self.enqueue(line, what);
    }

    fn enqueue(&mut self, line: Vec<u8>, what: What) {
        if self.is_shut {
            return;
        }
        self.unwritten.push_back(Piece {
            line,
            written: 0,
            what,
            is_tried: false,
        });
        self.check_queued();
    }

    fn check_queued(&mut self) {
        if self.queued > self.limits.unwritten {
            self.breaks(Broken::Unread(self.queued));
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
}

fn decide(verdict: Verdict, result: Result<(), Deposit>) {
    // Nobody waits for it any more: a connection that came back is closed.
    drop(verdict.send(result));
}
