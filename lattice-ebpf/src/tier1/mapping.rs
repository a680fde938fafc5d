//! Code that a running program loads: files that it maps executable, and memory that it makes so.
//!
//! No file is read here but where a policy or the denylist asks for digests, and then once: what is on the image's own layers is known
//! by its place.

use aya_ebpf::helpers::generated::bpf_d_path;
use lattice_common::{
    abi::{DigestWords, RECORD_PATH_BYTES, hook, policy_flag, record_flag},
    verdict::{Act, Decision, Effect, Facts, Identity, Membership, Role},
};

use crate::{
    arguments::NOWHERE,
    caller::{Caller, current},
    count::{count, decided},
    identity::{PathRule, computed, kept, rule_of_path},
    judge::sees_own_paths,
    kernel::{
        BACKING_FILE_USER_PATH, DENTRY_D_INODE, DENTRY_D_NAME_NAME, FILE_F_MODE, FILE_F_PATH, INODE_I_INO, INODE_I_SB,
        INODE_I_SIZE, INODE_SIZE, OVERLAYFS, PATH_DENTRY, Pointer, SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_MAGIC,
        VM_AREA_STRUCT_ANON_VMA, VM_AREA_STRUCT_VM_FILE, VM_AREA_STRUCT_VM_FLAGS, probe,
    },
    kill::kill_current,
    lookup::rule_of_digest,
    maps::{DENYLIST, NODE, TASKS},
    report::{FileFacts, Report, report},
    trusted::{File, Layer, OwnRoot},
};
use lattice_common::abi::counter;

/// `PROT_EXEC`.
pub(crate) const EXECUTABLE: u64 = 4;
/// `PROT_WRITE`.
pub(crate) const WRITABLE: u64 = 2;
/// `VM_EXEC`.
const AREA_EXECUTABLE: u64 = 4;
/// `FMODE_NOACCOUNT`: the file is one that the kernel opened for itself, as an overlay does what it maps in place of its own. The flag
/// `FMODE_BACKING` says that more plainly, but is another bit in each few releases.
const FMODE_NOACCOUNT: u32 = 1 << 29;

const NO_FILE: FileFacts = FileFacts {
    inode: 0,
    size_bytes: 0,
    device: 0,
    file_system: 0,
};

/// What a mapping is judged as, for a caller whose policy counts; a task that is still entering runs the runtime's own code.
#[inline(always)]
fn act_of(caller: &Caller) -> Act {
    if caller.membership == Membership::MEMBER && caller.entering == 0 {
        policy_flag::map_act(caller.flags)
    } else {
        Act::MAP_OFF
    }
}

#[inline(always)]
fn facts(caller: &Caller, identity: Identity) -> Facts {
    Facts {
        act: act_of(caller),
        membership: if caller.entering != 0 {
            Membership::RUNTIME_HELPER
        } else {
            caller.membership
        },
        identity,
        allowed_origins: 0,
        other_role: false,
        other_name: false,
        origin: caller.origin,
        denylisted: false,
        mode: caller.mode,
        fail: caller.fail,
    }
}

/// A file is about to be mapped executable. Returns whether it may.
#[inline(always)]
pub(crate) fn judge_mapped(file: File) -> bool {
    let Some(caller) = Caller::current() else { return true };
    let caller = &caller;
    let act = act_of(caller);
    let inode = file.inode();
    let own = OwnRoot {
        container: caller.own_device,
        host: 0,
    };
    let layer = inode.layer(own);
    let device = inode.device();
    let by_path = if act != Act::MAP_OFF
        && layer != Layer::Lower
        && caller.flags & policy_flag::PATHS != 0
        && sees_own_paths(caller)
    {
        rule_of_path(current(), caller.set, file)
    } else {
        PathRule::NONE
    };
    let identity = match layer {
        Layer::Lower => Identity::IN_IMAGE,
        // A root that is no overlay does not tell what the image brought from what came later.
        Layer::Local if device == caller.own_device => Identity::IN_IMAGE,
        _ if caller.own_device == 0 => Identity::UNRESOLVED,
        _ => Identity::UNLISTED,
    };
    let mut facts = facts(caller, identity);
    let mut flags = match layer {
        Layer::Lower => record_flag::LOWER,
        Layer::Upper => record_flag::UPPER,
        Layer::Local | Layer::Foreign => 0,
    };
    if inode.links() == 0 {
        flags |= record_flag::UNLINKED;
    }
    let mut entry = 0;
    let mut digest: DigestWords = [0; 4];
    let has_denylist = NODE.get(0).is_some_and(|node| node.denylist_entries != 0);
    // Only of a read-only layer does a digest say what will run: everything else can change while it is mapped.
    if layer == Layer::Lower && (has_denylist || act == Act::MAP_LISTED) {
        let known = match kept(inode, layer) {
            Some(kept) => Some(kept),
            None => computed(file, inode, layer, own),
        };
        match known {
            Some(known) => {
                digest = known;
                flags |= record_flag::DIGEST;
                // SAFETY: only presence matters.
                facts.denylisted = has_denylist && unsafe { DENYLIST.get(&digest) }.is_some();
                if act == Act::MAP_LISTED
                    && let Some(rule) = rule_of_digest(caller.set, &digest)
                {
                    facts.identity = Identity::LISTED_DIGEST;
                    facts.allowed_origins = rule.origins_for(Role::MAPPING);
                    entry = rule.entry;
                    flags |= record_flag::ENTRY;
                }
            }
            None if act == Act::MAP_LISTED => facts.identity = Identity::UNRESOLVED,
            None => {}
        }
    }
    if let Some(rule) = by_path.rule() {
        facts.identity = Identity::LISTED_PATH;
        facts.allowed_origins = rule.origins_for(Role::MAPPING);
        entry = rule.entry;
        flags |= record_flag::ENTRY;
    }
    let decision = decided(facts);
    if decision.effect == Effect::RUN {
        return true;
    }
    let signal_result = signal(decision, &mut flags);
    report(
        &Report {
            caller,
            decision,
            hook: hook::MMAP_FILE,
            role: Role::MAPPING,
            flags,
            signal_result,
            entry,
            digest,
            name: core::ptr::null(),
            arguments: NOWHERE,
            file: FileFacts {
                inode: inode.number(),
                size_bytes: inode.size_bytes(),
                device,
                file_system: inode.file_system() as u32,
            },
        },
        // SAFETY: the file is trusted; the record has RECORD_PATH_BYTES for the path.
        |path| unsafe { bpf_d_path(file.path().cast_mut().cast(), path.cast(), RECORD_PATH_BYTES as u32) },
    );
    decision.runs()
}

