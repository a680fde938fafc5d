//! Tier 1: BPF LSM decides inline, before the file's first instruction.
//!
//! ```text
//!   execve ─► bprm_creds_for_exec      begins an exec; answers AT_EXECVE_CHECK
//!          ─► bprm_check_security      the script, then its interpreter: judged by content
//!          ─► file_open (for exec)     the ELF interpreter, where its digest is known or its size is listed nowhere
//!          ─► mmap_file (for exec)     the ELF interpreter, cold: hashed, and judged before it is mapped
//!   mmap, mprotect ─► mmap_file, file_mprotect     code that a running program loads
//!   bpf, kill, ptrace, unlink, rename ─► the hooks of these names     what reaches for Lattice itself
//! ```
//!
//! Minimum kernel: 5.18 (`bpf_ima_file_hash`), with `bpf` in the LSM list, BTF and IMA.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see atomic.rs")]

mod ancestors;
mod applet;
mod arguments;
mod atomic;
mod caller;
mod count;
#[path = "tier1/guard.rs"]
mod guard;
#[path = "tier1/helper.rs"]
mod helper;
#[path = "tier1/identity.rs"]
mod identity;
#[path = "tier1/judge.rs"]
mod judge;
mod kernel;
mod kill;
mod lookup;
#[path = "tier1/mapping.rs"]
mod mapping;
mod maps;
mod marks;
mod repeats;
mod report;
#[path = "tier1/trusted.rs"]
mod trusted;

use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::lsm, programs::LsmContext};
use lattice_common::{
    abi::{NO_SET, hook, stage},
    verdict::{Act, Role},
};

use crate::{
    applet::Program,
    caller::{Caller, current},
    judge::{Outcome, Question, judge, judge_called},
    kernel::Pointer,
    mapping::{EXECUTABLE, WRITABLE},
    maps::TASKS,
    trusted::{Binprm, File},
};

/// What a hook returns for a refusal. A literal: newer verifiers want the range.
const EPERM: i32 = -1;

/// Before `lattice_exec_begins`, which is attached before it. A thread without a mark of its own takes its leader's: of a process that
/// ran before the agent came the agent can mark no other. Not sleepable, because the leader's is found under RCU.
#[lsm(hook = "bprm_creds_for_exec")]
fn lattice_exec_thread(_context: LsmContext) -> i32 {
    if TASKS.get(current()).is_none_or(|state| state.epoch == 0)
        && let Some(mark) = marks::mark_of(current())
    {
        match TASKS.get_or_create(current()) {
            Some(state) => *state = mark,
            None => count::count(lattice_common::abi::counter::MARK_FAILED),
        }
    }
    0
}

/// An exec begins. Under AT_EXECVE_CHECK nothing else will be asked, so the target is judged here, and never with a signal.
#[lsm(hook = "bprm_creds_for_exec", sleepable)]
fn lattice_exec_begins(context: LsmContext) -> i32 {
    let bprm = Binprm(context.arg::<Pointer>(0));
    if bprm.is_check() {
        let Some(caller) = Caller::current() else { return 0 };
        let question = Question {
            hook: hook::BPRM_CREDS_FOR_EXEC,
            role: Role::TARGET,
            name: bprm.filename(),
            arguments: arguments::AT_CALLER,
            may_hash: true,
            may_kill: false,
            marks: false,
            called: bprm.stage_path(),
        };
        return match judge(&caller, bprm.file(), question).0 {
            Outcome::Refused => EPERM,
            Outcome::Runs | Outcome::Later => 0,
        };
    }
    if let Some(state) = TASKS.get(current()) {
        state.judged = 0;
        state.told_anonymous = 0;
        state.applet_set = NO_SET;
        state.stage = stage::START;
        state.interpreter_inode = 0;
    }
    0
}

