//! Refusals that are counted in the kernel rather than told one by one, so that a flood costs neither events nor memory.
//!
//! Within one window, of each file that is refused for one reason in one container the first [`TOLD_PER_FILE`] have records of their
//! own, and of each container at most [`TOLD_PER_CONTAINER`]. What is above that is added to a [`Repeat`], which the agent reports
//! when the window is over. The agent alone moves to the next window: while none runs, all falls into one, and nothing overflows.

use crate::{
    abi::DigestWords,
    verdict::{Effect, Membership, Mode, Origin, Reason, Role},
};

/// Records of their own that equal refusals have within a window.
pub const TOLD_PER_FILE: u64 = 8;
/// Records of their own that a container's refusals have within a window.
pub const TOLD_PER_CONTAINER: u64 = 64;

/// Key of `REPEATS`: what makes refusals equal.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RepeatKey {
    /// Inode number of the file; 0 for all files of the container that have no element of their own.
    pub inode: u64,
    /// The cgroup, of a caller without a container; else 0.
    pub cgroup_id: u64,
    /// Number of the window.
    pub window: u64,
    /// `s_dev` of the file's file system; 0 where `inode` is.
    pub device: u32,
    /// Container index, or `NO_CONTAINER`.
    pub container: u32,
    /// The container's epoch.
    pub epoch: u32,
    /// [`Reason`], [`Effect`], [`Mode`] and [`Role`], eight bits each, the first lowest; 0 in the element that counts what the container
    /// was told of.
    pub judgement: u32,
    /// [`Origin`], [`Membership`] and hook, eight bits each, the first lowest.
    pub standing: u32,
    /// 0.
    pub reserved: u32,
}

/// What is counted.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repeat {
    /// Refusals that have no record of their own.
    pub count: u64,
    /// Refusals that asked for a record of their own.
    pub told: u64,
    /// Sequence of the first one's record; 0 where there was none.
    pub first_sequence: u64,
    /// When the first and the last of `count` were, on the boot clock.
    pub first_boot_nanos: u64,
    /// As above.
    pub last_boot_nanos: u64,
    /// Sequence of the event that says `count`. The agent's: 0 until it has given one, so that after a crash it gives no second.
    pub sequence: u64,
    /// Generation of the policy, at the first.
    pub generation: u64,
    /// Size of the file in bytes, at the first.
    pub size_bytes: u64,
    /// SHA-256 of the file, at the first.
    pub digest: DigestWords,
    /// Policy index, at the first.
    pub policy: u32,
    /// Number of the matched entry, at the first.
    pub entry: u32,
    /// `record_flag` bits, at the first.
    pub flags: u32,
    /// `s_magic` of the file's file system.
    pub file_system: u32,
}

/// What the key says of the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Why.
    pub reason: Reason,
    /// What was done.
    pub effect: Effect,
    /// Mode that held.
    pub mode: Mode,
    /// How the file took part.
    pub role: Role,
    /// Where the caller came from.
    pub origin: Origin,
    /// To what the caller belongs.
    pub membership: Membership,
    /// One of `abi::hook`.
    pub hook: u32,
}

impl Judgement {
    /// As [`RepeatKey::judgement`] and [`RepeatKey::standing`].
    #[inline(always)]
    pub const fn pack(self) -> (u32, u32) {
        (
            (self.reason.0 & 0xff)
                | (self.effect.0 & 0xff) << 8
                | (self.mode.0 & 0xff) << 16
                | (self.role.0 & 0xff) << 24,
            (self.origin.0 & 0xff) | (self.membership.0 & 0xff) << 8 | (self.hook & 0xff) << 16,
        )
    }

    /// What [`Judgement::pack`] packed.
    pub const fn unpack(judgement: u32, standing: u32) -> Self {
        Self {
            reason: Reason(judgement & 0xff),
            effect: Effect(judgement >> 8 & 0xff),
            mode: Mode(judgement >> 16 & 0xff),
            role: Role(judgement >> 24 & 0xff),
            origin: Origin(standing & 0xff),
            membership: Membership(standing >> 8 & 0xff),
            hook: standing >> 16 & 0xff,
        }
    }
}

const _: () = {
    assert!(size_of::<RepeatKey>() == 48);
    assert!(size_of::<Repeat>() == 112);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::hook;

    #[test]
    fn a_judgement_survives_its_key() {
        let judgement = Judgement {
            reason: Reason::UNRESOLVED,
            effect: Effect::KILL,
            mode: Mode::DENY,
            role: Role::ELF_INTERPRETER,
            origin: Origin::UNKNOWN,
            membership: Membership::PENDING,
            hook: hook::MMAP_FILE,
        };
        let (packed, standing) = judgement.pack();
        assert_ne!(packed, 0);
        assert_eq!(Judgement::unpack(packed, standing), judgement);
    }
}
