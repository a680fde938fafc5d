//! The queue on disk: lanes of segments, what in them is pending, and what was handed out. No lock, no thread, no clock.

use std::{
    array,
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lattice_api::v1::{Event, event::Kind};

use super::{
    SpoolError,
    acknowledged::{self, Acknowledged},
    failed, frame,
    lane::{LANES, lane_of},
    ranges::Ranges,
    room::{SPOOL_FULL, TOO_LARGE, Unsaid, gap_event},
    segment::{self, Segment, spans},
};
use crate::error_chain::ErrorChain;

const ACKNOWLEDGED_FILE: &str = "acknowledged";
const LOCK_FILE: &str = "lock";
const SEGMENT_BYTES: u64 = 4 << 20;
/// Boots whose acknowledgements are remembered besides those that have events in the spool.
const REMEMBERED_BOOTS: usize = 4;
/// How long the lock is waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Counts since the log was opened, and what is there now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Events that wait to be acknowledged.
    pub pending_events: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Events that were taken.
    pub appended_total: u64,
    /// Events that were acknowledged.
    pub acknowledged_total: u64,
    /// Events that were given up because there was no room.
    pub dropped_total: u64,
    /// Bytes that were cut off when the log was opened, because they were no whole event.
    pub cut_off_bytes: u64,
}

/// Events of one importance, in the order in which they came.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) segments: VecDeque<Segment>,
    /// Where the next batch begins: place in `segments`, and offset in it.
    pub(super) cursor: (usize, u64),
    is_unsynced: bool,
}

impl Lane {
    /// Forgets a segment whose file is gone.
    pub(super) fn remove(&mut self, place: usize) {
        self.segments.remove(place);
        if self.cursor.0 > place {
            self.cursor.0 -= 1;
        } else if self.cursor.0 == place {
            self.cursor.1 = 0;
        }
        if place == self.segments.len() {
            self.is_unsynced = false;
        }
    }

    fn sync(&mut self) -> Result<(), SpoolError> {
        if let Some(segment) = self.segments.back().filter(|_| self.is_unsynced) {
            segment.file.sync_data().map_err(failed(&segment.path, "synced"))?;
            self.is_unsynced = false;
        }
        Ok(())
    }
}

pub(super) struct Log {
    pub(super) folder: PathBuf,
    pub(super) limit_bytes: u64,
    pub(super) lanes: [Lane; LANES],
    pub(super) next_number: u64,
    acknowledged: Acknowledged,
    acknowledged_is_dirty: bool,
    /// All that was ever taken and is remembered: acknowledged, in a segment, or given up.
    pub(super) seen: BTreeMap<String, Ranges>,
    /// What was given up and not said yet.
    pub(super) unsaid: Unsaid,
    /// Handed out since the last rewind and given up since: central's word on these is of what was sent then, and not of a gap that has
    /// taken over such a number.
    pub(super) overtaken: BTreeMap<String, Ranges>,
    /// The latest event, without its content.
    pub(super) latest: Event,
    pub(super) metrics: Metrics,
    _lock: File,
}

