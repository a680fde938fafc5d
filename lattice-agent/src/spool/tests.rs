//! The spool against a model, with crashes at any byte.

mod lanes;

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

use lattice_api::v1::{Event, Gap, Violation, event::Kind};
use proptest::{prelude::*, sample::Index};

use super::{Spool, SpoolError, acknowledged, frame, log::Log, segment::spans};

fn event(boot: u64, sequence: u64) -> Event {
    let violation = Violation {
        path: b"/usr/bin/wget".to_vec(),
        ..Violation::default()
    };
    Event {
        node: "node-a".into(),
        boot_id: format!("boot-{boot}"),
        sequence,
        time_unix_nanos: sequence,
        kind: Some(Kind::Violation(violation)),
    }
}

fn gap(boot: u64, first: u64, last: u64) -> Event {
    let gap = Gap {
        first_sequence: first,
        last_sequence: last,
        cause: "ring-buffer-full".into(),
        ranges: Vec::new(),
    };
    Event {
        kind: Some(Kind::Gap(gap)),
        ..event(boot, first)
    }
}

/// All that is pending, as numbers; gaps as what they cover.
fn pending(log: &mut Log) -> BTreeSet<(String, u64)> {
    log.rewind();
    let events = log.next_batch(usize::MAX, usize::MAX).unwrap();
    let numbers: Vec<_> = events.iter().flat_map(covered).collect();
    let set: BTreeSet<_> = numbers.iter().cloned().collect();
    assert_eq!(set.len(), numbers.len(), "an event was handed out twice");
    set
}

fn covered(event: &Event) -> Vec<(String, u64)> {
    let sequences: BTreeSet<u64> = spans(event)
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .collect();
    sequences
        .into_iter()
        .map(|sequence| (event.boot_id.clone(), sequence))
        .collect()
}

fn last_segment(folder: &Path) -> Option<PathBuf> {
    let mut segments: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    segments.sort();
    segments.pop()
}

#[test]
fn hands_out_in_order_and_forgets_what_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    log.append(&[event(1, 1), event(1, 2), gap(1, 3, 5), event(1, 6), event(1, 2)])
        .unwrap();
    let batch = log.next_batch(2, usize::MAX).unwrap();
    assert_eq!(batch.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    let batch = log.next_batch(10, usize::MAX).unwrap();
    assert_eq!(batch.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3, 6]);
    assert!(log.next_batch(10, usize::MAX).unwrap().is_empty());
    assert_eq!(log.kept_through("boot-1"), 6);
    log.acknowledge("boot-1", &[1, 3, 99]);
    log.acknowledge("boot-2", &[2]);
    let left: Vec<u64> = pending(&mut log).into_iter().map(|(_, sequence)| sequence).collect();
    assert_eq!(left, [2, 6]);
    assert_eq!(log.metrics().pending_events, 2);
    log.store_acknowledged().unwrap();
    drop(log);
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    assert_eq!(pending(&mut log).len(), 2);
    assert_eq!(log.kept_through("boot-1"), 6);
    assert_eq!(
        log.newest(3)
            .unwrap()
            .iter()
            .map(|event| event.sequence)
            .collect::<Vec<_>>(),
        [2, 3, 6]
    );
}

#[test]
fn a_gap_leaves_out_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    log.append(&[event(1, 3), gap(1, 1, 5), gap(1, 2, 4)]).unwrap();
    log.rewind();
    let spans: Vec<_> = log
        .next_batch(10, usize::MAX)
        .unwrap()
        .iter()
        .map(|event| covered(event).len())
        .collect();
    assert_eq!(spans, [1, 2, 2]);
}

#[test]
fn a_full_spool_gives_up_the_oldest_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 4096;
    let mut log = Log::open(folder.path(), limit, "").unwrap();
    for sequence in 1..=500 {
        log.append(&[event(1, sequence)]).unwrap();
        assert!(log.metrics().bytes <= limit);
    }
    assert_eq!(
        pending(&mut log),
        (1..=500).map(|sequence| ("boot-1".into(), sequence)).collect()
    );
    log.rewind();
    let events = log.next_batch(usize::MAX, usize::MAX).unwrap();
    let newest = events.last().unwrap();
    assert_eq!(newest.sequence, 500);
    let causes: BTreeSet<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Gap(gap)) => Some(gap.cause.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(causes, BTreeSet::from(["spool-full"]));
    assert!(log.metrics().dropped_total > 300);
    // Once central has all, the room is free again.
    for event in events {
        log.acknowledge(&event.boot_id, &[event.sequence]);
    }
    assert_eq!(log.metrics().pending_events, 0);
    assert!(fs::read_dir(folder.path()).unwrap().count() <= 3);
}

