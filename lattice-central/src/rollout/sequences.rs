//! Whether all of a node's events have arrived: each has a number, and none may be missing between those that are here.

use std::collections::BTreeMap;

/// More holes than this are not waited for: the first is given up.
const RANGES_MAXIMUM: usize = 1_000;

/// The numbers that have arrived, by node; of its last boot alone.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    nodes: BTreeMap<String, Boot>,
}

#[derive(Debug, Default)]
struct Boot {
    id: String,
    /// First and last, both included; they neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
}

impl Sequences {
    /// Takes numbers that have arrived, or are known to be lost. What came before the first that is seen is not waited for.
    pub(super) fn take(&mut self, node: &str, boot_id: &str, first: u64, last: u64) {
        let boot = self.nodes.entry(node.to_owned()).or_default();
        if boot.id != boot_id {
            *boot = Boot {
                id: boot_id.to_owned(),
                ranges: BTreeMap::new(),
            };
        }
        let (mut first, mut last) = (first, last.max(first));
        let touches = |range: (&u64, &u64)| *range.0 <= last.saturating_add(1) && range.1.saturating_add(1) >= first;
        let touching: Vec<_> = boot
            .ranges
            .iter()
            .filter(|range| touches(*range))
            .map(|(a, b)| (*a, *b))
            .collect();
        for (low, high) in touching {
            boot.ranges.remove(&low);
            (first, last) = (first.min(low), last.max(high));
        }
        boot.ranges.insert(first, last);
        while boot.ranges.len() > RANGES_MAXIMUM {
            boot.ranges.pop_first();
        }
    }

    /// What is missing of a node; empty where nothing is.
    pub(super) fn missing(&self, node: &str) -> String {
        let Some(boot) = self.nodes.get(node) else {
            return String::new();
        };
        let mut ranges = boot.ranges.iter();
        match (ranges.next(), ranges.next()) {
            (Some((_, last)), Some((first, _))) if last + 2 == *first => format!("event {} has not arrived", last + 1),
            (Some((_, last)), Some((first, _))) => format!("events {}–{} have not arrived", last + 1, first - 1),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_named_until_it_is_filled() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.missing("a"), "");
        for number in [7, 9, 8] {
            sequences.take("a", "boot-1", number, number);
        }
        assert_eq!(sequences.missing("a"), "");
        sequences.take("a", "boot-1", 12, 13);
        assert_eq!(sequences.missing("a"), "events 10–11 have not arrived");
        sequences.take("a", "boot-1", 11, 11);
        assert_eq!(sequences.missing("a"), "event 10 has not arrived");
        // As a gap that says that it is lost.
        sequences.take("a", "boot-1", 10, 10);
        assert_eq!(sequences.missing("a"), "");
        // A boot begins anew, and nodes are apart.
        sequences.take("a", "boot-2", 1, 1);
        sequences.take("b", "boot-1", u64::MAX, u64::MAX);
        assert_eq!(
            (sequences.missing("a"), sequences.missing("b")),
            (String::new(), String::new())
        );
    }
}
