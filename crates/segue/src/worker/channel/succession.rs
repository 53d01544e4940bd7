//! A channel as its successor finds it, and goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use segue_core::{AddressId, SocketIndex, SocketRef, WorkerId};
use segue_wire::node::{Decoder, HandleQueue, Order};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::inbox::{self, Inbox};
use super::ledger::{Broken, Carrier, Doubt, Ledger, Limits, Offer, Piece, What};
use super::report::{self, Desk};
use super::{Channel, Heard, INBOX, PENDING, State, millis};
use crate::handoff::text::Word;
use crate::handoff::{Deposit, Journal};

/// How long a worker may take to say what it has read.
const SYNC_WAIT: Duration = Duration::from_secs(5);

/// A longer part of a line is not written down; what is left of it is then discarded.
pub(super) const LONGEST_PART: usize = 64 << 10;

/// The kernel takes a shorter line whole or not at all: a piece of a message is half of what may
/// wait in a socket (`unix_stream_sendmsg`, `net.core.wmem_default`).
const LONGEST_WHOLE: usize = 64 << 10;

/// Bytes that wait for a worker and are written down for a successor.
const MOST_NOTED: usize = 1 << 20;

/// A channel as it is written down.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    ledger: LedgerRecord,
    desk: report::Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inbox: Option<inbox::Record>,
    /// A line whose end has not come.
    #[serde(default)]
    part: Part,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    #[default]
    None,
    Held(Word),
    /// Too long to be written down.
    Lost,
}

#[derive(Debug, Deserialize, Serialize)]
struct LedgerRecord {
    seq: u64,
    unwritten: Vec<PieceRecord>,
    in_flight: Option<CarrierRecord>,
    waiting: Vec<CarrierRecord>,
    /// Order, address, index.
    sockets: Vec<(u64, u32, u16)>,
    keys: BTreeSet<String>,
    offers: Vec<OfferRecord>,
    unanswered: usize,
    is_shut: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct PieceRecord {
    line: Word,
    what: What,
    is_tried: bool,
    /// So many bytes of it have been sent.
    #[serde(default)]
    written: usize,
}

#[derive(Debug, Deserialize, Serialize)]
struct CarrierRecord {
    seq: u64,
    line: Word,
}

#[derive(Debug, Deserialize, Serialize)]
struct OfferRecord {
    seq: u64,
    connection: u64,
    is_sent: bool,
    is_acknowledged: bool,
}

/// A connection that was on offer, and what is to become of it.
pub(crate) struct Offered {
    pub(crate) connection: u64,
    pub(crate) verdict: oneshot::Receiver<Result<(), Deposit>>,
}

/// What a predecessor has left of a channel.
pub(crate) struct Predecessor<'a> {
    pub(crate) record: Record,
    /// What it has read, under [`INBOX`].
    pub(crate) inbox: Option<Word>,
    /// Sockets of the pool.
    pub(crate) lend: &'a mut dyn FnMut(SocketRef) -> io::Result<OwnedFd>,
    /// The descriptor of a message that has not been heard.
    pub(crate) pending: Option<OwnedFd>,
    /// Connections by their numbers.
    pub(crate) connection: &'a mut dyn FnMut(u64) -> Option<Deposit>,
}

impl State {
    /// These have come and are still in the socket; takes effect at the next commit.
    pub(super) fn fill_inbox(&mut self, bytes: &[u8]) {
        self.inbox.fill(bytes);
        if let Some(bytes) = self.inbox.bytes().filter(|_| self.is_noted()) {
            self.journal.put(INBOX, &bytes);
        }
        self.note();
    }

    /// For a successor; takes effect at the next commit.
    pub(super) fn note(&self) {
        if !self.is_noted() {
            return;
        }
        let inbox = self.inbox.record();
        if inbox.is_none() {
            self.journal.drop(INBOX);
        }
        let record = Record {
            ledger: LedgerRecord::of(&self.ledger),
            desk: self.desk.record(),
            inbox,
            part: match self.decoder.held() {
                Some([]) => Part::None,
                Some(held) if held.len() <= LONGEST_PART => Part::Held(Word::from_bytes(held)),
                Some(_) | None => Part::Lost,
            },
        };
        self.journal.put("channel", &record);
    }

    fn is_noted(&self) -> bool {
        // A worker that reads so little is about to be given up.
        !self.is_closed && self.ledger.queued <= MOST_NOTED
    }
}

impl Channel {
    /// Goes on where a predecessor has ended, and says what it had on offer. Must be called within
    /// a runtime.
    pub(crate) fn take_over(
        worker: WorkerId,
        socket: OwnedFd,
        news: mpsc::UnboundedSender<Heard>,
        journal: Journal,
        predecessor: Predecessor<'_>,
    ) -> (Self, Vec<Offered>) {
        let Predecessor {
            record,
            inbox,
            lend,
            connection,
            pending,
        } = predecessor;
        let now = segue_sys::clock::monotonic_millis();
        let has_preload = record.desk.has_preload();
        let (mut ledger, offered) = record.ledger.ledger(now, has_preload, lend, connection);
        let mut desk = Desk::restore(&record.desk, &mut ledger);
        let inbox = record.inbox.zip(inbox);
        let inbox = inbox.map(|(record, bytes)| Inbox::restore(bytes, &record));
        let inbox = inbox.unwrap_or_default();
        let part = match record.part {
            Part::None => Decoder::default(),
            Part::Held(held) => Decoder::resume(held.into_bytes()),
            Part::Lost => Decoder::skipping(),
        };
        // Without a message that it may belong to, that has been heard.
        let pending = pending.filter(|_| !inbox.is_empty() || part.is_within_line());
        let is_pending_held = pending.is_some();
        match pending {
            Some(pending) => desk.take_descriptor(pending),
            None => journal.release(PENDING),
        }
        let state = State {
            desk,
            ledger,
            decoder: part,
            inbox,
            is_closed: false,
            journal,
            is_pending_held,
        };
        (Self::begin(worker, socket, news, state), offered)
    }
}

