//! The clock that every deadline is measured by. It keeps no state and knows no calendar.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_MONOTONIC`: since boot, without the time the machine was suspended.
///
/// Not `CLOCK_BOOTTIME`: epoll and futex time-outs, which wake us, run on the monotonic clock,
/// and after a suspend every drain would be over at once although no worker had a moment to
/// finish anything. Both clocks are the same for all processes of one boot, so a deadline
/// survives an exec (clock_gettime(2)).
#[must_use]
pub fn monotonic_millis() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(nanos / 1_000_000)
}

/// The same clock in microseconds.
#[must_use]
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(nanos / 1000)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::monotonic_millis;

    #[test]
    fn runs_with_the_clock_of_timers() {
        let around = Instant::now();
        let millis = monotonic_millis();
        let within = Instant::now();
        while within.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let least = within.elapsed().as_millis();
        let passed = u128::from(monotonic_millis() - millis);
        let most = around.elapsed().as_millis();
        assert!(
            passed + 1 >= least && passed <= most + 1,
            "{passed} ms, not {least} to {most}"
        );
    }
}
