//! One file of the spool: frames one behind the other, and which of their events are pending.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use lattice_api::v1::{Event, event::Kind};

use super::{
    SpoolError, failed,
    frame::{self, Frame},
    lane::{LANES, REFUSED},
    ranges::Ranges,
};

const SUFFIX: &str = ".segment";

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Length up to the last whole frame.
    pub(super) bytes: u64,
    /// By boot, sequences that are not acknowledged; a gap event stands for all that it covers.
    pub(super) pending: BTreeMap<String, Ranges>,
    /// What a gap event covers, by boot and its own sequence.
    gaps: BTreeMap<(String, u64), Vec<(u64, u64)>>,
}

/// A segment's file name.
pub(super) fn name(lane: usize, number: u64) -> String {
    format!("{lane}-{number:020}{SUFFIX}")
}

/// Lane and number of a segment's file; before there were lanes a name was a number alone.
pub(super) fn parse_name(name: &str) -> Option<(usize, u64)> {
    let stem = name.strip_suffix(SUFFIX)?;
    let (lane, number) = match stem.split_once('-') {
        Some((lane, number)) => (lane.parse().ok().filter(|lane| *lane < LANES)?, number),
        None => (REFUSED, stem),
    };
    Some((lane, number.parse().ok()?))
}

/// The sequences that an event stands for.
pub(super) fn spans(event: &Event) -> Vec<(u64, u64)> {
    match &event.kind {
        Some(Kind::Gap(gap)) if gap.ranges.is_empty() => {
            vec![(event.sequence, gap.last_sequence.max(event.sequence))]
        }
        Some(Kind::Gap(gap)) => gap
            .ranges
            .iter()
            .map(|range| (range.first, range.last))
            .filter(|(first, last)| first <= last)
            .chain([(event.sequence, event.sequence)])
            .collect(),
        _ => vec![(event.sequence, event.sequence)],
    }
}

impl Segment {
    /// Begins a file.
    pub(super) fn create(path: PathBuf) -> Result<Self, SpoolError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path, "created"))?;
        Ok(Self::around(path, file))
    }

    /// Opens a file; nothing of it is noted yet.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed(path, "opened"))?;
        Ok(Self::around(path.into(), file))
    }

    fn around(path: PathBuf, file: File) -> Self {
        Self {
            path,
            file: Arc::new(file),
            bytes: 0,
            pending: BTreeMap::new(),
            gaps: BTreeMap::new(),
        }
    }

    /// Whether nothing in it waits to be acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether a sequence waits to be acknowledged.
    pub(super) fn is_pending(&self, boot_id: &str, sequence: u64) -> bool {
        self.pending
            .get(boot_id)
            .is_some_and(|pending| pending.contains(sequence))
    }

    /// Notes an event that is in the file.
    pub(super) fn note(&mut self, event: &Event, is_pending: bool) {
        let spans = spans(event);
        if is_pending {
            let pending = self.pending.entry(event.boot_id.clone()).or_default();
            for &(first, last) in &spans {
                pending.insert(first, last);
            }
        }
        if spans != [(event.sequence, event.sequence)] {
            self.gaps.insert((event.boot_id.clone(), event.sequence), spans);
        }
    }

    /// Central has an event of this segment. Returns what it stood for; nothing where it does not wait here.
    pub(super) fn acknowledge(&mut self, boot_id: &str, sequence: u64) -> Vec<(u64, u64)> {
        let Some(pending) = self
            .pending
            .get_mut(boot_id)
            .filter(|pending| pending.contains(sequence))
        else {
            return Vec::new();
        };
        let spans = self
            .gaps
            .get(&(boot_id.to_owned(), sequence))
            .cloned()
            .unwrap_or_else(|| vec![(sequence, sequence)]);
        for &(first, last) in &spans {
            pending.remove(first, last);
        }
        if pending.is_empty() {
            self.pending.remove(boot_id);
        }
        spans
    }

    /// Whether it has an event of a boot that is not settled, or a gap of it.
    pub(super) fn needs_boot(&self, boot_id: &str) -> bool {
        self.pending.contains_key(boot_id) || self.gaps.keys().any(|(boot, _)| boot == boot_id)
    }

    /// Writes behind the last whole frame, over what a failed write may have left there.
    pub(super) fn write(&mut self, frame: &[u8]) -> Result<(), SpoolError> {
        let written = self.file.write_all_at(frame, self.bytes);
        written.map_err(failed(&self.path, "written"))?;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Reads the frame at an offset.
    pub(super) fn read(&self, at: u64) -> Result<(Event, usize), SpoolError> {
        let changed = || io::Error::new(ErrorKind::InvalidData, "an event was changed after it was written");
        let mut header = [0; frame::HEADER_BYTES];
        let read = self.file.read_exact_at(&mut header, at);
        read.map_err(failed(&self.path, "read"))?;
        let [l0, l1, l2, l3, ..] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > frame::PAYLOAD_BYTES {
            return Err(failed(&self.path, "read")(changed()));
        }
        let mut bytes = vec![0; frame::HEADER_BYTES + length];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(failed(&self.path, "read"))?;
        match frame::decode(&bytes) {
            Frame::Event(event, length) => Ok((*event, length)),
            Frame::End | Frame::Broken => Err(failed(&self.path, "read")(changed())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse_name(&name(2, 7)), Some((2, 7)));
        assert_eq!(parse_name("00000000000000000012.segment"), Some((0, 12)));
        for name in ["3-1.segment", "x-1.segment", "1-x.segment", "acknowledged", "1-2"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