impl LedgerRecord {
    fn of(ledger: &Ledger) -> Self {
        let carrier = |carrier: &Carrier| CarrierRecord {
            seq: carrier.seq,
            line: Word::from_bytes(&carrier.line),
        };
        let piece = |piece: &Piece| PieceRecord {
            line: Word::from_bytes(&piece.line),
            what: piece.what,
            is_tried: piece.is_tried,
            written: piece.written,
        };
        let doubt = ledger.doubt.iter().map(|doubt| &doubt.piece);
        Self {
            seq: ledger.seq,
            // What is in doubt stays so for the next one.
            unwritten: doubt.chain(&ledger.unwritten).map(piece).collect(),
            in_flight: ledger.handles.in_flight().map(carrier),
            waiting: ledger.handles.waiting().map(carrier).collect(),
            sockets: ledger
                .sockets
                .iter()
                .map(|(seq, (socket, _))| (*seq, socket.address.0, socket.index.0))
                .collect(),
            keys: ledger.keys.clone(),
            offers: ledger
                .offers
                .iter()
                .map(|(seq, offer)| OfferRecord {
                    seq: *seq,
                    connection: offer.connection.number(),
                    is_sent: offer.is_sent,
                    is_acknowledged: offer.deadline.is_some(),
                })
                .collect(),
            unanswered: ledger.unanswered,
            is_shut: ledger.is_shut,
        }
    }

    fn ledger(
        self,
        now: u64,
        has_preload: bool,
        lend: &mut dyn FnMut(SocketRef) -> io::Result<OwnedFd>,
        connection: &mut dyn FnMut(u64) -> Option<Deposit>,
    ) -> (Ledger, Vec<Offered>) {
        let limits = Limits::default();
        let patience = millis(limits.patience);
        let mut ledger = Ledger::new(limits);
        ledger.seq = self.seq;
        ledger.keys = self.keys;
        ledger.unanswered = self.unanswered;
        ledger.is_shut = self.is_shut;
        let sockets = self
            .sockets
            .into_iter()
            .filter_map(|(seq, address, index)| {
                let socket = SocketRef {
                    address: AddressId(address),
                    index: SocketIndex(index),
                };
                // Without it the question stays without an answer, and the worker is replaced in time.
                Some((seq, (socket, lend(socket).ok()?)))
            });
        ledger.sockets = sockets.collect::<BTreeMap<_, _>>();
        let mut offered = Vec::new();
        for record in self.offers {
            let Some(connection) = connection(record.connection) else {
                continue;
            };
            let (verdict, decided) = oneshot::channel();
            offered.push(Offered {
                connection: record.connection,
                verdict: decided,
            });
            let offer = Offer {
                connection,
                verdict,
                is_sent: record.is_sent,
                deadline: record.is_acknowledged.then(|| now.saturating_add(patience)),
            };
            ledger.offers.insert(record.seq, offer);
        }
        // Without its descriptor nothing is worth waiting for.
        let carrier = |record: CarrierRecord| {
            let seq = record.seq;
            let has_descriptor =
                ledger.sockets.contains_key(&seq) || ledger.offers.contains_key(&seq);
            has_descriptor.then(|| Carrier {
                seq,
                line: record.line.into_bytes(),
            })
        };
        ledger.handles = HandleQueue::resume(
            patience,
            now,
            self.in_flight.and_then(carrier),
            self.waiting.into_iter().filter_map(carrier),
        );
        let waiting = ledger.handles.waiting();
        ledger.queued += waiting.map(|carrier| carrier.line.len()).sum::<usize>();
        for record in self.unwritten {
            let line = record.line.into_bytes();
            let piece = Piece {
                line,
                written: record.written,
                what: record.what,
                is_tried: false,
            };
            if record.is_tried && ledger.doubt.is_none() && ledger.unwritten.is_empty() {
                ledger.suspect(piece, now, has_preload);
            } else {
                ledger.queued += piece.line.len().saturating_sub(piece.written);
                ledger.unwritten.push_back(piece);
            }
        }
        (ledger, offered)
    }
}

impl Ledger {
    /// The predecessor was about to send this. A preload script can say whether it has come; of any
    /// other worker the likely is assumed, which is that it has.
    fn suspect(&mut self, mut piece: Piece, now: u64, has_preload: bool) {
        if piece.written > 0 || piece.line.len() > LONGEST_WHOLE {
            // Whatever came next might be read as the rest of it, which would end the worker.
            return self.breaks(Broken::Torn(piece.line.len()));
        }
        let is_socket = matches!(piece.what, What::Carrier(seq) if self.sockets.contains_key(&seq));
        if let What::Carrier(seq) = piece.what
            && let Some(offer) = self.offers.get_mut(&seq)
        {
            offer.is_sent = true;
        }
        if has_preload {
            // For the next successor too, unless it is resolved before.
            piece.is_tried = true;
            let number = self.number();
            self.doubt = Some(Doubt {
                piece,
                question: number,
                deadline: now.saturating_add(millis(SYNC_WAIT)),
            });
            self.say(&Order::Sync { number }, What::Repeatable);
        } else if is_socket || piece.what == What::Repeatable {
            // A worker that gets it twice closes the second one.
            self.queued += piece.line.len();
            self.unwritten.push_front(piece);
        }
    }
}
