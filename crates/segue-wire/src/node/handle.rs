//! When a message with a descriptor may be sent: one at a time, the next after the worker's
//! acknowledgement. Pure bookkeeping; time is an argument, in milliseconds of any monotonic clock.
//!
//! Only this direction needs it. A descriptor that a worker sends is acknowledged and closed at
//! once, whether or not it arrived with its message: nobody here has a use for it, and a refusal
//! would only make Node send it again.

use std::collections::VecDeque;

/// How often Node sends a refused message again before it gives up; we do the same.
pub const RESEND_LIMIT: u32 = 3;

/// The messages with descriptors that one worker has not acknowledged yet, in order.
#[derive(Debug)]
pub struct HandleQueue<H> {
    patience: u64,
    in_flight: Option<InFlight<H>>,
    waiting: VecDeque<H>,
}

#[derive(Debug)]
struct InFlight<H> {
    message: H,
    deadline: u64,
    resends: u32,
}

/// What an acknowledgement means.
#[derive(Debug, PartialEq, Eq)]
pub enum Acknowledged<'a, H> {
    /// The message in flight has arrived; `next` is in flight from now on and is to be sent.
    Arrived { message: H, next: Option<&'a H> },
    /// Nothing was in flight: the worker's channel is out of step.
    Unexpected,
}

/// What a refusal means.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<'a, H> {
    /// Send it again.
    Resend(&'a H),
    /// It was sent often enough; it will not arrive.
    GivenUp(&'a H),
    /// Nothing was in flight: the worker's channel is out of step.
    Unexpected,
}

impl<H> HandleQueue<H> {
    /// `patience`: how long a message may be in flight, in milliseconds.
    #[must_use]
    pub fn new(patience: u64) -> Self {
        Self {
            patience,
            in_flight: None,
            waiting: VecDeque::new(),
        }
    }

    /// Takes a message and returns it if it is to be sent now.
    pub fn offer(&mut self, message: H, now: u64) -> Option<&H> {
        if self.in_flight.is_some() {
            self.waiting.push_back(message);
            return None;
        }
        Some(self.launch(message, now))
    }

    /// The worker has the descriptor.
    pub fn acknowledge(&mut self, now: u64) -> Acknowledged<'_, H> {
        let Some(arrived) = self.in_flight.take() else {
            return Acknowledged::Unexpected;
        };
        let next = self.waiting.pop_front();
        let next = next.map(|message| self.launch(message, now));
        Acknowledged::Arrived {
            message: arrived.message,
            next,
        }
    }

    /// The worker got the message without its descriptor.
    pub fn refuse(&mut self, now: u64) -> Refused<'_, H> {
        let Some(in_flight) = &mut self.in_flight else {
            return Refused::Unexpected;
        };
        if in_flight.resends == RESEND_LIMIT {
            return Refused::GivenUp(&in_flight.message);
        }
        in_flight.resends += 1;
        in_flight.deadline = now.saturating_add(self.patience);
        Refused::Resend(&in_flight.message)
    }

    /// The message in flight, if there is one.
    #[must_use]
    pub fn in_flight(&self) -> Option<&H> {
        self.in_flight.as_ref().map(|in_flight| &in_flight.message)
    }

    /// Messages that wait for their turn, the next one first.
    pub fn waiting(&self) -> impl Iterator<Item = &H> {
        self.waiting.iter()
    }

    /// A queue of before: `in_flight` has been sent, or will be; it has `patience` from now on.
    #[must_use]
    pub fn resume(
        patience: u64,
        now: u64,
        in_flight: Option<H>,
        waiting: impl IntoIterator<Item = H>,
    ) -> Self {
        let mut queue = Self::new(patience);
        if let Some(message) = in_flight {
            queue.launch(message, now);
        }
        queue.waiting.extend(waiting);
        queue
    }

    /// When the message in flight is overdue; `None` while there is none.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.in_flight.as_ref().map(|in_flight| in_flight.deadline)
    }

    /// Messages in flight or waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.in_flight.is_some()) + self.waiting.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn launch(&mut self, message: H, now: u64) -> &H {
        let deadline = now.saturating_add(self.patience);
        let launched = self.in_flight.insert(InFlight {
            message,
            deadline,
            resends: 0,
        });
        &launched.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sends_one_at_a_time() {
        let mut queue = HandleQueue::new(30);
        assert_eq!(queue.deadline(), None);
        assert_eq!(queue.offer('a', 0), Some(&'a'));
        assert_eq!(queue.offer('b', 5), None);
        assert_eq!(queue.offer('c', 6), None);
        assert_eq!((queue.len(), queue.deadline()), (3, Some(30)));
        assert_eq!(
            queue.acknowledge(10),
            Acknowledged::Arrived {
                message: 'a',
                next: Some(&'b')
            }
        );
        assert_eq!(queue.deadline(), Some(40));
        assert_eq!(
            queue.acknowledge(20),
            Acknowledged::Arrived {
                message: 'b',
                next: Some(&'c')
            }
        );
        assert_eq!(
            queue.acknowledge(21),
            Acknowledged::Arrived {
                message: 'c',
                next: None
            }
        );
        assert!(queue.is_empty());
        assert_eq!(queue.acknowledge(22), Acknowledged::Unexpected);
        assert_eq!(queue.refuse(22), Refused::Unexpected);
    }

    #[test]
    fn sends_again_three_times() {
        let mut queue = HandleQueue::new(30);
        queue.offer('a', 0);
        queue.offer('b', 0);
        for now in 1..=3 {
            assert_eq!(queue.refuse(now), Refused::Resend(&'a'));
            assert_eq!(queue.deadline(), Some(now + 30));
        }
        assert_eq!(queue.refuse(4), Refused::GivenUp(&'a'));
        assert_eq!(
            queue.acknowledge(5),
            Acknowledged::Arrived {
                message: 'a',
                next: Some(&'b')
            }
        );
        assert_eq!(queue.refuse(6), Refused::Resend(&'b'));
    }

    proptest! {
        #[test]
        fn keeps_order_and_loses_nothing(steps in proptest::collection::vec(0..3u8, 0..200)) {
            let mut queue = HandleQueue::new(10);
            let (mut offered, mut sent, mut arrived) = (0u32, Vec::new(), Vec::new());
            for (now, step) in (0u64..).zip(steps) {
                match step {
                    0 => {
                        sent.extend(queue.offer(offered, now).copied());
                        offered += 1;
                    }
                    1 => {
                        if let Acknowledged::Arrived { message, next } = queue.acknowledge(now) {
                            sent.extend(next.copied());
                            arrived.push(message);
                        }
                    }
                    _ => {
                        let in_flight = sent.last().copied();
                        if let Refused::Resend(again) = queue.refuse(now) {
                            prop_assert_eq!(Some(*again), in_flight);
                        }
                    }
                }
                prop_assert_eq!(queue.deadline().is_some(), !queue.is_empty());
                prop_assert!(sent.len() - arrived.len() <= 1);
                prop_assert_eq!(arrived.len() + queue.len(), offered as usize);
            }
            prop_assert!(sent.iter().copied().eq(0..sent.len() as u32));
            prop_assert!(arrived.iter().copied().eq(0..arrived.len() as u32));
        }
    }
}
