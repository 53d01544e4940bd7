//! Whether a canary answers with clearly more errors than the generation it is to replace.
//!
//! Clearly means three things at once: at least [`FEWEST_ERRORS`]; a rate above the old one's by
//! more than `max_errors`; and more than chance explains. For the last, the number of errors that
//! an acceptable release would make in as many answers is expected to be
//! `λ = answers · (old rate + max_errors)`, and to vary as such counts do (their variance is their
//! mean), plus what is uncertain about the old rate itself. Only what lies four standard deviations
//! above is a verdict: the test is made again with every count, and a good release must pass all.
//! The old rate is taken a little too high, `(errors + 1) / (answers + 10)`, so that a generation
//! that has answered little condemns nobody easily.

use crate::action::Action;
use crate::app::App;
use crate::cause::{Cause, Failure};
use crate::datum::portable_record;
use crate::ids::WorkerId;
use crate::reload::{Reload, Step};
use crate::view::SideView;
use crate::weigh::Standing;

/// Fewer are an accident.
const FEWEST_ERRORS: u64 = 5;

/// Four standard deviations, squared.
const DEVIATIONS_SQUARED: u128 = 16;

/// What one worker has answered while the canary ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) is_new: bool,
    pub(crate) answers: u64,
    pub(crate) errors: u64,
}

impl Reload {
    /// New and old.
    pub(crate) fn tally(&self) -> (SideView, SideView) {
        let side = |is_new: bool| {
            let counts = self.counts.values().filter(|count| count.is_new == is_new);
            counts.fold(SideView::default(), |sum, count| SideView {
                // A connection that was cut off is an error without an answer.
                answers: sum.answers.saturating_add(count.answers.max(count.errors)),
                errors: sum.errors.saturating_add(count.errors),
            })
        };
        (side(true), side(false))
    }
}

impl App {
    /// Has the answers counted of all who get connections.
    pub(crate) fn count_members(&mut self) {
        let (standings, _) = self.standings();
        let Some(reload) = &mut self.reload else {
            return;
        };
        let mut begun = Vec::new();
        for (worker, standing) in standings {
            let is_new = matches!(standing, Standing::Canary { .. });
            reload.counts.entry(worker).or_insert_with(|| {
                begun.push(worker);
                Count {
                    is_new,
                    answers: 0,
                    errors: 0,
                }
            });
        }
        for worker in begun {
            self.order(Action::Count { worker });
        }
    }

    pub(crate) fn stop_counting(&mut self, reload: &Reload) {
        if let Step::Canary { .. } = reload.step {
            for worker in reload.counts.keys() {
                if self.workers.contains_key(worker) {
                    self.order(Action::StopCounting { worker: *worker });
                }
            }
        }
    }

    pub(crate) fn counted(&mut self, id: WorkerId, answers: u64, errors: u64) {
        if let Some(reload) = &mut self.reload
            && let Step::Canary { .. } = reload.step
            && let Some(count) = reload.counts.get_mut(&id)
        {
            // Totals: one that comes late says nothing new.
            count.answers = count.answers.max(answers);
            count.errors = count.errors.max(errors);
        }
    }

    /// The canary has lost.
    pub(crate) fn canary_failure(&self) -> Option<Failure> {
        let reload = self.reload.as_ref()?;
        let Step::Canary { canary, .. } = reload.step else {
            return None;
        };
        let (new, old) = reload.tally();
        is_clearly_worse(new, old, canary.max_errors).then_some(Failure {
            worker: None,
            slot: None,
            cause: Cause::CanaryErrors {
                new: per_mille(new),
                old: per_mille(old),
            },
        })
    }
}

fn per_mille(side: SideView) -> u32 {
    let rate = u128::from(side.errors) * 1000 / u128::from(side.answers.max(1));
    u32::try_from(rate).unwrap_or(u32::MAX)
}

/// With `n` answers and `e` errors of the new side, `d` the old answers + 10:
/// `(e - λ)² > 16 · λ · (1 + n/d)`, all multiplied by what makes it whole numbers.
fn is_clearly_worse(new: SideView, old: SideView, max_errors: u32) -> bool {
    let (new, old) = scaled(new, old);
    if new.errors < FEWEST_ERRORS {
        return false;
    }
    let n = u128::from(new.answers.max(new.errors));
    let d = u128::from(old.answers.max(old.errors)) + 10;
    // λ = l / q
    let q = 1000 * d;
    let l = n * (1000 * (u128::from(old.errors) + 1) + u128::from(max_errors.min(1000)) * d);
    let errors = u128::from(new.errors) * q;
    if errors <= l {
        return false;
    }
    let above = errors - l;
    above.saturating_mul(above).saturating_mul(d)
        > DEVIATIONS_SQUARED
            .saturating_mul(l)
            .saturating_mul(q)
            .saturating_mul(n + d)
}

/// Halved until the products above fit: by then nothing is left to chance anyway.
fn scaled(mut new: SideView, mut old: SideView) -> (SideView, SideView) {
    while new.answers.max(old.answers).max(new.errors).max(old.errors) > 1_000_000 {
        for side in [&mut new, &mut old] {
            side.answers /= 2;
            side.errors /= 2;
        }
    }
    (new, old)
}

portable_record!(Count {
    is_new,
    answers,
    errors,
});

#[cfg(test)]
mod tests {
    use super::*;

    fn check(new: (u64, u64), old: (u64, u64), expected: bool) {
        let side = |(answers, errors)| SideView { answers, errors };
        assert_eq!(
            is_clearly_worse(side(new), side(old), 10),
            expected,
            "new {new:?}, old {old:?}"
        );
    }

    #[test]
    fn few_errors_say_nothing() {
        check((0, 0), (0, 0), false);
        check((4, 4), (1_000, 0), false);
        check((1_000, 4), (100_000, 0), false);
    }

    #[test]
    fn what_is_clearly_worse_is_found_early() {
        // Everything fails.
        check((5, 5), (45, 0), true);
        check((10, 10), (0, 0), true);
        // One in twenty, at a tenth of the load.
        check((100, 5), (900, 0), false);
        check((200, 10), (1_800, 0), true);
        // Worse than an old release that is bad itself.
        check((500, 100), (4_500, 450), true);
        check((100_000_000, 5_000_000), (900_000_000, 0), true);
    }

    #[test]
    fn what_an_old_release_does_as_well_condemns_nobody() {
        check((1_000, 50), (9_000, 450), false);
        check((1_000, 60), (9_000, 450), false);
        check((10_000_000, 500_000), (90_000_000, 4_500_000), false);
        check((100_000, 1_900), (900_000, 9_000), false);
        // Nothing is known of the old one.
        check((100, 12), (0, 0), false);
        check((100, 8), (10, 1), false);
    }

    /// A release that is as good as the old one passes all the looks at a long canary, however
    /// chance falls: pseudo-random errors at the same rate, with a seed for each run.
    #[test]
    fn a_release_that_is_as_good_passes() {
        for seed in 1..=400_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut chance = |per_mille: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % 1000 < per_mille
            };
            let rate = [0, 1, 10, 50, 200][usize::try_from(seed % 5).unwrap_or(0)];
            let (mut new, mut old) = (SideView::default(), SideView::default());
            for _ in 0..3_000 {
                let side = if chance(100) { &mut new } else { &mut old };
                side.answers += 1;
                side.errors += u64::from(chance(rate));
                assert!(
                    !is_clearly_worse(new, old, 10),
                    "seed {seed}: {new:?} {old:?}"
                );
            }
        }
    }
}
