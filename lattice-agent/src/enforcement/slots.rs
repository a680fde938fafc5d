//! Indexes in an array map of which each belongs to one thing.

use std::collections::BTreeSet;

/// Which indexes are in use. The lowest free one is given first.
#[derive(Debug)]
pub(super) struct Slots {
    first: u32,
    used: BTreeSet<u32>,
    /// None below it is free, so that filling a map looks at each index once.
    lowest_free: u32,
}

impl Slots {
    /// With some in use. What is below `first` is given to nobody.
    pub(super) fn new(first: u32, used: impl IntoIterator<Item = u32>) -> Self {
        Self {
            first,
            used: used.into_iter().collect(),
            lowest_free: first,
        }
    }

    /// The lowest free index below `end`, which is in use from now on.
    pub(super) fn take(&mut self, end: u32) -> Option<u32> {
        let index = (self.lowest_free..end).find(|index| !self.used.contains(index))?;
        self.used.insert(index);
        self.lowest_free = index + 1;
        Some(index)
    }

    pub(super) fn give_back(&mut self, index: u32) {
        if self.used.remove(&index) && index >= self.first {
            self.lowest_free = self.lowest_free.min(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn the_lowest_free_index_is_given_first() {
        let mut slots = Slots::new(1, [0, 2]);
        assert_eq!([slots.take(4), slots.take(4), slots.take(4)], [Some(1), Some(3), None]);
        slots.give_back(2);
        assert_eq!([slots.take(4), slots.take(4)], [Some(2), None]);
    }

    #[test]
    fn what_is_reserved_is_given_to_nobody() {
        let mut slots = Slots::new(1, [0]);
        slots.give_back(0);
        assert_eq!([slots.take(2), slots.take(2)], [Some(1), None]);
    }
}
