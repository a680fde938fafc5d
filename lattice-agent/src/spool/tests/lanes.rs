//! What goes first, what goes last, and that whatever went is said: with little room, on a full disk, after torn writes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::*;
use crate::spool::{
    lane::{LANES, NOTED, REFUSED, WOULD_BE_REFUSED, lane_of},
    segment::parse_name,
};

/// An event that goes into a lane.
fn in_lane(lane: usize, sequence: u64) -> Event {
    let mut event = event(1, sequence);
    if let Some(Kind::Violation(violation)) = &mut event.kind {
        violation.effective_action = if lane == REFUSED { "deny+kill" } else { "none" }.into();
        violation.reason = if lane == NOTED { "unresolved-open" } else { "unlisted" }.into();
    }
    assert_eq!(lane_of(&event), lane);
    event
}

/// What of one boot is handed out: numbers of whole events by lane, and all that gaps cover.
fn told(log: &mut Log) -> ([BTreeSet<u64>; LANES], BTreeSet<u64>) {
    log.rewind();
    let (mut whole, mut lost): ([BTreeSet<u64>; LANES], BTreeSet<u64>) = Default::default();
    for event in log.next_batch(usize::MAX, usize::MAX).unwrap() {
        match &event.kind {
            Some(Kind::Gap(_)) => lost.extend(covered(&event).into_iter().map(|(_, sequence)| sequence)),
            _ => assert!(whole[lane_of(&event)].insert(event.sequence)),
        }
    }
    (whole, lost)
}

fn unsaid(log: &Log) -> BTreeSet<u64> {
    let ranges = log.unsaid.values().flat_map(|ranges| ranges.iter().collect::<Vec<_>>());
    ranges.flat_map(|(first, last)| first..=last).collect()
}

#[test]
fn the_more_important_come_first_and_each_lane_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    let mut events = Vec::new();
    for sequence in 1..=9 {
        let mut event = in_lane(LANES - 1 - (sequence as usize % LANES), sequence);
        // The clock is set back again and again; order is by number.
        event.time_unix_nanos = 1_000 - sequence * 100;
        events.push(event);
    }
    log.append(&events).unwrap();
    let sequences = |batch: &[Event]| batch.iter().map(|event| event.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&log.next_batch(4, usize::MAX).unwrap()), [2, 5, 8, 1]);
    // What comes meanwhile and is important overtakes.
    log.append(&[in_lane(REFUSED, 10)]).unwrap();
    assert_eq!(sequences(&log.next_batch(9, usize::MAX).unwrap()), [10, 4, 7, 3, 6, 9]);
    assert_eq!(sequences(&log.newest(4).unwrap()), [7, 8, 9, 10]);
    drop(log);
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    assert_eq!(
        sequences(&log.next_batch(99, usize::MAX).unwrap()),
        [2, 5, 8, 10, 1, 4, 7, 3, 6, 9]
    );
}

#[test]
fn a_spool_from_before_there_were_lanes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    log.append(&[in_lane(REFUSED, 1), in_lane(REFUSED, 2)]).unwrap();
    drop(log);
    let file = last_segment(folder.path()).unwrap();
    fs::rename(&file, folder.path().join("00000000000000000000.segment")).unwrap();
    let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
    log.append(&[in_lane(NOTED, 3)]).unwrap();
    assert_eq!(told(&mut log).0.map(|lane| lane.len()), [2, 0, 1]);
}

#[test]
fn an_event_never_takes_the_room_of_a_more_important_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 8192, "").unwrap();
    for sequence in 1..=300 {
        log.append(&[in_lane(REFUSED, sequence)]).unwrap();
    }
    let before = told(&mut log).0[REFUSED].clone();
    assert!(!before.contains(&1) && before.contains(&300));
    for sequence in 301..=600 {
        log.append(&[in_lane(NOTED, sequence)]).unwrap();
        assert!(log.metrics().bytes <= 8192);
    }
    let (whole, lost) = told(&mut log);
    assert_eq!(whole[REFUSED], before);
    // Some fitted into what was left; of all others it is known that they are lost.
    let mut known: BTreeSet<u64> = whole.iter().flatten().copied().collect();
    known.extend(&lost);
    known.extend(unsaid(&log));
    assert_eq!(known, (1..=600).collect());
    // Where central takes what is there, the losses are said.
    for sequence in whole[REFUSED].clone() {
        log.acknowledge("boot-1", &[sequence]);
    }
    log.append(&[in_lane(REFUSED, 601)]).unwrap();
    assert!(unsaid(&log).is_empty(), "{:?}", unsaid(&log));
    let (whole, lost) = told(&mut log);
    let noted: BTreeSet<u64> = whole[NOTED]
        .union(&lost)
        .copied()
        .filter(|number| *number > 300)
        .collect();
    assert_eq!(noted, (301..=600).collect());
}