#[test]
fn damage_in_an_older_segment_becomes_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 32 << 10, "").unwrap();
    for sequence in 1..=300 {
        log.append(&[event(1, sequence)]).unwrap();
    }
    drop(log);
    let mut segments: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.retain(|path| path.extension().is_some());
    segments.sort();
    assert!(segments.len() > 2);
    let mut bytes = fs::read(&segments[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segments[1], bytes).unwrap();
    let mut log = Log::open(folder.path(), 32 << 10, "").unwrap();
    assert_eq!(
        pending(&mut log),
        (1..=300).map(|sequence| ("boot-1".into(), sequence)).collect()
    );
    log.rewind();
    let events = log.next_batch(usize::MAX, usize::MAX).unwrap();
    assert!(
        events
            .iter()
            .any(|event| matches!(&event.kind, Some(Kind::Gap(gap)) if gap.cause == "spool-corrupt"))
    );
    assert!(log.metrics().cut_off_bytes > 0);
}

#[test]
fn damage_under_an_open_spool_becomes_a_gap_and_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    log.append(&[event(1, 1), event(1, 2), event(1, 3)]).unwrap();
    let path = last_segment(folder.path()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let events = log.next_batch(10, usize::MAX).unwrap();
    assert_eq!(events[0], event(1, 1));
    assert!(
        matches!(&events[1].kind, Some(Kind::Gap(gap)) if gap.cause == "spool-corrupt"),
        "{events:?}"
    );
    log.append(&[event(1, 4)]).unwrap();
    assert_eq!(
        pending(&mut log),
        (1..=4).map(|sequence| ("boot-1".into(), sequence)).collect()
    );
}

#[test]
fn damaged_acknowledgements_mean_sending_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    log.append(&[event(1, 1), event(1, 2)]).unwrap();
    log.acknowledge("boot-1", &[1]);
    log.store_acknowledged().unwrap();
    drop(log);
    fs::write(folder.path().join("acknowledged"), b"lattice-state 1 00\n{}").unwrap();
    assert_eq!(pending(&mut Log::open(folder.path(), 1 << 20, "").unwrap()).len(), 2);
}

#[test]
fn two_agents_cannot_share_a_spool() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Spool::open(folder.path(), 1 << 20).unwrap();
    assert!(matches!(
        Spool::open(folder.path(), 1 << 20),
        Err(SpoolError::InUse { .. })
    ));
}

#[test]
fn a_dropped_spool_has_all_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    spool.append(&[event(1, 1), event(1, 2)]).unwrap();
    spool.acknowledge("boot-1", &[1]);
    drop(spool);
    let spool = Spool::open(folder.path(), 1 << 20).unwrap();
    let batch = spool.next_batch(10, usize::MAX).unwrap();
    assert_eq!(batch, [event(1, 2)]);
}

fn on_disk_as_acknowledged(folder: &Path, number: &(String, u64)) -> bool {
    let on_disk = acknowledged::read(&folder.join("acknowledged")).unwrap();
    on_disk.get(&number.0).is_some_and(|ranges| ranges.contains(number.1))
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u64, u64)>),
    Acknowledge(Vec<Index>),
    StoreAcknowledged,
    Take(usize),
    Sync,
    /// The machine dies: of what was not synced this share of the bytes has reached the disk.
    Crash(f64),
}

