//! When a supervisor that has died is started again. Decides; starts nothing.

use std::time::Duration;

/// One that dies sooner after it has begun to serve has had a short life.
const PROVEN: Duration = Duration::from_secs(1);

/// So many failed starts in a row are followed by another one at once.
const FAILED_AT_ONCE: u32 = 2;

/// So many short lives in a row are followed by another one at once: somebody may be killing it.
const SHORT_AT_ONCE: u32 = 10;

/// The first wait, and the one after short lives.
const WAIT: Duration = Duration::from_secs(1);

/// The longest wait after failed starts; it doubles.
const LONGEST: Duration = Duration::from_secs(30);

/// The deaths so far. Time is what has passed since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// Starts in a row that came to nothing.
    failed: u32,
    /// Short lives in a row.
    short: u32,
    /// When the present one began to serve.
    ready: Option<Duration>,
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequel {
    /// Until the next start.
    pub(super) wait: Duration,
    /// Failed starts and short lives in a row, this one included.
    pub(super) failed: u32,
    /// It had never served.
    pub(super) was_unready: bool,
}

impl Deaths {
    pub(super) fn started(&mut self) {
        self.ready = None;
    }

    pub(super) fn ready(&mut self, now: Duration) {
        self.ready.get_or_insert(now);
    }

    pub(super) fn died(&mut self, now: Duration) -> Sequel {
        let lived = self.ready.map(|ready| now.saturating_sub(ready));
        match lived {
            None => self.failed = self.failed.saturating_add(1),
            Some(lived) if lived < PROVEN => self.short = self.short.saturating_add(1),
            Some(_) => (self.failed, self.short) = (0, 0),
        }
        let wait = match lived {
            None => match self.failed.checked_sub(FAILED_AT_ONCE) {
                None | Some(0) => Duration::ZERO,
                Some(beyond) => WAIT
                    .saturating_mul(1_u32.checked_shl(beyond - 1).unwrap_or(u32::MAX))
                    .min(LONGEST),
            },
            Some(_) if self.short > SHORT_AT_ONCE => WAIT,
            Some(_) => Duration::ZERO,
        };
        Sequel {
            wait,
            failed: self.failed.saturating_add(self.short),
            was_unready: lived.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long each lived after it had begun to serve, in milliseconds; `None`: it never did.
    fn waits(lives: &[Option<u64>]) -> Vec<u64> {
        let mut record = Deaths::default();
        let mut now = Duration::ZERO;
        lives
            .iter()
            .map(|life| {
                record.started();
                now += Duration::from_millis(10);
                if let Some(life) = life {
                    record.ready(now);
                    now += Duration::from_millis(*life);
                }
                record.died(now).wait.as_secs()
            })
            .collect()
    }

    #[test]
    fn one_that_has_served_is_followed_at_once() {
        assert_eq!(waits(&[Some(1000); 20]), [0; 20]);
        assert_eq!(waits(&[Some(5), Some(1000), Some(5)]), [0; 3]);
    }

    #[test]
    fn many_short_lives_are_followed_more_slowly() {
        let mut expected = vec![0; 10];
        expected.extend([1; 5]);
        assert_eq!(waits(&[Some(5); 15]), expected);
        let mut lives = vec![Some(5); 10];
        lives.extend([Some(1000), Some(5)]);
        assert_eq!(waits(&lives), [0; 12]);
    }

    #[test]
    fn failed_starts_are_held_back() {
        let never = [None; 10];
        assert_eq!(waits(&never), [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(
            waits(&[None, None, None, Some(2000), None]),
            [0, 0, 1, 0, 0]
        );
        // To serve for a moment proves little.
        assert_eq!(waits(&[None, None, Some(5), None]), [0, 0, 0, 1]);
    }
}