#[test]
fn a_gap_of_many_pieces_is_acknowledged_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 4096, "").unwrap();
    // Every other event is a note, and all notes go.
    for sequence in 1..=40 {
        log.append(&[in_lane(if sequence % 2 == 0 { REFUSED } else { NOTED }, sequence)])
            .unwrap();
    }
    for sequence in 41..=75 {
        log.append(&[in_lane(REFUSED, sequence)]).unwrap();
    }
    log.rewind();
    let events = log.next_batch(usize::MAX, usize::MAX).unwrap();
    let pieces = events.iter().filter_map(|event| match &event.kind {
        Some(Kind::Gap(gap)) => Some(gap.ranges.len()),
        _ => None,
    });
    assert!(pieces.max().is_some_and(|pieces| pieces > 2));
    for event in &events {
        log.acknowledge(&event.boot_id, &[event.sequence]);
    }
    assert_eq!(log.metrics().pending_events, 0);
    log.store_acknowledged().unwrap();
    drop(log);
    let log = Log::open(folder.path(), 4096, "").unwrap();
    assert_eq!((log.metrics().pending_events, log.kept_through("boot-1")), (0, 75));
}

/// Central may have stored what was sent; it was never heard of. The gap names all that is not known to have arrived, not a number more,
/// and what central says too late changes nothing of it.
#[test]
fn what_was_sent_and_never_acknowledged_is_named_when_it_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 4096;
    let mut log = Log::open(folder.path(), limit, "").unwrap();
    let first: Vec<Event> = (1..=20).map(|sequence| in_lane(REFUSED, sequence)).collect();
    log.append(&first).unwrap();
    assert_eq!(log.next_batch(usize::MAX, usize::MAX).unwrap().len(), 20);
    // Of those that were sent, central's word on three has arrived.
    log.acknowledge("boot-1", &[1, 2, 7]);
    for sequence in 21..=300 {
        log.append(&[in_lane(REFUSED, sequence)]).unwrap();
    }
    let (whole, lost) = told(&mut log);
    let acknowledged = BTreeSet::from([1, 2, 7]);
    assert!(lost.contains(&3) && lost.is_disjoint(&acknowledged), "{lost:?}");
    assert!(lost.is_disjoint(&whole[REFUSED]));
    let all = |log: &mut Log| {
        let (whole, lost) = told(log);
        whole.into_iter().flatten().chain(lost).collect::<BTreeSet<u64>>()
    };
    assert_eq!(
        all(&mut log),
        (1..=300).filter(|number| !acknowledged.contains(number)).collect()
    );
    // What is left after a restart is the same.
    let before = told(&mut log);
    drop(log);
    assert_eq!(told(&mut Log::open(folder.path(), limit, "").unwrap()), before);
}

