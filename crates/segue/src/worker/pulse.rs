//! Whether a worker's event loop turns, by pings: when the next one is due, and what its silence means.
//! Reads no clock and sends nothing.

use std::time::Duration;

use segue_core::Time;

/// Between two pings.
const PERIOD: Duration = Duration::from_secs(1);

/// A worker whose answer does not come for so long is blocked.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever looks so much later than it was to has been held up itself, and may have answers to read.
const HELD_UP: Duration = Duration::from_millis(100);

/// The pings of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulse {
    number: u64,
    phase: Phase,
    said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is out.
    Resting {
        until: Time,
    },
    Waiting {
        until: Time,
    },
    /// It has been waited for long enough. The answer ends it, whenever it comes.
    Overdue,
}

/// What has been told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// A supervisor before this one may have told anything.
    Nothing,
    Turns,
    Blocked,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Ping(u64),
    /// To be told: it is blocked.
    Blocked,
}

impl Pulse {
    /// Of a worker that is pinged from now on.
    pub(crate) fn new(now: Time) -> Self {
        Self {
            number: now.0,
            phase: Phase::Resting { until: now },
            said: Said::Nothing,
        }
    }

    /// When [`Pulse::tick`] has something to do; never while nothing but its answer is awaited.
    pub(crate) fn due(&self) -> Option<Time> {
        match self.phase {
            Phase::Resting { until } | Phase::Waiting { until } => Some(until),
            Phase::Overdue => None,
        }
    }

    pub(crate) fn tick(&mut self, now: Time) -> Option<Beat> {
        match self.phase {
            Phase::Resting { until } if now >= until => {
                self.number += 1;
                self.phase = Phase::Waiting {
                    until: now + PATIENCE,
                };
                Some(Beat::Ping(self.number))
            }
            Phase::Waiting { until } if now >= until + HELD_UP => {
                self.phase = Phase::Waiting {
                    until: now + HELD_UP,
                };
                None
            }
            Phase::Waiting { until } if now >= until => {
                self.phase = Phase::Overdue;
                self.said = Said::Blocked;
                Some(Beat::Blocked)
            }
            Phase::Resting { .. } | Phase::Waiting { .. } | Phase::Overdue => None,
        }
    }

    /// It has answered. True if it is news that its event loop turns.
    pub(crate) fn answered(&mut self, number: u64, now: Time) -> bool {
        if number != self.number || matches!(self.phase, Phase::Resting { .. }) {
            return false;
        }
        self.phase = Phase::Resting {
            until: now + PERIOD,
        };
        std::mem::replace(&mut self.said, Said::Turns) != Said::Turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(10_000);

    fn at(millis: u64) -> Time {
        Time(START.0 + millis)
    }

    #[test]
    fn who_answers_is_pinged_once_a_second_and_not_talked_about() {
        let mut pulse = Pulse::new(START);
        assert_eq!(pulse.tick(START), Some(Beat::Ping(10_001)));
        assert_eq!(pulse.tick(at(3)), None);
        assert!(pulse.answered(10_001, at(5)), "whatever was said before");
        assert_eq!(pulse.due(), Some(at(1005)));
        for second in 1..10 {
            let now = at(second * 1005);
            let number = START.0 + 1 + second;
            assert_eq!(pulse.tick(now), Some(Beat::Ping(number)));
            assert!(!pulse.answered(number, Time(now.0 + 5)));
        }
    }

    #[test]
    fn silence_for_a_second_is_told_once_and_its_end() {
        let mut pulse = Pulse::new(START);
        pulse.tick(START);
        pulse.answered(10_001, START);
        assert_eq!(pulse.tick(at(1000)), Some(Beat::Ping(10_002)));
        assert_eq!(pulse.due(), Some(at(2000)));
        assert_eq!(pulse.tick(at(1999)), None);
        assert_eq!(pulse.tick(at(2000)), Some(Beat::Blocked));
        assert_eq!(pulse.due(), None, "no more pings pile up");
        assert_eq!(pulse.tick(at(9000)), None);
        assert!(!pulse.answered(10_001, at(9000)), "an answer of before");
        assert!(pulse.answered(10_002, at(9000)));
        assert_eq!(pulse.due(), Some(at(10_000)));
    }

    #[test]
    fn who_was_held_up_itself_blames_nobody() {
        let mut pulse = Pulse::new(START);
        pulse.tick(START);
        // The whole machine stood still; the answer may be there to be read.
        assert_eq!(pulse.tick(at(5000)), None);
        assert_eq!(pulse.due(), Some(at(5100)));
        assert_eq!(pulse.tick(at(5100)), Some(Beat::Blocked));
    }
}
