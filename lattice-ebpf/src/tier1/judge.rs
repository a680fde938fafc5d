//! One file of one exec, judged: facts, verdict, count, signal, record.

use aya_ebpf::helpers::generated::bpf_d_path;
use lattice_common::{
    abi::{
        DigestWords, NO_SET, RECORD_PATH_BYTES, RUNTIME_SET, container_flag, counter, hook, policy_flag, record_flag,
    },
    verdict::{Act, Decision, Effect, Facts, Identity, Membership, Role},
};

use crate::identity::{PathRule, computed, kept, rule_of_path};
use crate::{
    applet::Program,
    arguments::Place,
    caller::{Caller, current},
    count::{count, decided},
    kernel::{Pointer, Root, SUPER_BLOCK_S_ROOT, mount_namespace, probe},
    kill::kill_current,
    lookup::{rule_of_digest, size_is_listed},
    maps::{DENYLIST, NODE, STARTED},
    report::{FileFacts, Report, report},
    trusted::{Binprm, File, Inode, Layer, OwnRoot},
};

/// What the hook knows besides the file.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) hook: u32,
    pub(crate) role: Role,
    /// Address of the path as passed; null where the hook has none.
    pub(crate) name: Pointer,
    /// Where the arguments are, as `lattice_arguments` takes it.
    pub(crate) arguments: Place,
    /// Whether content may be read here: `file_open` runs before the file can be.
    pub(crate) may_hash: bool,
    /// Whether a refusal may kill: not for AT_EXECVE_CHECK, which only asks.
    pub(crate) may_kill: bool,
    /// Whether a later file of this exec is taken for the file's own interpreter; its mark must hold.
    pub(crate) marks: bool,
    /// Address of the path by whose last part a program of many applets is called; null where none can be.
    pub(crate) called: Pointer,
}

/// No program whose name counts.
const NO_PROGRAM: Program = Program::new(NO_SET, 0);

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It runs.
    Runs,
    /// It is refused.
    Refused,
    /// Not known without reading the file, which this hook cannot.
    Later,
}

