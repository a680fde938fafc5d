//! The queue on disk: segments, what in them is pending, and the cursor of what was handed out. No lock, no thread, no clock.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use lattice_api::v1::{Event, Gap, event::Kind};

use super::{
    SpoolError,
    acknowledged::{self, Acknowledged},
    frame::{self, Frame},
    ranges::Ranges,
};
use crate::error_chain::ErrorChain;

const SUFFIX: &str = ".segment";
const ACKNOWLEDGED_FILE: &str = "acknowledged";
const LOCK_FILE: &str = "lock";
const SEGMENT_BYTES: u64 = 4 << 20;
/// Boots whose acknowledgements are remembered besides those that have events in the spool.
const REMEMBERED_BOOTS: usize = 4;

/// Cause of a gap: the spool had no room.
const SPOOL_FULL: &str = "spool-full";
/// Cause of a gap: the spool's own files were damaged.
const SPOOL_CORRUPT: &str = "spool-corrupt";

struct Segment {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    /// By boot, sequences that are not acknowledged; a gap event stands for all that it covers.
    pending: BTreeMap<String, Ranges>,
    /// Last sequence that a gap event covers, by boot and its own sequence.
    gaps: BTreeMap<(String, u64), u64>,
}

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

pub(super) struct Log {
    folder: PathBuf,
    limit_bytes: u64,
    segments: VecDeque<Segment>,
    next_number: u64,
    acknowledged: Acknowledged,
    acknowledged_is_dirty: bool,
    /// All that was ever taken and is remembered: acknowledged or in a segment.
    seen: BTreeMap<String, Ranges>,
    /// The latest event, without its content.
    latest: Event,
    /// Where the next batch begins: place in `segments`, and offset in it.
    cursor: (usize, u64),
    is_unsynced: bool,
    metrics: Metrics,
    _lock: File,
}

impl Log {
    pub(super) fn open(folder: &Path, limit_bytes: u64) -> Result<Self, SpoolError> {
        let failed = |path: &Path, action| {
            let path = path.to_path_buf();
            move |source| SpoolError::File { path, action, source }
        };
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
        lock.try_lock()
            .map_err(|_| SpoolError::InUse { folder: folder.into() })?;
        let acknowledged = acknowledged::read(&folder.join(ACKNOWLEDGED_FILE)).unwrap_or_else(|error| {
            // Worse than resending is nothing: central keeps each event once.
            tracing::error!(error = %ErrorChain(&error), "what central acknowledged is not known: it is sent again");
            Acknowledged::new()
        });
        let mut log = Self {
            folder: folder.into(),
            limit_bytes,
            segments: VecDeque::new(),
            next_number: 0,
            seen: acknowledged.clone(),
            acknowledged,
            acknowledged_is_dirty: false,
            latest: Event::default(),
            cursor: (0, 0),
            is_unsynced: false,
            metrics: Metrics::default(),
            _lock: lock,
        };
        log.load()?;
        Ok(log)
    }

    /// Reads all segments, cuts off what is no whole event, and says what is lost.
    fn load(&mut self) -> Result<(), SpoolError> {
        let failed = |path: &Path, action| {
            let path = path.to_path_buf();
            move |source| SpoolError::File { path, action, source }
        };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed(&self.folder, "read"))? {
            let name = entry.map_err(failed(&self.folder, "read"))?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_suffix(SUFFIX))
                .and_then(|name| name.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        self.next_number = numbers.last().map_or(0, |last| last.saturating_add(1));
        let mut latest: BTreeMap<String, Event> = BTreeMap::new();
        let mut is_corrupt = false;
        for (place, number) in numbers.iter().enumerate() {
            let path = self.segment_path(*number);
            let bytes = fs::read(&path).map_err(failed(&path, "read"))?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(failed(&path, "opened"))?;
            let mut segment = Segment {
                path: path.clone(),
                file: Arc::new(file),
                bytes: 0,
                pending: BTreeMap::new(),
                gaps: BTreeMap::new(),
            };
            let mut at = 0;
            while let Frame::Event(event, length) = frame::decode(bytes.get(at..).unwrap_or_default()) {
                at += length;
                self.note(&mut segment, &event);
                latest.insert(event.boot_id.clone(), Event { kind: None, ..*event });
            }
            segment.bytes = at as u64;
            if at < bytes.len() {
                let cut_off_bytes = (bytes.len() - at) as u64;
                self.metrics.cut_off_bytes += cut_off_bytes;
                segment.file.set_len(segment.bytes).map_err(failed(&path, "cut"))?;
                // In the last segment this is what a kill in the middle of a write leaves; anywhere else it is damage.
                is_corrupt |= place + 1 < numbers.len();
                tracing::warn!(path = %path.display(), cut_off_bytes, "the spool had bytes that are no whole event");
            }
            self.segments.push_back(segment);
        }
        self.forget_settled();
        if is_corrupt {
            for (boot_id, example) in latest {
                let holes = self
                    .seen
                    .get(&boot_id)
                    .map(|seen| seen.missing(1, seen.last().unwrap_or(0)))
                    .unwrap_or_default();
                for (first, last) in holes {
                    tracing::error!(boot_id, first, last, "events were lost: the spool was damaged");
                    self.append_gap(&example, first, last, SPOOL_CORRUPT)?;
                }
            }
        }
        Ok(())
    }

