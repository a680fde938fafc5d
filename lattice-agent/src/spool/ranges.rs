//! Sets of sequence numbers. They come nearly in order, so a set is a few ranges.

use std::collections::BTreeMap;

/// A set of numbers, kept as ranges that neither touch nor overlap: first number to last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `first..=last`.
    pub(super) fn insert(&mut self, mut first: u64, mut last: u64) {
        if first > last {
            return;
        }
        // What touches or overlaps is swallowed, from the highest down.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Removes `first..=last`.
    pub(super) fn remove(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..=last).next_back() {
            if end < first {
                break;
            }
            self.0.remove(&start);
            if end > last {
                self.0.insert(last + 1, end);
            }
            if start < first {
                self.0.insert(start, first - 1);
            }
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0
            .range(..=number)
            .next_back()
            .is_some_and(|(_, &end)| number <= end)
    }

    /// What of `first..=last` is not in the set.
    pub(super) fn missing(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut missing = Self::default();
        missing.insert(first, last);
        for (start, end) in self.iter() {
            missing.remove(start, end);
        }
        missing.iter().collect()
    }

    /// The ranges, first and last number of each, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(&start, &end)| (start, end))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, &end)| end)
    }

    /// How many numbers.
    pub(super) fn count(&self) -> u64 {
        self.iter().fold(0, |count, (start, end)| {
            count.saturating_add((end - start).saturating_add(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0..40u64, 0..8u64), 0..60)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (add, first, length) in steps {
                let last = first + length;
                if add {
                    ranges.insert(first, last);
                    model.extend(first..=last);
                } else {
                    ranges.remove(first, last);
                    model.retain(|number| !(first..=last).contains(number));
                }
                let flat: Vec<u64> = ranges.iter().flat_map(|(start, end)| start..=end).collect();
                prop_assert_eq!(&flat, &model.iter().copied().collect::<Vec<_>>());
                let touching = ranges.iter().zip(ranges.iter().skip(1)).any(|((_, end), (start, _))| end + 1 >= start);
                prop_assert!(!touching);
                prop_assert_eq!(ranges.count(), model.len() as u64);
                prop_assert_eq!(ranges.last(), model.last().copied());
                prop_assert_eq!(ranges.contains(20), model.contains(&20));
                let missing: Vec<u64> = ranges.missing(5, 30).into_iter().flat_map(|(start, end)| start..=end).collect();
                prop_assert_eq!(missing, (5..=30).filter(|number| !model.contains(number)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_largest_number_is_no_special_case() {
        let mut ranges = Ranges::default();
        ranges.insert(u64::MAX, u64::MAX);
        ranges.insert(0, u64::MAX - 1);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, u64::MAX)]);
        ranges.remove(u64::MAX, u64::MAX);
        assert_eq!(ranges.last(), Some(u64::MAX - 1));
    }
}
