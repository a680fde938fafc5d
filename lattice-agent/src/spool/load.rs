//! Reading the spool back after a start: whole frames count, what is no whole frame is cut off, and what is missing is said.

use std::{collections::BTreeMap, fs};

use lattice_api::v1::Event;

use super::{
    SpoolError, failed,
    frame::read_segment,
    log::Log,
    room::SPOOL_CORRUPT,
    segment::{Segment, parse_name},
};

impl Log {
    /// Reads all segments. `current_boot` is the boot whose missing events may still come from the ring buffer; of earlier boots they
    /// are lost.
    pub(super) fn load(&mut self, current_boot: &str) -> Result<(), SpoolError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed(&self.folder, "read"))? {
            let name = entry.map_err(failed(&self.folder, "read"))?.file_name();
            if let Some((lane, number)) = name.to_str().and_then(parse_name) {
                found.push((lane, number, self.folder.join(name)));
            }
        }
        found.sort_unstable();
        self.next_number = found
            .iter()
            .map(|(_, number, _)| number.saturating_add(1))
            .max()
            .unwrap_or(0);
        // By boot, its latest event, and whether an older segment of any lane is damaged.
        let mut latest: BTreeMap<String, Event> = BTreeMap::new();
        let mut is_corrupt = false;
        for (place, (lane, _, path)) in found.iter().enumerate() {
            let bytes = fs::read(path).map_err(failed(path, "read"))?;
            let mut segment = Segment::open(path)?;
            let at = read_segment(&bytes, |event| {
                self.see(&event);
                segment.note(&event, !self.is_acknowledged(&event));
                let event = Event { kind: None, ..event };
                match latest.get(&event.boot_id) {
                    Some(known) if known.sequence > event.sequence => {}
                    _ => drop(latest.insert(event.boot_id.clone(), event)),
                }
            });
            segment.bytes = at as u64;
            if at < bytes.len() {
                let cut_off_bytes = (bytes.len() - at) as u64;
                self.metrics.cut_off_bytes += cut_off_bytes;
                segment.file.set_len(segment.bytes).map_err(failed(path, "cut"))?;
                // In a lane's last segment this is what a kill in the middle of a write leaves; anywhere else it is damage.
                is_corrupt |= found.get(place + 1).is_some_and(|(next, ..)| next == lane);
                tracing::warn!(path = %path.display(), cut_off_bytes, "the spool had bytes that are no whole event");
            }
            self.lanes[*lane].segments.push_back(segment);
        }
        self.forget_settled();
        for (boot_id, example) in latest {
            if !is_corrupt && (boot_id == current_boot || current_boot.is_empty()) {
                continue;
            }
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
        Ok(())
    }
}