/// Judges `file`. What comes besides is the program whose first argument is still to be judged.
#[inline(always)]
pub(crate) fn judge(caller: &Caller, file: File, question: Question) -> (Outcome, Program) {
    let inode = file.inode();
    let (denylist_entries, host_root) = NODE
        .get(0)
        .map_or((0, 0), |node| (node.denylist_entries, node.host_root_device));
    let own = OwnRoot {
        container: caller.own_device,
        host: if caller.entering != 0 { host_root } else { 0 },
    };
    let layer = inode.layer(own);
    let size_bytes = inode.size_bytes();

    // First of all, where the verifier has the fewest states to follow it in.
    let by_path = if caller.flags & policy_flag::PATHS != 0 && sees_own_paths(caller) {
        rule_of_path(current(), caller.set, file)
    } else {
        PathRule::NONE
    };

    let mut membership = caller.membership;
    let mut identity = Identity::UNLISTED;
    let mut origins = 0;
    let mut other_role = false;
    let mut other_name = false;
    let mut program = NO_PROGRAM;
    let mut denylisted = caller.container_flags & container_flag::DENIED != 0;
    let mut flags = 0;
    let mut entry = 0;
    let mut digest: DigestWords = [0; 4];
    match layer {
        Layer::Lower => flags |= record_flag::LOWER,
        Layer::Upper => flags |= record_flag::UPPER,
        Layer::Local | Layer::Foreign => {}
    }
    if inode.links() == 0 {
        flags |= record_flag::UNLINKED;
    }

    let known = match kept(inode, layer) {
        Some(kept) => Some(kept),
        // A size that no entry has is an answer without reading a byte.
        None if denylist_entries == 0
            && caller.flags & policy_flag::ANY_SIZE == 0
            && !size_is_listed(caller.set, size_bytes)
            && !(caller.entering != 0 && size_is_listed(RUNTIME_SET, size_bytes)) =>
        {
            count(counter::SIZE_MISS);
            None
        }
        None if !question.may_hash => return (Outcome::Later, NO_PROGRAM),
        None => match computed(file, inode, layer, own) {
            Some(computed) => Some(computed),
            None => {
                identity = Identity::UNRESOLVED;
                None
            }
        },
    };
    if let Some(known) = known {
        digest = known;
        flags |= record_flag::DIGEST;
        // Its content is public, and a container may have it on a volume: nothing passes by it where the container's own root is entered.
        if caller.entering != 0
            && inode.device() != caller.root_device
            && is_in_the_hosts_root(host_root)
            && rule_of_digest(RUNTIME_SET, &digest).is_some()
        {
            membership = Membership::RUNTIME_HELPER;
        }
        // SAFETY: only presence matters.
        let is_denied = denylist_entries != 0 && unsafe { DENYLIST.get(&digest) }.is_some();
        denylisted |= is_denied;
        let rule = rule_of_digest(caller.set, &digest);
        if rule.is_some() && question.role == Role::ELF_INTERPRETER && !stays_while_mapped(caller, inode, layer) {
            identity = Identity::UNRESOLVED;
        } else if let Some(rule) = rule {
            identity = Identity::LISTED_DIGEST;
            origins = rule.origins_for(question.role);
            other_role = rule.origins != 0;
            entry = rule.entry;
            flags |= record_flag::ENTRY;
            // Under any name it may not: then this one's last part and the first argument must be listed.
            if rule.is_by_name(question.role) && origins & caller.origin.0 == 0 && !question.called.is_null() {
                let named = Program::new(caller.set, rule.entry);
                origins |= named.rule_of_path(question.called).origins_for(question.role);
                other_name = origins == 0;
                // What is refused or told by one name need not be by the other.
                if origins & caller.origin.0 != 0 {
                    program = named;
                }
            }
        }
    }
    if origins & caller.origin.0 == 0 {
        if let Some(rule) = by_path.rule() {
            identity = Identity::LISTED_PATH;
            program = NO_PROGRAM;
            other_name = false;
            origins = rule.origins_for(question.role);
            other_role = rule.origins != 0;
            entry = rule.entry;
            flags |= record_flag::ENTRY;
        } else if by_path.is_unresolved() && identity == Identity::UNLISTED {
            identity = Identity::UNRESOLVED;
        }
    }

    let mut facts = Facts {
        act: Act::EXEC,
        membership,
        identity,
        allowed_origins: origins,
        other_role,
        other_name,
        origin: caller.origin,
        denylisted,
        mode: caller.mode,
        fail: caller.fail,
    };
    // Marked before the verdict counts: a program that runs without the mark would have children and an interpreter that nobody
    // judges by it. The runtime's helpers are not the container.
    if question.marks && membership != Membership::RUNTIME_HELPER && !caller.mark() {
        count(counter::MARK_FAILED);
        facts.identity = Identity::UNRESOLVED;
    }
    let decision = decided(facts);
    let outcome = act(caller, decision, file, question, Evidence { flags, entry, digest });
    (outcome, program)
}

/// Judges the name by which a program of many applets, whose file was allowed, is really called. No error can be returned any more, so
/// that a refusal kills.
#[inline(always)]
pub(crate) fn judge_called(bprm: Binprm, program: Program, role: Role, arguments: Place) {
    let Some(caller) = Caller::current() else { return };
    let origins = program.rule_of_argument(bprm.first_argument()).origins_for(role);
    if origins & caller.origin.0 != 0 {
        return;
    }
    let file = bprm.file();
    let mut flags = record_flag::ENTRY;
    let layer = file.inode().layer(OwnRoot {
        container: caller.own_device,
        host: 0,
    });
    match layer {
        Layer::Lower => flags |= record_flag::LOWER,
        Layer::Upper => flags |= record_flag::UPPER,
        Layer::Local | Layer::Foreign => {}
    }
    let digest = kept(file.inode(), layer);
    if digest.is_some() {
        flags |= record_flag::DIGEST;
    }
    let decision = decided(Facts {
        act: Act::EXEC,
        membership: caller.membership,
        identity: Identity::LISTED_DIGEST,
        allowed_origins: origins,
        other_role: true,
        other_name: origins == 0,
        origin: caller.origin,
        denylisted: false,
        mode: caller.mode,
        fail: caller.fail,
    });
    let question = Question {
        hook: hook::BPRM_COMMITTED_CREDS,
        role,
        name: bprm.filename(),
        arguments,
        may_hash: false,
        may_kill: true,
        marks: false,
        called: core::ptr::null(),
    };
    let evidence = Evidence {
        flags,
        entry: program.entry(),
        digest: digest.unwrap_or_default(),
    };
    act(&caller, decision, file, question, evidence);
}