/// The gap begins with the number of an event that was sent: central's late word on that event is none on the gap.
#[test]
fn a_late_acknowledgement_settles_no_gap_that_took_over_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(folder.path(), 4096, "").unwrap();
    let first: Vec<Event> = (1..=20).map(|sequence| in_lane(REFUSED, sequence)).collect();
    log.append(&first).unwrap();
    assert_eq!(log.next_batch(15, usize::MAX).unwrap().len(), 15);
    for sequence in 21..=300 {
        log.append(&[in_lane(REFUSED, sequence)]).unwrap();
    }
    let is_gap = |event: &Event| matches!(event.kind, Some(Kind::Gap(_)));
    let sent = log.next_batch(usize::MAX, usize::MAX).unwrap();
    let gaps: Vec<u64> = sent
        .iter()
        .filter(|event| is_gap(event))
        .map(|event| event.sequence)
        .collect();
    assert!(gaps.contains(&1), "{gaps:?}");
    log.acknowledge("boot-1", &(1..=15).collect::<Vec<_>>());
    // Its own word settles the gap, and all the rest with it.
    let pending = log.metrics().pending_events;
    assert_eq!(pending, 300);
    for event in &sent {
        log.acknowledge(&event.boot_id, &[event.sequence]);
    }
    assert_eq!(log.metrics().pending_events, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    /// Central takes what the next so many events are.
    Take(usize),
    Reopen,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// With too little room: every number is whole, acknowledged or said to be lost, and nothing important went while something less
    /// important was there.
    #[test]
    fn the_least_important_goes_first_and_nothing_goes_unsaid(
        steps in prop::collection::vec(
            prop_oneof![12 => (0..LANES).prop_map(Step::Append), 2 => (1..6usize).prop_map(Step::Take), 1 => Just(Step::Reopen)],
            1..200,
        )
    ) {
        let folder = tempfile::tempdir().unwrap();
        let limit = 2048;
        let mut log = Log::open(folder.path(), limit, "").unwrap();
        let mut lane_of_number: BTreeMap<u64, usize> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        // Given up and unsaid when the agent ended: a later reader of the ring buffer finds the hole.
        let mut forgotten = BTreeSet::new();
        let mut before = BTreeSet::new();
        for step in steps {
            match step {
                Step::Append(lane) => {
                    let sequence = lane_of_number.len() as u64 + 1;
                    lane_of_number.insert(sequence, lane);
                    log.append(&[in_lane(lane, sequence)]).unwrap();
                    before.insert(sequence);
                }
                Step::Take(count) => {
                    log.rewind();
                    for event in log.next_batch(count, usize::MAX).unwrap() {
                        taken.extend(covered(&event).into_iter().map(|(_, number)| number));
                        log.acknowledge(&event.boot_id, &[event.sequence]);
                    }
                    before.retain(|number| !taken.contains(number));
                }
                Step::Reopen => {
                    log.store_acknowledged().unwrap();
                    forgotten.extend(unsaid(&log));
                    drop(log);
                    log = Log::open(folder.path(), limit, "").unwrap();
                }
            }
            prop_assert!(log.metrics().bytes <= limit);
            let (whole, lost) = told(&mut log);
            let here: BTreeSet<u64> = whole.iter().flatten().copied().collect();
            let mut known = here.clone();
            known.extend(lost.iter().chain(&taken).chain(&forgotten));
            known.extend(unsaid(&log));
            prop_assert_eq!(known, lane_of_number.keys().copied().collect::<BTreeSet<_>>());
            // What went in this step: nothing less important may be left.
            let gone: Vec<u64> = before.difference(&here).copied().collect();
            for number in &gone {
                let lane = lane_of_number[number];
                let less_important: Vec<u64> = here.iter().copied().filter(|other| lane_of_number[other] > lane).collect();
                prop_assert!(less_important.is_empty(), "{number} of lane {lane} went before {less_important:?}");
            }
            before = here;
        }
    }

    /// The machine dies, and of every lane's last file some bytes are missing: what was whole before them is there, and of the rest
    /// what lies below the highest number is said to be lost.
    #[test]
    fn torn_writes_in_all_lanes_are_survived(
        lanes in prop::collection::vec(0..LANES, 1..60),
        cuts in prop::array::uniform3(any::<Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 1 << 20, "").unwrap();
        for (place, lane) in lanes.iter().enumerate() {
            log.append(&[in_lane(*lane, place as u64 + 1)]).unwrap();
        }
        drop(log);
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let Some((lane, _)) = parse_name(path.file_name().unwrap().to_str().unwrap()) else { continue };
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..cuts[lane].index(bytes.len() + 1)]).unwrap();
        }
        let mut log = Log::open(folder.path(), 1 << 20, "the next boot").unwrap();
        let (whole, lost) = told(&mut log);
        for (lane, kept) in whole.iter().enumerate() {
            let written = (1..).zip(&lanes).filter(|(_, of)| **of == lane).map(|(number, _): (u64, _)| number);
            // From the first on, without a hole.
            prop_assert!(written.take(kept.len()).eq(kept.iter().copied()));
        }
        let highest = whole.iter().flatten().max().copied().unwrap_or(0);
        let known: BTreeSet<u64> = whole.iter().flatten().chain(&lost).copied().collect();
        prop_assert_eq!(known, (1..=highest).collect::<BTreeSet<_>>());
        prop_assert_eq!(log.kept_through("boot-1"), highest);
    }
}

/// A small file system that fills up, in a mount namespace of the calling thread. `None` where this user may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path, bytes: usize) -> Option<Self> {
        unshare(CloneFlags::CLONE_NEWNS).ok()?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).ok()?;
        let options = format!("size={bytes}");
        mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .ok()?;
        Some(Self(at.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Gone with the thread's namespace in any case.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_costs_the_least_important_and_is_said() {
    let checked = thread::spawn(|| {
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = SmallDisk::new(folder.path(), 256 << 10) else {
            return false;
        };
        let spool = disk.0.join("spool");
        // The spool believes that it has 8 MiB; what others wrote leaves it 128 KiB.
        fs::write(disk.0.join("others"), vec![0; 128 << 10]).unwrap();
        let mut log = Log::open(&spool, 8 << 20, "").unwrap();
        let count = 3_000;
        for sequence in 1..=count {
            let lane = if sequence <= 500 { NOTED } else { sequence as usize % 2 };
            log.append(&[in_lane(lane, sequence)]).unwrap();
        }
        let mut known: BTreeSet<u64> = unsaid(&log);
        let (whole, lost) = told(&mut log);
        known.extend(whole.iter().flatten().chain(&lost));
        assert_eq!(known, (1..=count).collect());
        assert!(whole[NOTED].is_empty());
        assert!(whole[REFUSED].len() > whole[WOULD_BE_REFUSED].len());
        // Not a byte is left for anybody: central's word can be taken all the same, and makes room.
        let _ = fs::write(disk.0.join("more"), vec![0; 1 << 20]);
        log.rewind();
        for event in log.next_batch(usize::MAX, usize::MAX).unwrap() {
            log.acknowledge(&event.boot_id, &[event.sequence]);
        }
        let _ = log.store_acknowledged();
        fs::remove_file(disk.0.join("more")).unwrap();
        fs::remove_file(disk.0.join("others")).unwrap();
        log.append(&[in_lane(REFUSED, count + 1)]).unwrap();
        log.store_acknowledged().unwrap();
        assert!(unsaid(&log).is_empty());
        drop(log);
        let log = Log::open(&spool, 8 << 20, "").unwrap();
        assert_eq!(log.kept_through("boot-1"), count + 1);
        true
    });
    if !checked.join().unwrap() {
        println!("skipped: this user may not mount a file system (unshare or mount: EPERM)");
    }
}
