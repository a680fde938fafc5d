//! Making room: what is given up, in which order, and how that is said.
//!
//! The oldest of the least important lane goes first, and an event never takes the room of a more important one: it is given up itself
//! then. What was given up becomes a gap in the most important lane, at once where there is room for it; until then it is remembered
//! here, and a hole in the sequence is there for the reader of a later start to see.

use std::{collections::BTreeMap, fs, io::ErrorKind};

use lattice_api::v1::{Event, Gap, SequenceRange, event::Kind};

use super::{
    SpoolError, failed, frame,
    lane::{LANES, REFUSED},
    log::Log,
    ranges::Ranges,
};
use crate::error_chain::ErrorChain;

/// Cause of a gap: the spool had no room.
pub(super) const SPOOL_FULL: &str = "spool-full";
/// Cause of a gap: the spool's own files were damaged.
pub(super) const SPOOL_CORRUPT: &str = "spool-corrupt";
/// Cause of a gap: an event larger than a frame.
pub(super) const TOO_LARGE: &str = "event-too-large";
/// Ranges that one gap event names.
const RANGES_IN_A_GAP: usize = 512;
/// Ranges that wait to be said; above that room is made for them.
const UNSAID_RANGES: usize = 4096;

/// What was given up and not said yet, by cause and boot.
pub(super) type Unsaid = BTreeMap<(&'static str, String), Ranges>;

impl Log {
    /// The segment that is given up first for the sake of an event of `lane`: one in which nothing is pending, else the oldest of the
    /// least important lane.
    fn victim(&self, lane: usize) -> Option<(usize, usize)> {
        for (index, lane) in self.lanes.iter().enumerate() {
            if let Some(place) = lane.segments.iter().position(|segment| segment.is_settled()) {
                return Some((index, place));
            }
        }
        (lane..LANES)
            .rev()
            .find(|&lane| !self.lanes[lane].segments.is_empty())
            .map(|lane| (lane, 0))
    }

    /// Gives up segments until so many bytes more fit. Returns false where only more important ones are left.
    pub(super) fn make_room(&mut self, lane: usize, frame_bytes: u64) -> Result<bool, SpoolError> {
        while self.bytes() + frame_bytes > self.limit_bytes {
            let Some((lane, place)) = self.victim(lane) else {
                return Ok(false);
            };
            self.give_up(lane, place, SPOOL_FULL)?;
        }
        Ok(true)
    }

    /// Writes a frame. Where the disk is full before the spool is, what would make room in the spool makes it there. Returns false
    /// where only more important ones are left.
    pub(super) fn write_somehow(&mut self, lane: usize, frame: &[u8]) -> Result<bool, SpoolError> {
        loop {
            match self.write(lane, frame) {
                Ok(()) => return Ok(true),
                Err(error) if error.is_full() => {
                    let Some((victim, place)) = self.victim(lane) else {
                        // For the most important the ring buffer waits.
                        return if lane == REFUSED { Err(error) } else { Ok(false) };
                    };
                    tracing::warn!(error = %ErrorChain(&error), "the disk is full before the spool is");
                    self.give_up(victim, place, SPOOL_FULL)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives up a segment; what was pending in it is to be said as gaps.
    pub(super) fn give_up(&mut self, lane: usize, place: usize, cause: &'static str) -> Result<(), SpoolError> {
        let Some(segment) = self.lanes[lane].segments.get(place) else {
            return Ok(());
        };
        let pending = segment.pending.clone();
        self.overtake(lane, place);
        self.remove_segment(lane, place)?;
        for (boot_id, ranges) in pending {
            self.metrics.dropped_total += ranges.count();
            tracing::warn!(
                boot_id,
                lane,
                count = ranges.count(),
                cause,
                "events were lost: central had not taken them"
            );
            let unsaid = self.unsaid.entry((cause, boot_id)).or_default();
            for (first, last) in ranges.iter() {
                unsaid.insert(first, last);
            }
        }
        Ok(())
    }

    /// Gives up an event that never came in.
    pub(super) fn refuse(&mut self, event: &Event, cause: &'static str) {
        self.metrics.dropped_total += 1;
        self.see(event);
        self.unsaid
            .entry((cause, event.boot_id.clone()))
            .or_default()
            .insert(event.sequence, event.sequence);
    }

    /// Says what was given up, as far as there is room for it. In the form and at the time of `like`.
    pub(super) fn say_losses(&mut self, like: &Event) -> Result<(), SpoolError> {
        while let Some(((cause, boot_id), ranges)) = self.unsaid.first_key_value() {
            let (cause, boot_id) = (*cause, boot_id.clone());
            let said: Vec<(u64, u64)> = ranges.iter().take(RANGES_IN_A_GAP).collect();
            let must_be_said = ranges.iter().count() > UNSAID_RANGES;
            let gap = gap_event(like, &boot_id, &said, cause);
            // Some KiB at most.
            let Some(frame) = frame::encode(&gap) else {
                return Ok(());
            };
            let fits = self.bytes() + frame.len() as u64 <= self.limit_bytes;
            let has_room = fits || (must_be_said && self.make_room(REFUSED, frame.len() as u64)?);
            if !has_room {
                return Ok(());
            }
            match self.write(REFUSED, &frame) {
                Ok(()) => self.note(REFUSED, &gap),
                Err(error) if error.is_full() => return Ok(()),
                Err(error) => return Err(error),
            }
            // It may have grown meanwhile, but never by what was just said.
            if let Some(ranges) = self.unsaid.get_mut(&(cause, boot_id.clone())) {
                for (first, last) in said {
                    ranges.remove(first, last);
                }
                if ranges.is_empty() {
                    self.unsaid.remove(&(cause, boot_id));
                }
            }
        }
        Ok(())
    }

    /// Removes a segment's file; what is pending in it is the caller's to care for.
    pub(super) fn remove_segment(&mut self, lane: usize, place: usize) -> Result<(), SpoolError> {
        // First what makes the segment dispensable. On a full disk that can only be written once the segment is gone; a death between
        // the two would have events sent again, which central takes once.
        let stored = self.store_acknowledged();
        match stored {
            Err(error) if !error.is_full() => return Err(error),
            _ => {}
        }
        let Some(segment) = self.lanes[lane].segments.get(place) else {
            return Ok(());
        };
        match fs::remove_file(&segment.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(failed(&segment.path, "removed")(source)),
        }
        self.lanes[lane].remove(place);
        if let Err(error) = self.store_acknowledged() {
            tracing::warn!(error = %ErrorChain(&error), "acknowledged events would be sent again after a restart");
        }
        Ok(())
    }
}

/// The gap event of some sequences, in the form and at the time of `like`.
pub(super) fn gap_event(like: &Event, boot_id: &str, spans: &[(u64, u64)], cause: &str) -> Event {
    let first = spans.first().map_or(0, |span| span.0);
    let ranges = spans.iter().map(|&(first, last)| SequenceRange { first, last });
    let gap = Gap {
        first_sequence: first,
        last_sequence: spans.last().map_or(0, |span| span.1),
        cause: cause.into(),
        ranges: if spans.len() > 1 { ranges.collect() } else { Vec::new() },
    };
    Event {
        node: like.node.clone(),
        boot_id: boot_id.into(),
        sequence: first,
        time_unix_nanos: like.time_unix_nanos,
        kind: Some(Kind::Gap(gap)),
    }
}
