//! Counters. Every allow passes through here with its reason.

use lattice_common::verdict::{Decision, Reason};

use crate::{atomic::fetch_increment, maps::COUNTERS};

/// Adds one to a slot. Atomic although per CPU: a sleepable program can be preempted by another on the same CPU.
#[inline(always)]
pub(crate) fn count(slot: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the element is aligned and lives as long as the map.
        unsafe { fetch_increment(value) };
    }
}

/// Counts a decision by its reason. The only way from a verdict to the hook's return.
#[inline(always)]
pub(crate) fn counted(decision: Decision) -> Decision {
    let Decision { reason: Reason(slot), .. } = decision;
    count(slot);
    decision
}
