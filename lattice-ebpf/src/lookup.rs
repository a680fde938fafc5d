//! Look-ups in a policy's set.

use lattice_common::abi::{DigestWords, EntryKey, EntryRule, SizeKey};

use crate::maps::{ENTRIES, SIZES};

/// Whether any entry of the set has this size.
#[inline(always)]
pub(crate) fn size_is_listed(set: u32, size_bytes: u64) -> bool {
    // SAFETY: only presence matters.
    unsafe {
        SIZES.get(SizeKey {
            size_bytes,
            set,
            reserved: 0,
        })
    }
    .is_some()
}

/// The rule for a digest in a set.
#[inline(always)]
pub(crate) fn rule_of_digest(set: u32, digest: &DigestWords) -> Option<EntryRule> {
    // SAFETY: the value is copied at once.
    unsafe {
        ENTRIES.get(EntryKey {
            digest: *digest,
            set,
            reserved: 0,
        })
    }
    .copied()
}
