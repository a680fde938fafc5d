//! The floor's judgement: the file that runs, then the loader that was mapped for it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_find_vma, bpf_task_pt_regs},
    macros::map,
    maps::HashMap,
};
use lattice_common::{
    abi::{
        DigestWords, InodeKey, KnownInode, RUNTIME_SET, container_flag, counter, hook, inode_flag, policy_flag,
        record_flag,
    },
    verdict::{Act, Decision, Effect, Facts, Identity, Membership, Role},
};

use crate::{
    applet::Program,
    arguments::{Place, first_argument, of_program},
    caller::{Caller, current},
    count::{count, decided},
    kernel::{Pointer, Root, probe},
    kill::kill_current,
    lookup::{rule_of_digest, size_is_listed},
    maps::{DENYLIST, NODE},
    probed::{Layer, ProbedBinprm, ProbedFile, loader_address},
    report::{FileFacts, Report, report},
};

#[map]
static INODES: HashMap<InodeKey, KnownInode> = HashMap::with_max_entries(16_384, 0);

/// What is known of a file when it is judged. Plain words, so that the callback can fill it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Seen {
    inode: u64,
    size_bytes: u64,
    file_system: u64,
    device: u32,
    links: u32,
    /// 1 lower, 2 upper, 3 other, 0 nothing was seen.
    layer: u32,
    reserved: u32,
}

/// `ip` of x86-64's `struct pt_regs`, which is ABI (ptrace(2)).
const REGISTERS_INSTRUCTION_POINTER: u64 = 16 * 8;

const NOTHING: Seen = Seen {
    inode: 0,
    size_bytes: 0,
    file_system: 0,
    device: 0,
    links: 1,
    layer: 0,
    reserved: 0,
};
const LOWER: u32 = 1;
const UPPER: u32 = 2;
const OTHER: u32 = 3;

impl Seen {
    #[inline(always)]
    fn of(file: ProbedFile) -> Self {
        Self {
            inode: file.inode_number(),
            size_bytes: file.size_bytes(),
            file_system: file.file_system(),
            device: file.device(),
            links: file.links(),
            layer: match file.layer() {
                Layer::Lower => LOWER,
                Layer::Upper => UPPER,
                Layer::Other => OTHER,
            },
            reserved: 0,
        }
    }
}

/// Judges the program that is about to run, and its loader.
#[inline(always)]
pub(crate) fn judge(caller: &Caller, bprm: ProbedBinprm) {
    let seen = Seen::of(bprm.file());
    // The runtime at work before the container's first program: it still has the host's root. A task that ever ran a program of the
    // container is marked, and no longer entering.
    let host_root_device = NODE.get(0).map_or(0, |node| node.host_root_device);
    let is_runtime = match caller.membership {
        // Of a cgroup that nobody has named yet, the container's own root is not known. runc moves itself there before its copy in
        // memory starts, which is as large as its program.
        Membership::PENDING | Membership::UNKNOWN => size_is_listed(RUNTIME_SET, seen.size_bytes),
        _ => caller.container_flags & container_flag::OWN_ROOT != 0 && seen.device != caller.root_device,
    };
    if caller.entering != 0
        && is_runtime
        && host_root_device != 0
        && Root::of(current().cast_const().cast()).device() == host_root_device
    {
        let helper = Facts {
            act: Act::EXEC,
            membership: Membership::RUNTIME_HELPER,
            identity: Identity::UNLISTED,
            allowed_origins: 0,
            other_role: false,
            other_name: false,
            origin: caller.origin,
            denylisted: false,
            mode: caller.mode,
            fail: caller.fail,
        };
        decided(helper);
        return;
    }
    let is_marked = caller.mark();
    if !is_marked {
        count(counter::MARK_FAILED);
    }
    let role = if bprm.is_interpreter() {
        Role::SCRIPT_INTERPRETER
    } else {
        Role::TARGET
    };
    let arguments = of_program(bprm.argument_count());
    let called = Called {
        name: bprm.filename(),
        stage_path: bprm.stage_path(),
        arguments,
    };
    let refused = judge_file(caller, &seen, role, called, is_marked);
    if refused || caller.membership != Membership::MEMBER {
        return;
    }
    // SAFETY: the task is the current one, whose registers exist.
    let registers = unsafe { bpf_task_pt_regs(current()) };
    let first_instruction: u64 = probe(registers as Pointer, REGISTERS_INSTRUCTION_POINTER);
    let address = loader_address(current().cast_const().cast(), first_instruction);
    if address == 0 {
        return;
    }
    let mut loader = NOTHING;
    // SAFETY: the callback has the helper's signature and writes only the Seen that it is given.
    let result = unsafe {
        bpf_find_vma(
            current(),
            address,
            found_area as *mut c_void,
            (&raw mut loader).cast(),
            0,
        )
    };
    // Where the loader cannot be seen it is judged as nothing: unresolved.
    if result != 0 {
        loader = NOTHING;
    }
    let called = Called {
        name: core::ptr::null(),
        stage_path: core::ptr::null(),
        arguments,
    };
    judge_file(caller, &loader, Role::ELF_INTERPRETER, called, true);
}

