//! What is sent: lane by lane, the most important first, and in a lane in the order in which it came.

use std::collections::VecDeque;

use lattice_api::v1::Event;

use super::{SpoolError, lane::LANES, log::Log, room::SPOOL_CORRUPT};
use crate::error_chain::ErrorChain;

impl Log {
    /// The next events to send, at most so many and about so many bytes; empty when all were handed out.
    pub(super) fn next_batch(&mut self, max_events: usize, max_bytes: usize) -> Result<Vec<Event>, SpoolError> {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        let mut index = 0;
        while index < LANES && batch.len() < max_events && batch_bytes < max_bytes {
            let lane = &mut self.lanes[index];
            let (place, at) = lane.cursor;
            let Some(segment) = lane.segments.get(place) else {
                index += 1;
                continue;
            };
            if at >= segment.bytes {
                if place + 1 < lane.segments.len() {
                    lane.cursor = (place + 1, 0);
                } else {
                    index += 1;
                }
                continue;
            }
            match segment.read(at) {
                Ok((event, length)) => {
                    lane.cursor.1 += length as u64;
                    if segment.is_pending(&event.boot_id, event.sequence) {
                        batch_bytes += length;
                        batch.push(event);
                    }
                }
                Err(error) => {
                    // Without this, all behind it would never be sent.
                    tracing::error!(error = %ErrorChain(&error), "a part of the spool is damaged and is given up");
                    let like = batch.last().cloned().unwrap_or_else(|| self.latest.clone());
                    self.give_up(index, place, SPOOL_CORRUPT)?;
                    self.say_losses(&like)?;
                    // The gap stands in the first lane.
                    index = 0;
                }
            }
        }
        Ok(batch)
    }

    /// Notes what of a segment was handed out and is pending, before the segment is given up.
    pub(super) fn overtake(&mut self, lane: usize, place: usize) {
        let lane = &self.lanes[lane];
        let Some(segment) = lane.segments.get(place) else {
            return;
        };
        let handed_out_to = match lane.cursor {
            (at, _) if place < at => segment.bytes,
            (at, offset) if place == at => offset,
            _ => 0,
        };
        let mut at = 0;
        while at < handed_out_to {
            // What is damaged ends it: those behind it were handed out before the damage, and are sent again after it.
            let Ok((event, length)) = segment.read(at) else { return };
            at += length as u64;
            if segment.is_pending(&event.boot_id, event.sequence) {
                let overtaken = self.overtaken.entry(event.boot_id).or_default();
                overtaken.insert(event.sequence, event.sequence);
            }
        }
    }

    /// What was handed out and not acknowledged is handed out again.
    pub(super) fn rewind(&mut self) {
        // Of the stream before no word can come any more.
        self.overtaken.clear();
        for lane in &mut self.lanes {
            lane.cursor = (0, 0);
        }
    }

    /// The newest events that are in the spool, acknowledged or not, oldest first, at most so many.
    pub(super) fn newest(&self, max_events: usize) -> Result<Vec<Event>, SpoolError> {
        let mut newest = Vec::new();
        for lane in &self.lanes {
            let mut of_lane = VecDeque::new();
            for segment in lane.segments.iter().rev() {
                let mut events = Vec::new();
                let mut at = 0;
                while at < segment.bytes {
                    let (event, length) = segment.read(at)?;
                    at += length as u64;
                    events.push(event);
                }
                for event in events.into_iter().rev().take(max_events - of_lane.len()) {
                    of_lane.push_front(event);
                }
                if of_lane.len() >= max_events {
                    break;
                }
            }
            newest.extend(of_lane);
        }
        // By number, which no clock changes; the boot that wrote last comes last.
        let key = |event: &Event| {
            (
                event.boot_id == self.latest.boot_id,
                event.boot_id.clone(),
                event.sequence,
            )
        };
        newest.sort_by_cached_key(key);
        newest.drain(..newest.len().saturating_sub(max_events));
        Ok(newest)
    }
}
