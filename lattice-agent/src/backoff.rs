//! How long to wait before the next try.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Doubling waits up to a cap. Each is cut at random to between half and all of it, so that many who lost the same peer do not
/// come back at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// Waits that begin at about `first` and never exceed `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, tries: 0 }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        // The standard library seeds each of these states anew.
        self.wait_with(RandomState::new().hash_one(self.tries))
    }

    fn wait_with(&mut self, random: u64) -> Duration {
        let whole = self.first.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        let share = 0.5 + 0.5 * (random as f64 / u64::MAX as f64);
        whole.mul_f64(share)
    }

    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|_| backoff.wait_with(u64::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.wait_with(0).as_millis(), 50);
        for _ in 0..100 {
            assert!(backoff.wait() <= Duration::from_secs(1));
        }
    }
}