/// Only a denylisted file ends the task; every other refusal is an error for the program.
#[inline(always)]
fn signal(decision: Decision, flags: &mut u32) -> i32 {
    if decision.effect != Effect::KILL {
        return 0;
    }
    *flags |= record_flag::SIGNAL;
    let result = kill_current();
    if result != 0 {
        count(counter::SIGNAL_FAILED);
    }
    result
}

/// Memory without a file is about to be executable: counted, and told once a program.
#[inline(always)]
pub(crate) fn note_anonymous(hook: u32) {
    let Some(caller) = Caller::current() else { return };
    let decision = decided(facts(&caller, Identity::ANONYMOUS));
    if decision.effect == Effect::RUN {
        return;
    }
    let Some(state) = TASKS.get(current()) else { return };
    if state.told_anonymous != 0 {
        return;
    }
    state.told_anonymous = 1;
    report(
        &Report {
            caller: &caller,
            decision,
            hook,
            role: Role::MAPPING,
            flags: 0,
            signal_result: 0,
            entry: 0,
            digest: [0; 4],
            name: core::ptr::null(),
            arguments: NOWHERE,
            file: NO_FILE,
        },
        |_| -1,
    );
}

/// An area of memory (`struct vm_area_struct`) is about to be executable that was not. Returns whether it may.
///
/// What it maps on an overlay is the file below; the overlay's own is found by the path that the user opened. No digest and no path is to
/// be had here, so neither `map` nor the denylist counts: a loader maps code executable from the start.
#[inline(always)]
pub(crate) fn judge_protected(area: Pointer) -> bool {
    if probe::<u64>(area, VM_AREA_STRUCT_VM_FLAGS.load()) & AREA_EXECUTABLE != 0 {
        return true;
    }
    let file = probe::<u64>(area, VM_AREA_STRUCT_VM_FILE.load()) as Pointer;
    // A private mapping that was written to has pages that are no file's any more, whatever it began as.
    if file.is_null() || probe::<u64>(area, VM_AREA_STRUCT_ANON_VMA.load()) != 0 {
        note_anonymous(hook::FILE_MPROTECT);
    }
    if file.is_null() {
        return true;
    }
    let Some(caller) = Caller::current() else { return true };
    let user_path = BACKING_FILE_USER_PATH.load();
    let is_backing = user_path != 0 && probe::<u32>(file, FILE_F_MODE.load()) & FMODE_NOACCOUNT != 0;
    let path = if is_backing { user_path } else { FILE_F_PATH.load() };
    let dentry = probe::<u64>(file, path + PATH_DENTRY.load()) as Pointer;
    let inode = probe::<u64>(dentry, DENTRY_D_INODE.load()) as Pointer;
    let super_block = probe::<u64>(inode, INODE_I_SB.load()) as Pointer;
    let device: u32 = probe(super_block, SUPER_BLOCK_S_DEV.load());
    let magic: u64 = probe(super_block, SUPER_BLOCK_S_MAGIC.load());
    let is_own = caller.own_device != 0 && device == caller.own_device;
    let is_upper = magic == OVERLAYFS && probe::<u64>(inode, INODE_SIZE.load()) != 0;
    let identity = match (caller.own_device, is_own && !is_upper) {
        (0, _) => Identity::UNRESOLVED,
        (_, true) => Identity::IN_IMAGE,
        (_, false) => Identity::UNLISTED,
    };
    let decision = decided(facts(&caller, identity));
    if decision.effect == Effect::RUN {
        return true;
    }
    report(
        &Report {
            caller: &caller,
            decision,
            hook: hook::FILE_MPROTECT,
            role: Role::MAPPING,
            flags: match (is_own, is_upper) {
                (true, true) => record_flag::UPPER,
                (true, false) if magic == OVERLAYFS => record_flag::LOWER,
                _ => 0,
            },
            signal_result: 0,
            entry: 0,
            digest: [0; 4],
            name: probe::<u64>(dentry, DENTRY_D_NAME_NAME.load()) as Pointer,
            arguments: NOWHERE,
            file: FileFacts {
                inode: probe(inode, INODE_I_INO.load()),
                size_bytes: probe(inode, INODE_I_SIZE.load()),
                device,
                file_system: magic as u32,
            },
        },
        |_| -1,
    );
    decision.runs()
}
