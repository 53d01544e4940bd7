//! A virtual worker: what its process is and has, between the steps of its script.

use segue_core::{SocketIndex, WorkerId};

use crate::plan::Script;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) worker: WorkerId,
    pub(crate) script: Script,
    pub(crate) is_alive: bool,
    /// It has a channel, and nobody has closed it.
    pub(crate) has_channel: bool,
    /// Sockets it accepts from.
    pub(crate) listening: Vec<(u32, SocketIndex)>,
    pub(crate) blocked_until: u64,
    /// Its last open connection ends then.
    pub(crate) busy_until: u64,
    pub(crate) is_disconnecting: bool,
    /// Its preload script has said that it is there.
    pub(crate) is_preloaded: bool,
    pub(crate) accepted: u32,
    /// When it was born.
    pub(crate) born: u64,
    /// Answers and errors since it was told to count.
    pub(crate) counts: Option<(u64, u64)>,
    /// What it says over its channel arrives in order: not before this.
    pub(crate) heard_until: u64,
    /// Handshakes noted by `BeginSettle`.
    pub(crate) noted: Vec<usize>,
}

impl Process {
    pub(crate) fn born(worker: WorkerId, script: Script, born: u64) -> Self {
        Self {
            worker,
            script,
            is_alive: true,
            has_channel: true,
            listening: Vec::new(),
            blocked_until: 0,
            busy_until: 0,
            is_disconnecting: false,
            is_preloaded: false,
            accepted: 0,
            born,
            counts: None,
            heard_until: 0,
            noted: Vec::new(),
        }
    }

    pub(crate) fn accepts_from(&self, place: u32, index: SocketIndex) -> bool {
        self.is_alive && self.listening.contains(&(place, index))
    }

    pub(crate) fn listens_at(&self, place: u32) -> bool {
        self.is_alive && self.listening.iter().any(|(at, _)| *at == place)
    }
}
