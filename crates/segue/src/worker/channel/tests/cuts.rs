//! A conversation whose supervisor ends at each step of it in turn, and another one goes on.

use super::supervision::{Manner, Stage};

/// No conversation takes so many steps.
const MOST_STEPS: usize = 200;

/// Every combination of what makes a difference.
fn manners() -> impl Iterator<Item = Manner> {
    let both = [false, true];
    both.into_iter().flat_map(move |is_preloaded| {
        both.into_iter().flat_map(move |in_pieces| {
            both.into_iter().map(move |acts_alone| Manner {
                is_preloaded,
                in_pieces,
                pace: if in_pieces { 1 } else { 7 },
                acts_alone,
            })
        })
    })
}

#[test]
fn one_supervisor_has_the_whole_conversation() {
    for manner in manners() {
        assert_eq!(Stage::new(manner, &[]).play(), 0);
    }
}

#[test]
fn a_successor_goes_on_after_every_step() {
    for manner in manners() {
        let cut = |steps: &usize| Stage::new(manner, &[*steps]).play() == 1;
        let count = (0..MOST_STEPS).take_while(cut).count();
        assert!((50..MOST_STEPS).contains(&count), "{count}, {manner:?}");
    }
}

/// Supervisors of which several in a row end somewhere in the middle.
fn successions(count: usize, seed: u64) {
    let mut state = seed;
    let mut random = |below: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 0xffff).unwrap_or_default() % below
    };
    for _ in 0..count {
        for manner in manners() {
            // The first one is well under way; after the first steps of a successor nothing is new.
            let first = random(150);
            let more = (0..=random(3)).map(|_| random(16));
            let cuts: Vec<usize> = [first].into_iter().chain(more).collect();
            Stage::new(manner, &cuts).play();
        }
    }
}

#[test]
fn successors_may_end_as_well() {
    successions(60, 0x5eed);
}

#[test]
#[ignore = "long"]
fn successors_may_end_thousands_of_times() {
    successions(4_000, 0x5eed2);
}
