//! Which file this is: its digest, kept on the inode while the file cannot change, else computed now.

use aya_ebpf::{
    bindings::{inode, task_struct},
    btf_maps::InodeStorage,
    helpers::generated::{bpf_d_path, bpf_ima_file_hash},
    macros::btf_map,
};
use lattice_common::abi::{CachedDigest, DigestWords, EntryRule, PATH_KEY_BYTES, PathKey, counter};

use crate::{
    count::count,
    kernel::mounts_of,
    maps::{PATHS, TaskStorage},
    trusted::{File, Inode, Layer, OwnRoot},
};

#[btf_map]
static DIGESTS: InodeStorage<CachedDigest> = InodeStorage::new();

/// Larger files are not read. The kernel's hash cannot be interrupted, and where preemption is voluntary it gives its processor away only when
/// it waits for a disk: a sparse file on a tmpfs, which costs its owner nothing, would hold it for as long as it seems to be.
const HASH_LIMIT_BYTES: u64 = 128 << 20;
/// The same on the image's layers, where a file is hashed once and nobody in the container can make one; the agent's own bound.
const LAYER_HASH_LIMIT_BYTES: u64 = 1 << 30;
/// What `bpf_ima_file_hash` returns for SHA-256 (`HASH_ALGO_SHA256`).
const HASH_ALGORITHM_SHA256: i64 = 4;

/// The digest that is kept on the inode, if the file still lies on read-only layers alone.
#[inline(always)]
pub(crate) fn kept(inode: Inode, layer: Layer) -> Option<DigestWords> {
    if layer != Layer::Lower {
        return None;
    }
    // SAFETY: the inode is a trusted pointer reached from the hook's file; the value lives as long as the inode.
    let cached = unsafe { DIGESTS.get_ptr_mut(inode.0.cast_mut().cast::<inode>()).as_ref() }?;
    if cached.filled != 1 {
        return None;
    }
    count(counter::DIGEST_KEPT);
    Some(cached.digest)
}

/// Hashes the file now.
///
/// `None` where the digest would say nothing: no SHA-256 from the kernel, a file system that can serve two contents, somebody who
/// has the bytes open for writing before or after, or too many of them.
#[inline(always)]
pub(crate) fn computed(file: File, inode: Inode, layer: Layer, own: OwnRoot) -> Option<DigestWords> {
    let limit_bytes = match layer {
        Layer::Lower => LAYER_HASH_LIMIT_BYTES,
        _ => HASH_LIMIT_BYTES,
    };
    if layer == Layer::Foreign || inode.size_bytes() > limit_bytes || inode.has_writers(layer) {
        return None;
    }
    let mut digest: DigestWords = [0; 4];
    count(counter::HASHED);
    // SAFETY: the file is trusted; the buffer has the 32 bytes that are announced.
    let algorithm = unsafe { bpf_ima_file_hash(file.0.cast_mut().cast(), (&raw mut digest).cast(), 32) };
    if algorithm as i64 != HASH_ALGORITHM_SHA256 || inode.has_writers(inode.layer(own)) {
        return None;
    }
    if layer == Layer::Lower && inode.layer(own) == Layer::Lower {
        keep(inode, &digest);
    }
    Some(digest)
}

#[inline(always)]
fn keep(inode: Inode, digest: &DigestWords) {
    // SAFETY: as in `kept`.
    match unsafe {
        DIGESTS
            .get_or_insert_ptr_mut(inode.0.cast_mut().cast::<inode>(), None)
            .as_mut()
    } {
        Some(cached) => {
            cached.digest = *digest;
            // Filled last: another CPU that finds 0 hashes for itself.
            core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Release);
            cached.filled = 1;
        }
        None => count(counter::KEEP_FAILED),
    }
}

/// A [`PathKey`] in words: the verifier follows 32 of them sooner than 256 bytes.
type KeyWords = [u64; size_of::<PathKey>() / 8];

/// Where a task's path is resolved: too large for the stack, and a sleepable program shares its CPU with others.
#[btf_map]
static PATH_SCRATCH: TaskStorage<KeyWords> = TaskStorage::new();

/// The rule for the file's resolved path in a set. Of a file in another mount namespace than the task's, which a link of procfs or a passed
/// descriptor leads to, or in a tree that is mounted nowhere, the path is what whoever made that has chosen: such a file has no rule.
#[inline(always)]
pub(crate) fn rule_of_path(task: *mut task_struct, set: u32, file: File) -> PathRule {
    if file.mount_namespace() != mounts_of(task.cast_const().cast()) {
        return PathRule::NONE;
    }
    let Some(key) = PATH_SCRATCH.get_or_create(task) else {
        return PathRule::UNRESOLVED;
    };
    let bytes = key.as_mut_ptr().cast::<u8>();
    // SAFETY: the file is trusted; PATH_KEY_BYTES follow the set number in the key.
    let length = unsafe {
        bytes.cast::<u32>().write_volatile(set);
        bpf_d_path(
            file.path().cast_mut().cast(),
            bytes.add(size_of::<u32>()).cast(),
            PATH_KEY_BYTES as u32,
        )
    };
    if length <= 0 {
        // Longer than any path entry can be, or without a name.
        return if length == -i64::from(ENAMETOOLONG) {
            PathRule::NONE
        } else {
            PathRule::UNRESOLVED
        };
    }
    // What was in the buffer before, and what d_path left behind when it moved the text to its start, must not take part in the key.
    // Arithmetic rather than comparisons: at branches the verifier would follow each length by itself.
    let used = length - 1 + size_of::<u32>() as i64;
    let mut word = 0;
    while word < size_of::<KeyWords>() / 8 {
        let keep_bytes = at_least_zero(used - (word * 8) as i64);
        let drop_bytes = at_least_zero(8 - keep_bytes);
        // Two shifts: one by 64 would be no shift.
        let mask = (u64::MAX >> (4 * drop_bytes)) >> (4 * drop_bytes);
        // SAFETY: word is below the array's length. Volatile keeps this a loop with constant offsets.
        unsafe {
            let word = key.as_mut_ptr().add(word);
            word.write_volatile(word.read_volatile() & mask);
        }
        word += 1;
    }
    // SAFETY: the words are a PathKey's bytes, all initialised; the value is copied at once.
    match unsafe { PATHS.get(&*key.as_ptr().cast::<PathKey>()) } {
        Some(rule) => PathRule(u64::from(rule.origins) << 32 | u64::from(rule.entry)),
        None => PathRule::NONE,
    }
}

/// `max(value, 0)` without a branch.
#[inline(always)]
const fn at_least_zero(value: i64) -> i64 {
    value & !(value >> 63)
}

/// `-ENAMETOOLONG` comes from `bpf_d_path` where the path does not fit.
const ENAMETOOLONG: i32 = 36;

/// An [`EntryRule`] or its absence in one register, as a BPF function can return it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct PathRule(u64);

impl PathRule {
    pub(crate) const NONE: Self = Self(0);
    const UNRESOLVED: Self = Self(u64::MAX);

    #[inline(always)]
    pub(crate) fn is_unresolved(self) -> bool {
        self == Self::UNRESOLVED
    }

    #[inline(always)]
    pub(crate) fn rule(self) -> Option<EntryRule> {
        if self == Self::NONE || self == Self::UNRESOLVED {
            None
        } else {
            Some(EntryRule {
                origins: (self.0 >> 32) as u32,
                entry: self.0 as u32,
            })
        }
    }
}
