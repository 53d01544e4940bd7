//! A stable place for one worker, and when its next one may be spawned: exponential backoff
//! and restart intensity.

use std::collections::VecDeque;
use std::time::Duration;

use crate::datum::{portable_choice, portable_record};
use crate::ids::WorkerId;
use crate::settings::Settings;
use crate::time::Time;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The worker of the serving generation here; none while its successor is awaited.
    pub(crate) occupant: Option<WorkerId>,
    /// A worker of the same generation that boots to take the occupant's place.
    pub(crate) successor: Option<WorkerId>,
    /// No successor is spawned before this.
    pub(crate) replace_after: Time,
    pub(crate) respawn: Respawn,
}

/// When a vacant slot is filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Respawn {
    pub(crate) next: Next,
    /// Failures in a row without a long life between them.
    streak: u32,
    /// Respawns within the intensity window, oldest first.
    recent: VecDeque<Time>,
    /// Respawns since the slot was made or reloaded.
    pub(crate) restarts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    At(Time),
    GivenUp,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Respawn { wait: Duration },
    GiveUp,
}

impl Slot {
    pub(crate) fn vacant(now: Time) -> Self {
        Self {
            occupant: None,
            successor: None,
            replace_after: now,
            respawn: Respawn::fresh(now),
        }
    }
}

impl Respawn {
    pub(crate) fn fresh(now: Time) -> Self {
        Self {
            next: Next::At(now),
            streak: 0,
            recent: VecDeque::new(),
            restarts: 0,
        }
    }

    /// The slot's worker failed after having been ready for `served` (`None`: never ready).
    pub(crate) fn fail(
        &mut self,
        now: Time,
        served: Option<Duration>,
        settings: &Settings,
    ) -> Verdict {
        if served.is_some_and(|served| served >= settings.backoff_max) {
            self.streak = 0;
        }
        // A worker that did serve is replaced at once the first time; one that never came up waits.
        let wait = match (self.streak, served) {
            (0, Some(_)) => Duration::ZERO,
            (0, None) => settings.backoff_min,
            (streak, _) => settings
                .backoff_min
                .saturating_mul(1_u32.checked_shl(streak - 1).unwrap_or(u32::MAX))
                .min(settings.backoff_max),
        };
        let window_start = now - settings.intensity.within;
        while self.recent.front().is_some_and(|at| *at < window_start) {
            self.recent.pop_front();
        }
        if self.recent.len() >= settings.intensity.restarts as usize {
            self.next = Next::GivenUp;
            return Verdict::GiveUp;
        }
        self.streak = self.streak.saturating_add(1);
        self.recent.push_back(now);
        self.restarts = self.restarts.saturating_add(1);
        self.next = Next::At(now + wait);
        Verdict::Respawn { wait }
    }
}

portable_record!(Slot {
    occupant,
    successor,
    replace_after,
    respawn,
});

portable_record!(Respawn {
    next,
    streak,
    recent,
    restarts,
});

portable_choice!(Next [GivenUp] {} (At));

#[cfg(test)]
mod tests {
    use super::*;

    const SERVED_SHORT: Option<Duration> = Some(Duration::from_secs(1));
    const SERVED_LONG: Option<Duration> = Some(Duration::from_secs(60));

    fn waits(failures: &[Option<Duration>]) -> Vec<Option<u64>> {
        let settings = Settings {
            intensity: crate::Intensity {
                restarts: 6,
                within: Duration::from_secs(3600),
            },
            ..Settings::default()
        };
        let mut respawn = Respawn::fresh(Time(0));
        failures
            .iter()
            .map(|served| match respawn.fail(Time(1), *served, &settings) {
                Verdict::Respawn { wait } => Some(u64::try_from(wait.as_millis()).unwrap()),
                Verdict::GiveUp => None,
            })
            .collect()
    }

    #[test]
    fn waits_double_and_a_long_life_starts_afresh() {
        assert_eq!(
            waits(&[
                SERVED_SHORT,
                SERVED_SHORT,
                SERVED_SHORT,
                SERVED_LONG,
                SERVED_SHORT
            ]),
            [Some(0), Some(100), Some(200), Some(0), Some(100)]
        );
        assert_eq!(
            waits(&[None, None, None]),
            [Some(100), Some(100), Some(200)]
        );
    }

    #[test]
    fn the_slot_is_given_up_beyond_the_intensity() {
        assert_eq!(waits(&[None; 7]).last(), Some(&None));
    }

    #[test]
    fn restarts_outside_the_window_do_not_count() {
        let settings = Settings::default();
        let mut respawn = Respawn::fresh(Time(0));
        for minute in 0..100_u64 {
            let verdict = respawn.fail(Time(minute * 30_000), SERVED_LONG, &settings);
            assert_eq!(
                verdict,
                Verdict::Respawn {
                    wait: Duration::ZERO
                }
            );
        }
    }
}