    fn segment_path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}{SUFFIX}"))
    }

    /// Notes an event that is in the segment's file.
    fn note(&mut self, segment: &mut Segment, event: &Event) {
        let (first, last) = span(event);
        self.seen.entry(event.boot_id.clone()).or_default().insert(first, last);
        self.latest = Event {
            kind: None,
            ..event.clone()
        };
        if !self
            .acknowledged
            .get(&event.boot_id)
            .is_some_and(|acknowledged| acknowledged.contains(first))
        {
            segment
                .pending
                .entry(event.boot_id.clone())
                .or_default()
                .insert(first, last);
        }
        if last > first {
            segment.gaps.insert((event.boot_id.clone(), first), last);
        }
    }

    /// Takes events; what was taken before is left out. After an error none or some of them were taken: offer them again.
    pub(super) fn append(&mut self, events: &[Event]) -> Result<(), SpoolError> {
        for event in events {
            let (first, last) = span(event);
            let unseen = match self.seen.get(&event.boot_id) {
                Some(seen) => seen.missing(first, last),
                None => vec![(first, last)],
            };
            match &event.kind {
                Some(Kind::Gap(gap)) => {
                    for (first, last) in unseen {
                        let cause = gap.cause.clone();
                        self.append_gap(event, first, last, &cause)?;
                    }
                }
                _ if unseen.is_empty() => {}
                _ => self.append_one(event)?,
            }
        }
        Ok(())
    }

    fn append_gap(&mut self, like: &Event, first: u64, last: u64, cause: &str) -> Result<(), SpoolError> {
        let gap = Gap {
            first_sequence: first,
            last_sequence: last,
            cause: cause.into(),
        };
        self.append_one(&Event {
            sequence: first,
            kind: Some(Kind::Gap(gap)),
            ..like.clone()
        })
    }

    fn append_one(&mut self, event: &Event) -> Result<(), SpoolError> {
        let frame = frame::encode(event).ok_or(SpoolError::TooLarge {
            sequence: event.sequence,
        })?;
        self.make_room(event, frame.len() as u64)?;
        if let Err(error) = self.write(&frame) {
            let is_full = matches!(&error, SpoolError::File { source, .. } if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
            if !is_full || self.segments.len() < 2 {
                return Err(error);
            }
            // The disk is full before the spool is: the oldest makes room here too.
            self.drop_oldest(event)?;
            self.write(&frame)?;
        }
        // `write` has made sure that there is one.
        if let Some(mut segment) = self.segments.pop_back() {
            self.note(&mut segment, event);
            self.segments.push_back(segment);
        }
        self.metrics.appended_total += 1;
        Ok(())
    }

    fn segment_limit(&self) -> u64 {
        (self.limit_bytes / 8).clamp(1, SEGMENT_BYTES)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Begins a new segment where the current one is full, and gives up the oldest where all of them are.
    fn make_room(&mut self, event: &Event, frame_bytes: u64) -> Result<(), SpoolError> {
        let is_full = self
            .segments
            .back()
            .is_none_or(|segment| segment.bytes > 0 && segment.bytes + frame_bytes > self.segment_limit());
        if is_full {
            self.begin_segment()?;
        }
        while self.bytes() + frame_bytes > self.limit_bytes && self.segments.len() > 1 {
            self.drop_oldest(event)?;
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        let path = self.segment_path(self.next_number);
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| SpoolError::File { path, action, source }
        };
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("created", &path))?;
        self.next_number += 1;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("synced", &self.folder))?;
        self.segments.push_back(Segment {
            path,
            file: Arc::new(file),
            bytes: 0,
            pending: BTreeMap::new(),
            gaps: BTreeMap::new(),
        });
        self.forget_settled();
        Ok(())
    }

    fn drop_oldest(&mut self, like: &Event) -> Result<(), SpoolError> {
        self.give_up(0, like, SPOOL_FULL)
    }

    /// Gives up a segment; what was pending in it becomes gaps, in the form and at the time of `like`.
    fn give_up(&mut self, place: usize, like: &Event, cause: &str) -> Result<(), SpoolError> {
        let Some(segment) = self.segments.get(place) else {
            return Ok(());
        };
        let pending = segment.pending.clone();
        self.remove_segment(place)?;
        for (boot_id, ranges) in pending {
            let like = Event {
                boot_id: boot_id.clone(),
                ..like.clone()
            };
            for (first, last) in ranges.iter() {
                self.metrics.dropped_total += last - first + 1;
                tracing::warn!(
                    boot_id,
                    first,
                    last,
                    cause,
                    "events were lost: central had not taken them"
                );
                let gap = Gap {
                    first_sequence: first,
                    last_sequence: last,
                    cause: cause.into(),
                };
                let event = Event {
                    sequence: first,
                    kind: Some(Kind::Gap(gap)),
                    ..like.clone()
                };
                let frame = frame::encode(&event).ok_or(SpoolError::TooLarge { sequence: first })?;
                self.write(&frame)?;
                if let Some(mut segment) = self.segments.pop_back() {
                    self.note(&mut segment, &event);
                    self.segments.push_back(segment);
                }
            }
        }
        Ok(())
    }

    /// Writes behind the last whole frame, over what a failed write may have left there.
    fn write(&mut self, frame: &[u8]) -> Result<(), SpoolError> {
        if self.segments.is_empty() {
            self.begin_segment()?;
        }
        if let Some(segment) = self.segments.back_mut() {
            let written = segment.file.write_all_at(frame, segment.bytes);
            written.map_err(|source| SpoolError::File {
                path: segment.path.clone(),
                action: "written",
                source,
            })?;
            segment.bytes += frame.len() as u64;
            self.is_unsynced = true;
        }
        Ok(())
    }

    /// The next events to send, oldest first, at most so many and about so many bytes; empty when all were handed out.
    pub(super) fn next_batch(&mut self, max_events: usize, max_bytes: usize) -> Result<Vec<Event>, SpoolError> {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while batch.len() < max_events && batch_bytes < max_bytes {
            let Some(segment) = self.segments.get(self.cursor.0) else {
                break;
            };
            if self.cursor.1 >= segment.bytes {
                if self.cursor.0 + 1 >= self.segments.len() {
                    break;
                }
                self.cursor = (self.cursor.0 + 1, 0);
                continue;
            }
            let (event, length) = match read_frame(segment, self.cursor.1) {
                Ok(read) => read,
                Err(error) => {
                    self.give_up_damaged(batch.last(), &error)?;
                    continue;
                }
            };
            self.cursor.1 += length as u64;
            if segment
                .pending
                .get(&event.boot_id)
                .is_some_and(|pending| pending.contains(event.sequence))
            {
                batch_bytes += length;
                batch.push(event);
            }
        }
        Ok(batch)
    }

    /// The segment at the cursor cannot be read any more. Without this, all behind it would never be sent.
    fn give_up_damaged(&mut self, latest: Option<&Event>, error: &SpoolError) -> Result<(), SpoolError> {
        tracing::error!(error = %ErrorChain(error), "a part of the spool is damaged and is given up");
        let like = latest.cloned().unwrap_or_else(|| self.latest.clone());
        let place = self.cursor.0;
        if place + 1 == self.segments.len() {
            self.begin_segment()?;
        }
        // Beginning a segment may have removed what is done before it.
        self.give_up(self.cursor.0, &like, SPOOL_CORRUPT)
    }

    /// The newest events that are in the spool, acknowledged or not, oldest first, at most so many.
    pub(super) fn newest(&self, max_events: usize) -> Result<Vec<Event>, SpoolError> {
        let mut newest = VecDeque::new();
        for segment in self.segments.iter().rev() {
            let mut events = Vec::new();
            let mut at = 0;
            while at < segment.bytes {
                let (event, length) = read_frame(segment, at)?;
                at += length as u64;
                events.push(event);
            }
            for event in events.into_iter().rev().take(max_events - newest.len()) {
                newest.push_front(event);
            }
            if newest.len() >= max_events {
                break;
            }
        }
        Ok(newest.into())
    }

    /// What was handed out and not acknowledged is handed out again.
    pub(super) fn rewind(&mut self) {
        self.cursor = (0, 0);
    }

    /// Central has these. Unknown sequences are ignored.
    pub(super) fn acknowledge(&mut self, boot_id: &str, sequences: &[u64]) {
        for &sequence in sequences {
            for segment in &mut self.segments {
                let Some(pending) = segment
                    .pending
                    .get_mut(boot_id)
                    .filter(|pending| pending.contains(sequence))
                else {
                    continue;
                };
                let last = segment
                    .gaps
                    .get(&(boot_id.to_owned(), sequence))
                    .copied()
                    .unwrap_or(sequence);
                pending.remove(sequence, last);
                if pending.is_empty() {
                    segment.pending.remove(boot_id);
                }
                self.acknowledged
                    .entry(boot_id.to_owned())
                    .or_default()
                    .insert(sequence, last);
                self.acknowledged_is_dirty = true;
                self.metrics.acknowledged_total += 1;
                break;
            }
        }
        self.forget_settled();
    }

    /// Removes segments in which nothing is pending, but the last.
    fn forget_settled(&mut self) {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.pending.is_empty()) {
            if let Err(error) = self.remove_segment(0) {
                tracing::error!(error = %ErrorChain(&error), "a part of the spool that is done could not be removed");
                return;
            }
        }
    }

    fn remove_segment(&mut self, place: usize) -> Result<(), SpoolError> {
        // First what makes the segment dispensable.
        self.store_acknowledged()?;
        let Some(segment) = self.segments.get(place) else {
            return Ok(());
        };
        match fs::remove_file(&segment.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => {
                return Err(SpoolError::File {
                    path: segment.path.clone(),
                    action: "removed",
                    source,
                });
            }
        }
        self.segments.remove(place);
        self.cursor = if self.cursor.0 > place {
            (self.cursor.0 - 1, self.cursor.1)
        } else {
            (place, 0)
        };
        Ok(())
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
            *boot_id == *self.latest.boot_id
                || self.segments.iter().any(|segment| {
                    segment.pending.contains_key(boot_id) || segment.gaps.keys().any(|(boot, _)| boot == boot_id)
                })
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

    /// What must be synced, or `None` if all is.
    pub(super) fn take_unsynced(&mut self) -> Option<Arc<File>> {
        if !std::mem::take(&mut self.is_unsynced) {
            return None;
        }
        self.segments.back().map(|segment| Arc::clone(&segment.file))
    }

    /// Syncs what was written.
    pub(super) fn sync(&mut self) -> Result<(), SpoolError> {
        if let Some(segment) = self.segments.back().filter(|_| self.is_unsynced) {
            let synced = segment.file.sync_data();
            synced.map_err(|source| SpoolError::File {
                path: segment.path.clone(),
                action: "synced",
                source,
            })?;
            self.is_unsynced = false;
        }
        Ok(())
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
        Metrics {
            pending_events: self.segments.iter().map(pending).sum(),
            bytes: self.bytes(),
            ..self.metrics
        }
    }
}

/// First and last sequence that an event stands for.
fn span(event: &Event) -> (u64, u64) {
    match &event.kind {
        Some(Kind::Gap(gap)) => (event.sequence, gap.last_sequence.max(event.sequence)),
        _ => (event.sequence, event.sequence),
    }
}

fn read_frame(segment: &Segment, at: u64) -> Result<(Event, usize), SpoolError> {
    let failed = |source| SpoolError::File {
        path: segment.path.clone(),
        action: "read",
        source,
    };
    let mut header = [0; frame::HEADER_BYTES];
    segment.file.read_exact_at(&mut header, at).map_err(failed)?;
    let [l0, l1, l2, l3, ..] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > frame::PAYLOAD_BYTES {
        return Err(failed(io::Error::new(
            ErrorKind::InvalidData,
            "an event was changed after it was written",
        )));
    }
    let mut bytes = vec![0; frame::HEADER_BYTES + length];
    segment.file.read_exact_at(&mut bytes, at).map_err(failed)?;
    match frame::decode(&bytes) {
        Frame::Event(event, length) => Ok((*event, length)),
        Frame::End | Frame::Broken => Err(failed(io::Error::new(
            ErrorKind::InvalidData,
            "an event was changed after it was written",
        ))),
    }
}
