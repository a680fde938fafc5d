//! Refusals that the kernel side counted instead of telling each: reported once their window is over, each count exactly once.
//!
//! ```text
//!   next_window ──► elements of windows that are over ──► number (written into the element) ──► event kept ──► element removed
//! ```
//!
//! The agent may die between any two of these steps: an element that has a number is reported under the same number again, and the
//! spool takes a number once. Only a number that was taken and not written down is lost, and becomes a gap of one.

use std::collections::VecDeque;

use lattice_api::{
    event::violation_message,
    v1::{Event, event::Kind},
};
use lattice_common::repeat::{Judgement, Repeat, RepeatKey};

use super::{clock::wall_nanos, record::JudgedFile};
use crate::enforcement::tables::TableError;

/// Records whose names are remembered for the events that count their repeats.
const REMEMBERED: usize = 1024;
/// A program that read the number of the window just before it changed may still be counting in it: what is reported was over for a
/// whole window.
const WINDOWS_OPEN: u64 = 2;

/// The kernel's maps, or a test's.
pub(crate) trait Repeats {
    /// Moves on to the next window and returns its number.
    fn next_window(&mut self) -> Result<u64, TableError>;
    /// All elements.
    fn all(&self) -> Result<Vec<(RepeatKey, Repeat)>, TableError>;
    /// Replaces an element of a window that is over.
    fn put(&mut self, key: RepeatKey, repeat: Repeat) -> Result<(), TableError>;
    /// Removes an element of a window that is over.
    fn remove(&mut self, key: RepeatKey) -> Result<(), TableError>;
}

/// Elements that an earlier agent had numbered and not removed. Their numbers must be seen before holes are looked for.
pub(crate) fn numbered(table: &impl Repeats) -> Result<Vec<(RepeatKey, Repeat)>, TableError> {
    let mut all = table.all()?;
    all.retain(|(_, repeat)| repeat.sequence != 0);
    Ok(all)
}

/// Moves on to the next window, and numbers what is to be reported of those that are over.
pub(crate) fn due(
    table: &mut impl Repeats,
    mut number: impl FnMut() -> u64,
) -> Result<Vec<(RepeatKey, Repeat)>, TableError> {
    let now = table.next_window()?;
    let mut due = Vec::new();
    for (key, mut repeat) in table.all()? {
        if key.window.saturating_add(WINDOWS_OPEN) > now {
            continue;
        }
        if repeat.count == 0 {
            table.remove(key)?;
            continue;
        }
        if repeat.sequence == 0 {
            repeat.sequence = number();
            if let Err(error) = table.put(key, repeat) {
                tracing::error!(
                    sequence = repeat.sequence,
                    "a number was taken for a count that stays: a gap of one"
                );
                return Err(error);
            }
        }
        due.push((key, repeat));
    }
    // As the first of them came.
    due.sort_by_key(|(_, repeat)| repeat.sequence);
    Ok(due)
}

/// The record that a counted refusal would have had, as far as it is the same for all that were counted.
pub(crate) fn as_judged(key: &RepeatKey, repeat: &Repeat) -> JudgedFile {
    let Judgement {
        reason,
        effect,
        mode,
        role,
        origin,
        membership,
        hook,
    } = Judgement::unpack(key.judgement, key.standing);
    // Counted together, different files have nothing in common but the verdict.
    let is_one_file = key.inode != 0;
    JudgedFile {
        hook,
        sequence: repeat.sequence,
        time_boot_nanos: repeat.last_boot_nanos,
        cgroup_id: key.cgroup_id,
        inode: key.inode,
        size_bytes: if is_one_file { repeat.size_bytes } else { 0 },
        digest: repeat.digest,
        generation: repeat.generation,
        start_boot_nanos: 0,
        device: key.device,
        file_system: repeat.file_system,
        membership,
        mode,
        effect,
        reason,
        role,
        origin,
        flags: if is_one_file {
            repeat.flags
        } else {
            repeat.flags & lattice_common::abi::record_flag::SIGNAL
        },
        // What could not be signalled has a record of its own.
        signal_result: 0,
        container: key.container,
        epoch: key.epoch,
        policy: repeat.policy,
        entry: repeat.entry,
        pid: 0,
        parent_pid: 0,
        uid: 0,
        gid: 0,
        path: None,
        name: None,
        argv: None,
        session: 0,
        comm: Vec::new(),
        ancestors: Vec::new(),
    }
}

/// Names by the sequence of their record, for the events that count its repeats.
#[derive(Default)]
pub(crate) struct Names(VecDeque<(u64, Name)>);

struct Name {
    path: Vec<u8>,
    path_as_passed: Vec<u8>,
    drift: String,
}

impl Names {
    /// Remembers an event of its own.
    pub(crate) fn remember(&mut self, event: &Event) {
        let Some(Kind::Violation(violation)) = &event.kind else {
            return;
        };
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        let name = Name {
            path: violation.path.clone(),
            path_as_passed: violation.path_as_passed.clone(),
            drift: violation.drift.clone(),
        };
        self.0.push_back((event.sequence, name));
    }

    /// Makes the event of a counted refusal, as [`explain`](super::explain::explain) made it from [`as_judged`], one that counts.
    pub(crate) fn counted(&self, mut event: Event, key: &RepeatKey, repeat: &Repeat, boot_offset_nanos: i128) -> Event {
        let Some(Kind::Violation(violation)) = &mut event.kind else {
            return event;
        };
        violation.count = repeat.count;
        violation.first_unix_nanos = wall_nanos(repeat.first_boot_nanos, boot_offset_nanos);
        violation.last_unix_nanos = wall_nanos(repeat.last_boot_nanos, boot_offset_nanos);
        if key.inode == 0 {
            violation.drift.clear();
            if let Some(policy) = &mut violation.policy {
                policy.no_match.clear();
            }
        } else {
            violation.repeats_of = repeat.first_sequence;
            let first = self
                .0
                .iter()
                .rev()
                .find(|(sequence, _)| *sequence == repeat.first_sequence);
            if let Some((_, first)) = first {
                violation.path = first.path.clone();
                violation.path_as_passed = first.path_as_passed.clone();
                violation.drift = first.drift.clone();
            }
        }
        violation.message = violation_message(violation);
        event
    }
}

#[cfg(test)]
mod tests;