/// Fires for the file that execve names, then again for the interpreter of a script.
#[lsm(hook = "bprm_check_security", sleepable)]
fn lattice_exec_file(context: LsmContext) -> i32 {
    let bprm = Binprm(context.arg::<Pointer>(0));
    let caller = match Caller::current() {
        Some(caller) => caller,
        None if helper::runs_file_of_container(bprm.file()) => helper::standing(),
        None => {
            count::count(lattice_common::verdict::Reason::OUTSIDE.0);
            return 0;
        }
    };
    let judged = TASKS.get(current()).map_or(0, |state| state.judged);
    let question = Question {
        hook: hook::BPRM_CHECK_SECURITY,
        role: if judged == 0 {
            Role::TARGET
        } else {
            Role::SCRIPT_INTERPRETER
        },
        name: bprm.filename(),
        arguments: arguments::AT_CALLER,
        may_hash: true,
        may_kill: true,
        marks: true,
        called: bprm.stage_path(),
    };
    let (outcome, program) = judge(&caller, bprm.file(), question);
    if outcome == Outcome::Refused {
        return EPERM;
    }
    if let Some(state) = TASKS.get(current()) {
        state.judged += 1;
        state.arguments = bprm.argument_count();
        state.applet_set = program.set();
        state.applet_entry = program.entry();
        // The next file that the kernel opens for this exec is what PT_INTERP names. A helper's is not judged.
        if state.origin != 0 && bprm.is_elf() {
            state.stage = stage::ELF_ALLOWED;
        }
    }
    0
}

/// The ELF interpreter passes no bprm hook. Its content cannot be read yet: only a kept digest or the size can answer here.
#[lsm(hook = "file_open", sleepable)]
fn lattice_interpreter_opened(context: LsmContext) -> i32 {
    let file = File(context.arg::<Pointer>(0));
    if !file.is_for_exec() {
        return 0;
    }
    let Some(state) = TASKS.get(current()) else { return 0 };
    // The first open alone: overlayfs then opens the file below, and that is not the one that will be mapped.
    if state.stage != stage::ELF_ALLOWED {
        return 0;
    }
    let Some(caller) = Caller::current() else { return 0 };
    let question = Question {
        hook: hook::FILE_OPEN,
        role: Role::ELF_INTERPRETER,
        name: core::ptr::null(),
        arguments: arguments::AT_CALLER,
        may_hash: false,
        may_kill: true,
        marks: false,
        called: core::ptr::null(),
    };
    let (outcome, _) = judge(&caller, file, question);
    // Looked up again: the helper calls in between end the verifier's knowledge of the first look-up.
    let Some(state) = TASKS.get(current()) else {
        return EPERM;
    };
    match outcome {
        Outcome::Refused => return EPERM,
        Outcome::Runs => state.stage = stage::INTERPRETER_JUDGED,
        Outcome::Later => {
            state.stage = stage::INTERPRETER_OPENED;
            state.interpreter_inode = file.inode().0 as u64;
        }
    }
    0
}

/// The exec is past the point of no return, and its ELF interpreter, if it has one, is open: what is opened from here on is the next
/// exec's, whose target would else be taken for this one's interpreter.
///
/// The new program's memory is the task's by now, and its arguments lie there for good: the name by which it is called is judged.
#[lsm(hook = "bprm_committed_creds")]
fn lattice_exec_committed(context: LsmContext) -> i32 {
    let Some(state) = TASKS.get(current()) else { return 0 };
    if state.stage == stage::ELF_ALLOWED {
        state.stage = stage::START;
    }
    let program = Program::new(state.applet_set, state.applet_entry);
    if program.set() == NO_SET {
        return 0;
    }
    state.applet_set = NO_SET;
    let role = if state.judged <= 1 {
        Role::TARGET
    } else {
        Role::SCRIPT_INTERPRETER
    };
    let bprm = Binprm(context.arg::<Pointer>(0));
    let arguments = arguments::of_program_at(bprm.first_argument(), state.arguments);
    judge_called(bprm, program, role, arguments);
    0
}

/// A file is mapped: the ELF interpreter, cold, or code that a running program loads.
#[lsm(hook = "mmap_file", sleepable)]
fn lattice_mapped(context: LsmContext) -> i32 {
    let protection = context.arg::<u64>(2);
    let is_executable = protection & EXECUTABLE != 0;
    let pointer = context.arg::<Pointer>(0);
    // `file` is null for anonymous memory, although the verifier says otherwise and would drop a plain check: see
    // https://github.com/kernel-patches/bpf/pull/10459. Reading it by the helper is the check that stays.
    // SAFETY: the helper takes any address.
    let has_file = unsafe { bpf_probe_read_kernel(pointer.cast::<u64>()) }.is_ok();
    // What is written to a private mapping is no file's.
    if is_executable && (!has_file || protection & WRITABLE != 0) {
        mapping::note_anonymous(hook::MMAP_FILE);
    }
    if !has_file {
        return 0;
    }
    let file = File(pointer);
    if file.is_for_exec() {
        return interpreter_mapped(file);
    }
    if is_executable && !mapping::judge_mapped(file) {
        return EPERM;
    }
    0
}