impl Log {
    /// Opens the log, or begins one. `current_boot` may be empty where it is not known.
    pub(super) fn open(folder: &Path, limit_bytes: u64, current_boot: &str) -> Result<Self, SpoolError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed(folder, "created"))?;
        let lock_path = folder.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path, "opened"))?;
        take(&lock).map_err(|_| SpoolError::InUse { folder: folder.into() })?;
        let acknowledged = acknowledged::read(&folder.join(ACKNOWLEDGED_FILE)).unwrap_or_else(|error| {
            // Worse than resending is nothing: central keeps each event once.
            tracing::error!(error = %ErrorChain(&error), "what central acknowledged is not known: it is sent again");
            Acknowledged::new()
        });
        let mut log = Self {
            folder: folder.into(),
            limit_bytes,
            lanes: array::from_fn(|_| Lane::default()),
            next_number: 0,
            seen: acknowledged.clone(),
            acknowledged,
            acknowledged_is_dirty: false,
            unsaid: Unsaid::new(),
            overtaken: BTreeMap::new(),
            latest: Event::default(),
            metrics: Metrics::default(),
            _lock: lock,
        };
        log.load(current_boot)?;
        Ok(log)
    }

    /// Notes that an event was taken.
    pub(super) fn see(&mut self, event: &Event) {
        let seen = self.seen.entry(event.boot_id.clone()).or_default();
        for (first, last) in spans(event) {
            seen.insert(first, last);
        }
        self.latest = Event {
            kind: None,
            ..event.clone()
        };
    }

    pub(super) fn is_acknowledged(&self, event: &Event) -> bool {
        self.acknowledged
            .get(&event.boot_id)
            .is_some_and(|acknowledged| acknowledged.contains(event.sequence))
    }

    /// Notes an event that was written to a lane.
    pub(super) fn note(&mut self, lane: usize, event: &Event) {
        self.see(event);
        let is_pending = !self.is_acknowledged(event);
        // It was just written to.
        if let Some(segment) = self.lanes[lane].segments.back_mut() {
            segment.note(event, is_pending);
        }
    }

    /// Takes events; what was taken before is left out. After an error none or some of them were taken: offer them again.
    pub(super) fn append(&mut self, events: &[Event]) -> Result<(), SpoolError> {
        for event in events {
            let mut unseen = Ranges::default();
            for (first, last) in spans(event) {
                unseen.insert(first, last);
            }
            if let Some(seen) = self.seen.get(&event.boot_id) {
                for (first, last) in seen.iter() {
                    unseen.remove(first, last);
                }
            }
            match &event.kind {
                Some(Kind::Gap(gap)) => {
                    for (first, last) in unseen.iter() {
                        self.append_gap(event, first, last, &gap.cause)?;
                    }
                }
                _ if unseen.is_empty() => {}
                _ => self.append_one(event)?,
            }
        }
        Ok(())
    }

    pub(super) fn append_gap(&mut self, like: &Event, first: u64, last: u64, cause: &str) -> Result<(), SpoolError> {
        self.append_one(&gap_event(like, &like.boot_id, &[(first, last)], cause))
    }

    fn append_one(&mut self, event: &Event) -> Result<(), SpoolError> {
        let lane = lane_of(event);
        let Some(frame) = frame::encode(event) else {
            tracing::error!(sequence = event.sequence, "an event is larger than 1 MiB and is lost");
            self.refuse(event, TOO_LARGE);
            return self.say_losses(event);
        };
        let frame_bytes = frame.len() as u64;
        self.make_room(lane, frame_bytes)?;
        // What went is said before what took its place; then there must be room again.
        self.say_losses(event)?;
        if !self.make_room(lane, frame_bytes)? || !self.write_somehow(lane, &frame)? {
            self.refuse(event, SPOOL_FULL);
            return self.say_losses(event);
        }
        self.note(lane, event);
        self.metrics.appended_total += 1;
        // What the second look for room or a full disk took.
        self.say_losses(event)
    }

    pub(super) fn bytes(&self) -> u64 {
        let segments = self.lanes.iter().flat_map(|lane| &lane.segments);
        segments.map(|segment| segment.bytes).sum()
    }

    /// Writes behind the last frame of a lane, in a new segment where that is full.
    pub(super) fn write(&mut self, lane: usize, frame: &[u8]) -> Result<(), SpoolError> {
        let segment_limit = (self.limit_bytes / 8).clamp(1, SEGMENT_BYTES);
        let is_full = self.lanes[lane]
            .segments
            .back()
            .is_none_or(|segment| segment.bytes > 0 && segment.bytes + frame.len() as u64 > segment_limit);
        if is_full {
            self.begin_segment(lane)?;
        }
        let lane = &mut self.lanes[lane];
        if let Some(segment) = lane.segments.back_mut() {
            segment.write(frame)?;
            lane.is_unsynced = true;
        }
        Ok(())
    }

    fn begin_segment(&mut self, lane: usize) -> Result<(), SpoolError> {
        self.lanes[lane].sync()?;
        let path = self.folder.join(segment::name(lane, self.next_number));
        self.next_number += 1;
        let segment = Segment::create(path)?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed(&self.folder, "synced"))?;
        self.lanes[lane].segments.push_back(segment);
        self.forget_settled();
        Ok(())
    }

    /// Central has these. Unknown sequences are ignored.
    pub(super) fn acknowledge(&mut self, boot_id: &str, sequences: &[u64]) {
        for &sequence in sequences {
            // A stream's acknowledgements come in the order of what was sent: the first is of the event, the next of the gap.
            if let Some(overtaken) = self.overtaken.get_mut(boot_id)
                && overtaken.contains(sequence)
            {
                overtaken.remove(sequence, sequence);
                continue;
            }
            let mut segments = self.lanes.iter_mut().flat_map(|lane| &mut lane.segments);
            let spans = segments
                .find_map(|segment| Some(segment.acknowledge(boot_id, sequence)).filter(|spans| !spans.is_empty()));
            let Some(spans) = spans else { continue };
            let acknowledged = self.acknowledged.entry(boot_id.to_owned()).or_default();
            for (first, last) in spans {
                acknowledged.insert(first, last);
            }
            self.acknowledged_is_dirty = true;
            self.metrics.acknowledged_total += 1;
        }
        self.forget_settled();
    }

    /// Removes segments in which nothing is pending, but each lane's last.
    pub(super) fn forget_settled(&mut self) {
        for lane in 0..LANES {
            while self.lanes[lane].segments.len() > 1
                && self.lanes[lane].segments.front().is_some_and(Segment::is_settled)
            {
                if let Err(error) = self.remove_segment(lane, 0) {
                    tracing::error!(error = %ErrorChain(&error), "a part of the spool that is done could not be removed");
                    return;
                }
            }
        }
    }

    /// Writes the acknowledgements down, if there are new ones.
    pub(super) fn store_acknowledged(&mut self) -> Result<(), SpoolError> {
        if !self.acknowledged_is_dirty {
            return Ok(());
        }
        self.forget_old_boots();
        acknowledged::write(&self.folder.join(ACKNOWLEDGED_FILE), &self.acknowledged)?;
        self.acknowledged_is_dirty = false;
        Ok(())
    }

    fn forget_old_boots(&mut self) {
        let is_needed = |boot_id: &str| {
            let mut segments = self.lanes.iter().flat_map(|lane| &lane.segments);
            *boot_id == *self.latest.boot_id || segments.any(|segment| segment.needs_boot(boot_id))
        };
        let old: Vec<String> = self
            .acknowledged
            .keys()
            .filter(|boot_id| !is_needed(boot_id))
            .cloned()
            .collect();
        for boot_id in old.iter().take(old.len().saturating_sub(REMEMBERED_BOOTS)) {
            self.acknowledged.remove(boot_id);
            self.seen.remove(boot_id);
        }
    }

    /// What must be synced.
    pub(super) fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        let unsynced = self.lanes.iter_mut().filter_map(|lane| {
            let is_unsynced = std::mem::take(&mut lane.is_unsynced);
            let segment = lane.segments.back().filter(|_| is_unsynced)?;
            Some(Arc::clone(&segment.file))
        });
        unsynced.collect()
    }

    /// Syncs what was written.
    #[cfg(test)]
    pub(super) fn sync(&mut self) -> Result<(), SpoolError> {
        self.lanes.iter_mut().try_for_each(Lane::sync)
    }

    /// The highest sequence such that it and all below were taken.
    pub(super) fn kept_through(&self, boot_id: &str) -> u64 {
        let first = self.seen.get(boot_id).and_then(|seen| seen.iter().next());
        first.filter(|(start, _)| *start <= 1).map_or(0, |(_, end)| end)
    }

    /// The highest sequence that was taken.
    pub(super) fn highest(&self, boot_id: &str) -> u64 {
        self.seen.get(boot_id).and_then(Ranges::last).unwrap_or(0)
    }

    pub(super) fn metrics(&self) -> Metrics {
        let pending = |segment: &Segment| segment.pending.values().map(Ranges::count).sum::<u64>();
        let segments = self.lanes.iter().flat_map(|lane| &lane.segments);
        Metrics {
            pending_events: segments.map(pending).sum(),
            bytes: self.bytes(),
            ..self.metrics
        }
    }
}

/// A process that ended may have left the lock for a moment to a child that has not started its own program yet.
fn take(lock: &File) -> Result<(), TryLockError> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(LOCK_PAUSE),
            taken => return taken,
        }
    }
}
