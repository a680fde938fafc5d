//! Counts against a kernel side that refuses at any time, and an agent that dies at any step.

use std::collections::{BTreeMap, BTreeSet};

use lattice_common::repeat::TOLD_PER_FILE;
use proptest::prelude::*;

use super::*;

/// The kernel's maps. A step that is to fail kills the agent there.
#[derive(Default)]
struct Kernel {
    window: u64,
    elements: BTreeMap<RepeatKey, Repeat>,
    sequence: u64,
    steps_to_live: usize,
}

impl Kernel {
    fn step(&mut self) -> Result<(), TableError> {
        if self.steps_to_live == 0 {
            return Err(TableError::Full { map: "REPEATS" });
        }
        self.steps_to_live -= 1;
        Ok(())
    }

    /// Refuses a file; returns the sequence of the record, where it has one.
    fn refuse(&mut self, inode: u64) -> Option<u64> {
        let key = RepeatKey {
            inode,
            window: self.window,
            ..RepeatKey::default()
        };
        let repeat = self.elements.entry(key).or_default();
        repeat.told += 1;
        if repeat.told > TOLD_PER_FILE {
            repeat.count += 1;
            return None;
        }
        self.sequence += 1;
        if repeat.first_sequence == 0 {
            repeat.first_sequence = self.sequence;
        }
        Some(self.sequence)
    }
}

impl Repeats for Kernel {
    fn next_window(&mut self) -> Result<u64, TableError> {
        self.step()?;
        self.window += 1;
        Ok(self.window)
    }

    fn all(&self) -> Result<Vec<(RepeatKey, Repeat)>, TableError> {
        Ok(self.elements.iter().map(|(key, repeat)| (*key, *repeat)).collect())
    }

    fn put(&mut self, key: RepeatKey, repeat: Repeat) -> Result<(), TableError> {
        self.step()?;
        assert!(key.window < self.window, "a window that is still open was written to");
        self.elements.insert(key, repeat);
        Ok(())
    }

    fn remove(&mut self, key: RepeatKey) -> Result<(), TableError> {
        self.step()?;
        assert!(key.window < self.window, "a window that is still open was written to");
        self.elements.remove(&key);
        Ok(())
    }
}

/// One life of the agent's loop: keeps what is due, as the spool does, each number once.
fn flush(kernel: &mut Kernel, spool: &mut BTreeMap<u64, u64>) -> Result<(), TableError> {
    let mut number = kernel.sequence;
    let due = due(kernel, || {
        number += 1;
        number
    });
    kernel.sequence = kernel.sequence.max(number);
    for (key, repeat) in due? {
        kernel.step()?;
        spool.entry(repeat.sequence).or_insert(repeat.count);
        kernel.remove(key)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_refusal_is_told_or_counted_once(
        steps in prop::collection::vec((prop::collection::vec(1..4u64, 0..60), 0..12usize), 1..20)
    ) {
        let mut kernel = Kernel::default();
        let (mut refused, mut told) = (0_u64, BTreeSet::new());
        let mut spool = BTreeMap::new();
        for (refusals, steps_to_live) in steps {
            for inode in refusals {
                refused += 1;
                told.extend(kernel.refuse(inode));
            }
            // The agent may die in the middle of it; the next one begins where it was.
            kernel.steps_to_live = steps_to_live;
            let _ = flush(&mut kernel, &mut spool);
        }
        kernel.steps_to_live = usize::MAX;
        for _ in 0..=WINDOWS_OPEN {
            flush(&mut kernel, &mut spool).unwrap();
        }
        prop_assert!(kernel.elements.is_empty());
        prop_assert_eq!(told.len() as u64 + spool.values().sum::<u64>(), refused);
        prop_assert!(spool.keys().all(|sequence| !told.contains(sequence)));
    }
}

#[test]
fn what_was_numbered_before_a_death_keeps_its_number() {
    let mut kernel = Kernel::default();
    for _ in 0..TOLD_PER_FILE + 5 {
        kernel.refuse(1);
    }
    kernel.steps_to_live = 100;
    let mut spool = BTreeMap::new();
    flush(&mut kernel, &mut spool).unwrap();
    assert!(numbered(&kernel).unwrap().is_empty());
    // The window, the number, and no more.
    kernel.steps_to_live = 2;
    flush(&mut kernel, &mut spool).unwrap_err();
    let resumed = numbered(&kernel).unwrap();
    assert_eq!(resumed.len(), 1);
    assert_eq!((resumed[0].1.count, resumed[0].1.sequence), (5, kernel.sequence));
}