/// How a file is called.
#[derive(Clone, Copy)]
struct Called {
    /// Address of the path as passed; null for a loader.
    name: Pointer,
    /// Address of the path by whose last part a program of many applets is called; null for a loader.
    stage_path: Pointer,
    arguments: Place,
}

/// `bpf_find_vma` calls it with the area at the address.
unsafe extern "C" fn found_area(_task: *mut task_struct, area: Pointer, seen: *mut Seen) -> i64 {
    // SAFETY: the helper hands on the pointer that it was given.
    unsafe { *seen = Seen::of(ProbedFile::of_area(area)) };
    0
}

/// Judges one file; returns whether its task was to be killed.
#[inline(always)]
fn judge_file(caller: &Caller, seen: &Seen, role: Role, called: Called, is_marked: bool) -> bool {
    let mut flags = match seen.layer {
        LOWER => record_flag::LOWER,
        UPPER => record_flag::UPPER,
        _ => 0,
    };
    if seen.links == 0 {
        flags |= record_flag::UNLINKED;
    }
    let mut digest: DigestWords = [0; 4];
    let mut identity = Identity::UNRESOLVED;
    let mut origins = 0;
    let mut other_role = false;
    let mut other_name = false;
    let mut entry = 0;
    // SAFETY: the value is copied at once.
    let known = unsafe {
        INODES.get(InodeKey {
            inode: seen.inode,
            device: seen.device,
            reserved: 0,
        })
    }
    .copied();
    // An upper dentry means that the content is no longer the layer's. A layer's own inode is what an overlay maps.
    let holds = known.filter(|known| {
        known.flags & inode_flag::PATH != 0
            || seen.layer == LOWER
            || (known.flags & inode_flag::LAYER != 0 && role == Role::ELF_INTERPRETER)
    });
    match holds {
        Some(known) => {
            digest = known.digest;
            identity = Identity::UNLISTED;
            if known.flags & inode_flag::PATH == 0 {
                flags |= record_flag::DIGEST;
            }
            if let Some(rule) = rule_of_digest(caller.set, &digest) {
                identity = if known.flags & inode_flag::PATH != 0 {
                    Identity::LISTED_PATH
                } else {
                    Identity::LISTED_DIGEST
                };
                origins = rule.origins_for(role);
                other_role = rule.origins != 0;
                entry = rule.entry;
                flags |= record_flag::ENTRY;
                if rule.is_by_name(role) && origins & caller.origin.0 == 0 && !called.stage_path.is_null() {
                    let program = Program::new(caller.set, rule.entry);
                    let by_path = program.rule_of_path(called.stage_path).origins_for(role);
                    let by_argument = program.rule_of_argument(first_argument()).origins_for(role);
                    origins |= by_path & by_argument;
                    other_name = by_path == 0 || by_argument == 0;
                }
            }
        }
        // Not of the image's layers, or of a size that no entry has: known to be unlisted without its content.
        None if seen.layer == UPPER
            || seen.layer == OTHER
            || (seen.layer == LOWER
                && caller.flags & policy_flag::ANY_SIZE == 0
                && !size_is_listed(caller.set, seen.size_bytes)
                && !size_is_listed(RUNTIME_SET, seen.size_bytes)) =>
        {
            identity = Identity::UNLISTED;
        }
        None => {}
    }
    // Of a file that the agent has not told of, nobody knows the digest here.
    // SAFETY: only presence matters.
    let is_denied = flags & record_flag::DIGEST != 0 && unsafe { DENYLIST.get(&digest) }.is_some();
    if !is_marked {
        identity = Identity::UNRESOLVED;
    }
    let decision = decided(Facts {
        act: Act::EXEC,
        membership: caller.membership,
        identity,
        allowed_origins: origins,
        other_role,
        other_name: other_name && origins == 0,
        origin: caller.origin,
        denylisted: caller.container_flags & container_flag::DENIED != 0 || is_denied,
        mode: caller.mode,
        fail: caller.fail,
    });
    let Decision { effect, .. } = decision;
    if effect == Effect::RUN {
        return false;
    }
    let mut signal_result = 0;
    // No hook here can return an error: a denial ends the task too.
    if !decision.runs() {
        signal_result = kill_current();
        flags |= record_flag::SIGNAL;
        if signal_result != 0 {
            count(counter::SIGNAL_FAILED);
        }
    }
    report(
        &Report {
            caller,
            decision,
            hook: hook::SCHED_PROCESS_EXEC,
            role,
            flags,
            signal_result,
            entry,
            digest,
            name: called.name,
            arguments: called.arguments,
            file: FileFacts {
                inode: seen.inode,
                size_bytes: seen.size_bytes,
                device: seen.device,
                file_system: seen.file_system as u32,
            },
        },
        |_| -1,
    );
    !decision.runs()
}
