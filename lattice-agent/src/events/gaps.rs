//! Sequence numbers that never came.
//!
//! Two CPUs may number and write their records in different order, so a hole is only said to be one when the ring buffer was read to
//! where it ended after the number was given. Numbers that the agent gives itself lie in no ring: for their sake that must be so twice.

use std::collections::BTreeSet;

use lattice_api::v1::Gap;

/// Holes that are followed at once; past that the oldest are said to be gaps.
const MAX_OPEN: usize = 65_536;

/// Follows the sequence.
#[derive(Debug)]
pub struct Gaps {
    /// All below were seen or said to be lost.
    next: u64,
    /// Seen above `next`.
    ahead: BTreeSet<u64>,
    /// The number that the kernel had given last when the agent started: what is missing up to it was lost before.
    at_start: u64,
    /// Where the highest number stood when the ring buffer was last found empty.
    settled_to: u64,
}

impl Gaps {
    /// Follows the sequence after `last`, which all was kept up to; `at_start` is the number that the kernel has given by now.
    pub fn after(last: u64, at_start: u64) -> Self {
        Self {
            next: last + 1,
            ahead: BTreeSet::new(),
            at_start,
            settled_to: last,
        }
    }

    /// A record came. Returns whether it is new.
    pub fn saw(&mut self, sequence: u64) -> bool {
        if sequence < self.next || !self.ahead.insert(sequence) {
            return false;
        }
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        true
    }

    /// The ring buffer was read to where it ended when `last` was the latest number. Returns the holes at or below the number of the time
    /// before.
    pub fn found_empty(&mut self, last: u64) -> Vec<Gap> {
        let sure_to = if self.ahead.len() > MAX_OPEN {
            last
        } else {
            self.settled_to
        };
        self.settled_to = last;
        let mut gaps = Vec::new();
        while self.next <= sure_to {
            let mut end = self.ahead.first().map_or(sure_to, |first| (first - 1).min(sure_to));
            let was_down = self.next <= self.at_start;
            if was_down {
                end = end.min(self.at_start);
            }
            gaps.push(Gap {
                first_sequence: self.next,
                last_sequence: end,
                cause: if was_down { "agent-down" } else { "ring-buffer-full" }.into(),
                ranges: Vec::new(),
            });
            self.next = end + 1;
            while self.ahead.remove(&self.next) {
                self.next += 1;
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(gaps: &[Gap]) -> Vec<(u64, u64)> {
        gaps.iter().map(|gap| (gap.first_sequence, gap.last_sequence)).collect()
    }

    #[test]
    fn order_may_differ_without_a_gap() {
        let mut gaps = Gaps::after(0, 0);
        for sequence in [2, 1, 4, 3] {
            assert!(gaps.saw(sequence));
        }
        assert!(gaps.found_empty(4).is_empty());
        assert!(gaps.found_empty(4).is_empty());
    }

    #[test]
    fn a_hole_is_said_once_and_only_when_it_stays() {
        let mut gaps = Gaps::after(10, 10);
        gaps.saw(11);
        gaps.saw(14);
        assert!(gaps.found_empty(15).is_empty());
        assert_eq!(spans(&gaps.found_empty(15)), [(12, 13), (15, 15)]);
        assert!(gaps.found_empty(15).is_empty());
        assert!(!gaps.saw(12));
        assert!(gaps.saw(16));
    }

    #[test]
    fn what_was_lost_before_the_start_is_told_apart() {
        let mut gaps = Gaps::after(2, 5);
        gaps.saw(4);
        assert!(gaps.found_empty(8).is_empty());
        let found = gaps.found_empty(8);
        assert_eq!(spans(&found), [(3, 3), (5, 5), (6, 8)]);
        let causes: Vec<&str> = found.iter().map(|gap| gap.cause.as_str()).collect();
        assert_eq!(causes, ["agent-down", "agent-down", "ring-buffer-full"]);
    }

    #[test]
    fn a_number_comes_once() {
        let mut gaps = Gaps::after(0, 0);
        assert!(gaps.saw(3));
        assert!(!gaps.saw(3));
    }
}