fn step() -> impl Strategy<Value = Step> {
    let events = prop::collection::vec((1..3u64, 1..60u64), 1..8);
    prop_oneof![
        5 => events.prop_map(Step::Append),
        3 => prop::collection::vec(any::<Index>(), 1..6).prop_map(Step::Acknowledge),
        1 => Just(Step::StoreAcknowledged),
        2 => (1..10usize).prop_map(Step::Take),
        1 => Just(Step::Sync),
        2 => (0.0..=1.0f64).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Nothing that was synced is lost, nothing that was stored as acknowledged comes back, and nothing is made up; with
    /// room for all.
    #[test]
    fn survives_crashes_at_any_byte(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let open = || Log::open(folder.path(), 16 << 10, "").unwrap();
        let mut log = open();
        // In the order of appending; what was acknowledged stays in `order`.
        let mut order: Vec<(String, u64)> = Vec::new();
        let mut synced = 0;
        let mut acknowledged = BTreeSet::new();
        let mut stored = BTreeSet::new();
        // Acknowledged on disk, and lost from the segment: central has them, so they are not taken again.
        let mut settled = BTreeSet::new();
        for step in steps {
            match step {
                Step::Append(numbers) => {
                    for (boot, sequence) in numbers {
                        let last_before = last_segment(folder.path());
                        log.append(&[event(boot, sequence)]).unwrap();
                        let number = (format!("boot-{boot}"), sequence);
                        if !order.contains(&number) && !settled.contains(&number) {
                            if last_segment(folder.path()) != last_before {
                                synced = order.len();
                            }
                            order.push(number);
                        }
                    }
                }
                Step::Acknowledge(indices) => {
                    for index in indices.iter().filter(|_| !order.is_empty()) {
                        let number = index.get(&order).clone();
                        log.acknowledge(&number.0, &[number.1]);
                        acknowledged.insert(number);
                    }
                }
                Step::StoreAcknowledged => {
                    log.store_acknowledged().unwrap();
                    stored = acknowledged.clone();
                }
                Step::Take(count) => {
                    log.next_batch(count, usize::MAX).unwrap();
                }
                Step::Sync => {
                    log.sync().unwrap();
                    synced = order.len();
                }
                Step::Crash(share) => {
                    drop(log);
                    if let Some(path) = last_segment(folder.path()) {
                        let bytes = fs::read(&path).unwrap();
                        // Length of what was synced in this segment: count whole frames from the end.
                        let mut ends = vec![0];
                        while let frame::Frame::Event(_, length) = frame::decode(&bytes[*ends.last().unwrap()..]) {
                            ends.push(ends.last().unwrap() + length);
                        }
                        let unsynced = (order.len() - synced).min(ends.len() - 1);
                        let safe = ends[ends.len() - 1 - unsynced];
                        let keep = safe + ((bytes.len() - safe) as f64 * share) as usize;
                        OpenOptions::new().write(true).open(&path).unwrap().set_len(keep as u64).unwrap();
                        let lost = ends.iter().filter(|end| **end > keep).count();
                        for number in order.split_off(order.len() - lost) {
                            acknowledged.remove(&number);
                            if on_disk_as_acknowledged(folder.path(), &number) {
                                settled.insert(number);
                            }
                        }
                    }
                    log = open();
                    let now = pending(&mut log);
                    // Acknowledgements that were not stored may be lost, no others.
                    let at_most: BTreeSet<_> = order.iter().filter(|number| !stored.contains(*number)).cloned().collect();
                    let at_least: BTreeSet<_> = order.iter().filter(|number| !acknowledged.contains(*number)).cloned().collect();
                    prop_assert!(now.is_subset(&at_most), "came back: {:?}", now.difference(&at_most));
                    prop_assert!(at_least.is_subset(&now), "lost: {:?}", at_least.difference(&now));
                    acknowledged.retain(|number| !now.contains(number));
                    log.rewind();
                    synced = order.len();
                }
            }
            let expected: BTreeSet<_> = order.iter().filter(|number| !acknowledged.contains(*number)).cloned().collect();
            prop_assert_eq!(log.metrics().pending_events, expected.len() as u64);
        }
        let expected: BTreeSet<_> = order.iter().filter(|number| !acknowledged.contains(*number)).cloned().collect();
        prop_assert_eq!(pending(&mut log), expected);
    }

    #[test]
    fn any_changed_byte_is_survived(at: Index, bit in 0..8u8) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
        log.append(&(1..=9).map(|sequence| event(1, sequence)).collect::<Vec<_>>()).unwrap();
        drop(log);
        let path = last_segment(folder.path()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        let whole_before = at / (bytes.len() / 9);
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
        prop_assert_eq!(pending(&mut log).len(), whole_before);
        log.append(&[event(1, 10)]).unwrap();
        prop_assert_eq!(pending(&mut log).len(), whole_before + 1);
    }
}
