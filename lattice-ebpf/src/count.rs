//! The verdict and its counters. Every allow passes through here with its reason.

use lattice_common::verdict::{Decision, Facts, Reason, verdict};

use crate::{atomic::fetch_increment, maps::COUNTERS};

/// Adds one to a slot. Atomic although per CPU: a sleepable program can be preempted by another on the same CPU.
#[inline(always)]
pub(crate) fn count(slot: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the element is aligned and lives as long as the map.
        unsafe { fetch_increment(value) };
    }
}

/// Decides, and counts the decision by its reason: the only way from facts to a hook's return.
#[inline(always)]
pub(crate) fn decided(facts: Facts) -> Decision {
    let decision = Decision::unpack(lattice_verdict(facts.pack()));
    let Reason(slot) = decision.reason;
    count(slot);
    decision
}

/// A global BPF function: the verifier checks it once, with all facts unknown.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lattice_verdict(facts: u64) -> u64 {
    verdict(Facts::unpack(facts)).pack()
}