/// Whether the current task has the host's root directory still; true where the agent has not told which that is.
#[inline(always)]
fn is_in_the_hosts_root(host_root: u32) -> bool {
    host_root == 0 || Root::of(current().cast_const().cast()).device() == host_root
}

/// Whether a file that is mapped keeps its bytes. The kernel guards the program from writers as long as it runs, and its ELF interpreter
/// only until the exec is done: from the writable layer, a volume or a tmpfs it can be changed under the program that runs.
#[inline(always)]
fn stays_while_mapped(caller: &Caller, inode: Inode, layer: Layer) -> bool {
    match layer {
        Layer::Lower => true,
        // A root that is no overlay does not tell what the image brought from what came later.
        Layer::Local => inode.device() == caller.own_device,
        Layer::Upper | Layer::Foreign => false,
    }
}

/// Whether the caller's paths are the container's: its root and its mounts are those that the first program had. In others a chroot or
/// a mount can put any file at any path.
#[inline(always)]
pub(crate) fn sees_own_paths(caller: &Caller) -> bool {
    let task: Pointer = current().cast_const().cast();
    let root = Root::of(task);
    if root.device() != caller.own_device {
        return false;
    }
    let started = STARTED.get(caller.container).copied().unwrap_or_default();
    // The first program itself: the runtime has put it where it is.
    if started.epoch != caller.epoch {
        return true;
    }
    let is_root = if started.root_inode == 0 {
        // The root of its file system, rather than a folder in it.
        probe::<u64>(root.super_block, SUPER_BLOCK_S_ROOT.load()) == root.dentry as u64
    } else {
        root.inode() == started.root_inode
    };
    is_root && (started.mount_namespace == 0 || started.mount_namespace == mount_namespace(task))
}

#[derive(Clone, Copy)]
struct Evidence {
    flags: u32,
    entry: u32,
    digest: DigestWords,
}

#[inline(always)]
fn act(caller: &Caller, decision: Decision, file: File, question: Question, evidence: Evidence) -> Outcome {
    let Decision { effect, .. } = decision;
    if effect == Effect::RUN {
        return Outcome::Runs;
    }
    let inode = file.inode();
    let mut flags = evidence.flags;
    let mut signal_result = 0;
    // Where no error can be returned, a denial ends the task too.
    let is_past_return = question.hook == hook::BPRM_COMMITTED_CREDS;
    if (effect == Effect::KILL && question.may_kill) || (effect == Effect::DENY && is_past_return) {
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
            hook: question.hook,
            role: question.role,
            flags,
            signal_result,
            entry: evidence.entry,
            digest: evidence.digest,
            name: question.name,
            arguments: question.arguments,
            file: FileFacts {
                inode: inode.number(),
                size_bytes: inode.size_bytes(),
                device: inode.device(),
                file_system: inode.file_system() as u32,
            },
        },
        // SAFETY: the file is trusted; the record has RECORD_PATH_BYTES for the path.
        |path| unsafe { bpf_d_path(file.path().cast_mut().cast(), path.cast(), RECORD_PATH_BYTES as u32) },
    );
    if decision.runs() {
        Outcome::Runs
    } else {
        Outcome::Refused
    }
}
