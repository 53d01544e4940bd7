//! One worker's life as the core sees it.
//!
//! ```text
//!   Booting ──ready──▶ Ready ──leave──▶ Quiet ──settled──▶ Draining ──▶ Drained ──▶ Stopping ──▶ Killed
//!      │ leaves before it serves                              (channel ended) (stop request) (SIGKILL)
//!      └──────────────────────────────────────────────────────────────────────▶ Stopping
//! ```
//! A process may exit in any phase. Phases only move to the right.

use std::collections::BTreeSet;

use crate::cause::Leaving;
use crate::datum::{portable_choice, portable_record};
use crate::ids::{AddressId, AskId, Generation, SlotId};
use crate::probe::Watch;
use crate::time::Time;
use crate::view::WorkerPhase;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) slot: SlotId,
    pub(crate) generation: Generation,
    pub(crate) phase: Phase,
    /// When the phase began.
    pub(crate) since: Time,
    pub(crate) channel: ChannelState,
    /// Where it listens.
    pub(crate) listens: BTreeSet<AddressId>,
    pub(crate) said_ready: bool,
    /// It has sent `READY=1`.
    pub(crate) is_notified: bool,
    /// Its process exists.
    pub(crate) is_spawned: bool,
    /// It has spoken over its channel, so it can be asked to drain that way.
    pub(crate) is_attached: bool,
    /// Its preload script runs.
    pub(crate) is_preloaded: bool,
    /// It uses more memory than its limit.
    pub(crate) is_over_memory: bool,
    /// Since when its event loop has not turned.
    pub(crate) blocked: Option<Time>,
    /// What its probes say.
    pub(crate) watch: Watch,
    /// Questions whose answer waits for the cut-over.
    pub(crate) held: Vec<Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Booting {
        until: Time,
    },
    Ready,
    Quiet {
        why: Leaving,
        check: Check,
        limit: Time,
    },
    Draining {
        why: Leaving,
        until: Time,
    },
    Drained {
        why: Leaving,
        stop_at: Time,
    },
    Stopping {
        why: Leaving,
        kill_at: Time,
    },
    Killed {
        why: Leaving,
        again_at: Time,
    },
}

/// Whether a quieted worker's queue is known to be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    At(Time),
    Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelState {
    Open,
    Ended { at: Time },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) ask: AskId,
    pub(crate) address: AddressId,
    pub(crate) since: Time,
}

impl Worker {
    pub(crate) fn booting(slot: SlotId, generation: Generation, now: Time, until: Time) -> Self {
        Self {
            slot,
            generation,
            phase: Phase::Booting { until },
            since: now,
            channel: ChannelState::Open,
            listens: BTreeSet::new(),
            said_ready: false,
            is_notified: false,
            is_spawned: false,
            is_attached: false,
            is_preloaded: false,
            is_over_memory: false,
            blocked: None,
            watch: Watch::default(),
            held: Vec::new(),
        }
    }

    pub(crate) fn enter(&mut self, now: Time, phase: Phase) {
        self.phase = phase;
        self.since = now;
    }

    /// Booting or ready: nobody has asked it to leave.
    pub(crate) fn stays(&self) -> bool {
        match self.phase {
            Phase::Booting { .. } | Phase::Ready => true,
            Phase::Quiet { .. }
            | Phase::Draining { .. }
            | Phase::Drained { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => false,
        }
    }

    /// Accepts, or will, whatever comes to a socket it holds.
    pub(crate) fn accepts(&self) -> bool {
        match self.phase {
            Phase::Booting { .. } | Phase::Ready | Phase::Quiet { .. } => true,
            Phase::Draining { .. }
            | Phase::Drained { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => false,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(crate) fn is_booting(&self) -> bool {
        matches!(self.phase, Phase::Booting { .. })
    }

    pub(crate) fn is_killed(&self) -> bool {
        matches!(self.phase, Phase::Killed { .. })
    }

    /// Why it leaves, if it does.
    pub(crate) fn leaving(&self) -> Option<Leaving> {
        match self.phase {
            Phase::Booting { .. } | Phase::Ready => None,
            Phase::Quiet { why, .. }
            | Phase::Draining { why, .. }
            | Phase::Drained { why, .. }
            | Phase::Stopping { why, .. }
            | Phase::Killed { why, .. } => Some(why),
        }
    }

    pub(crate) fn has_channel(&self) -> bool {
        self.channel == ChannelState::Open
    }

    /// The instant at which this phase ends by itself, if there is one.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Booting { until } | Phase::Draining { until, .. } => Some(until),
            Phase::Ready => None,
            Phase::Quiet {
                check: Check::At(at),
                limit,
                ..
            } => Some(at.min(limit)),
            Phase::Quiet {
                check: Check::Asked,
                limit,
                ..
            } => Some(limit),
            Phase::Drained { stop_at, .. } => Some(stop_at),
            Phase::Stopping { kill_at, .. } => Some(kill_at),
            Phase::Killed { again_at, .. } => Some(again_at),
        }
    }

    pub(crate) fn view_phase(&self) -> (WorkerPhase, Option<Time>) {
        match self.phase {
            Phase::Booting { until } => (WorkerPhase::Booting, Some(until)),
            Phase::Ready => (WorkerPhase::Ready, None),
            Phase::Quiet { limit, .. } => (WorkerPhase::Quiet, Some(limit)),
            Phase::Draining { until, .. } => (WorkerPhase::Draining, Some(until)),
            Phase::Drained { stop_at, .. } => (WorkerPhase::Stopping, Some(stop_at)),
            Phase::Stopping { kill_at, .. } => (WorkerPhase::Stopping, Some(kill_at)),
            Phase::Killed { .. } => (WorkerPhase::Killed, None),
        }
    }
}

portable_record!(Worker {
    slot,
    generation,
    phase,
    since,
    channel,
    listens,
    said_ready,
    is_notified = false,
    is_spawned,
    is_attached,
    is_preloaded,
    is_over_memory,
    blocked,
    watch = Watch::default(),
    held,
});

portable_choice!(
    Phase
    [Ready]
    {
        Booting { until },
        Quiet { why, check, limit },
        Draining { why, until },
        Drained { why, stop_at },
        Stopping { why, kill_at },
        Killed { why, again_at },
    }
);

portable_choice!(Check [Asked] {} (At));

portable_choice!(ChannelState [Open] { Ended { at } });

portable_record!(Held {
    ask,
    address,
    since
});