/// The kernel maps what it opened for an exec. Past the point of no return: a refusal ends the task by a signal either way.
#[inline(always)]
fn interpreter_mapped(file: File) -> i32 {
    let Some(state) = TASKS.get(current()) else { return 0 };
    if state.stage != stage::INTERPRETER_OPENED || state.interpreter_inode != file.inode().0 as u64 {
        return 0;
    }
    state.stage = stage::INTERPRETER_JUDGED;
    let arguments = arguments::of_program(state.arguments);
    let Some(caller) = Caller::current() else { return 0 };
    let question = Question {
        hook: hook::MMAP_FILE,
        role: Role::ELF_INTERPRETER,
        name: core::ptr::null(),
        arguments,
        may_hash: true,
        may_kill: true,
        marks: false,
        called: core::ptr::null(),
    };
    match judge(&caller, file, question).0 {
        Outcome::Refused => EPERM,
        Outcome::Runs | Outcome::Later => 0,
    }
}

/// Memory that is mapped already becomes executable.
#[lsm(hook = "file_mprotect")]
fn lattice_protected(context: LsmContext) -> i32 {
    if context.arg::<u64>(2) & EXECUTABLE != 0 && !mapping::judge_protected(context.arg::<Pointer>(0)) {
        return EPERM;
    }
    0
}

/// `bpf(cmd, attr, size)`.
#[lsm(hook = "bpf")]
fn lattice_bpf(_context: LsmContext) -> i32 {
    if guard::may(Act::BPF, hook::BPF) { 0 } else { EPERM }
}

/// `task_kill(task, info, signal, credentials)`: not called for signals of the kernel's own.
#[lsm(hook = "task_kill")]
fn lattice_signalled(context: LsmContext) -> i32 {
    if guard::is_agent(context.arg::<Pointer>(0)) && !guard::may(Act::SIGNAL, hook::TASK_KILL) {
        return EPERM;
    }
    0
}

/// `file_send_sigiotask(task, owner, signal)`: what `F_SETOWN` and `F_SETSIG` ask for when a file is ready, any signal at all, and without
/// `task_kill`. Nobody has a reason to send the agent one. Whose work makes the file ready is chance, so that is refused for everybody, and told
/// where it is a container's.
#[lsm(hook = "file_send_sigiotask")]
fn lattice_sigio(context: LsmContext) -> i32 {
    if !guard::is_agent(context.arg::<Pointer>(0)) {
        return 0;
    }
    guard::may(Act::SIGNAL, hook::FILE_SEND_SIGIOTASK);
    EPERM
}

/// `task_setrlimit(task, resource, limit)`: a limit of processor time is a kill, and others are as good.
#[lsm(hook = "task_setrlimit")]
fn lattice_limited(context: LsmContext) -> i32 {
    if guard::is_agent(context.arg::<Pointer>(0)) && !guard::may(Act::SIGNAL, hook::TASK_SETRLIMIT) {
        return EPERM;
    }
    0
}

/// `task_setscheduler(task)`: a task that nobody lets run does nothing.
#[lsm(hook = "task_setscheduler")]
fn lattice_scheduled(context: LsmContext) -> i32 {
    if guard::is_agent(context.arg::<Pointer>(0)) && !guard::may(Act::SIGNAL, hook::TASK_SETSCHEDULER) {
        return EPERM;
    }
    0
}

/// `ptrace_access_check(child, mode)`: tracing, and reading what only a tracer may.
#[lsm(hook = "ptrace_access_check")]
fn lattice_traced(context: LsmContext) -> i32 {
    if guard::is_agent(context.arg::<Pointer>(0)) && !guard::may(Act::TRACE, hook::PTRACE_ACCESS_CHECK) {
        return EPERM;
    }
    0
}

/// `inode_unlink(folder, entry)`.
#[lsm(hook = "inode_unlink")]
fn lattice_unlinked(context: LsmContext) -> i32 {
    if guard::holds_pins(context.arg::<Pointer>(0)) && !guard::may(Act::PINS, hook::INODE_UNLINK) {
        return EPERM;
    }
    0
}

/// `inode_rename(old_folder, old_entry, new_folder, new_entry)`.
#[lsm(hook = "inode_rename")]
fn lattice_renamed(context: LsmContext) -> i32 {
    let touches = guard::holds_pins(context.arg::<Pointer>(0)) || guard::holds_pins(context.arg::<Pointer>(2));
    if touches && !guard::may(Act::PINS, hook::INODE_RENAME) {
        return EPERM;
    }
    0
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can come here.
    loop {}
}
