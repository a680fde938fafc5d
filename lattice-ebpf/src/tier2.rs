//! Tier 2: the floor where BPF LSM is refused. Every exec is judged at `sched_process_exec`, before the first user instruction, and
//! killed where it is not allowed.
//!
//! A tracepoint can neither read a file nor resolve a path: a file is known by (super block, inode), from what the agent found out of
//! the container's read-only layers. The fanotify front, in the agent, refuses cleanly before this; the floor holds without it.
//!
//! Minimum kernel: 5.17 (`bpf_find_vma`), with BTF.
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
#[path = "tier2/floor.rs"]
mod floor;
mod kernel;
mod kill;
mod lookup;
mod maps;
mod marks;
#[path = "tier2/probed.rs"]
mod probed;
mod repeats;
mod report;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use lattice_common::verdict::Reason;

use crate::{caller::Caller, kernel::Pointer, probed::ProbedBinprm};

/// `sched_process_exec(task, old_pid, bprm)`.
#[btf_tracepoint(function = "sched_process_exec")]
fn lattice_exec_done(context: BtfTracePointContext) -> i32 {
    let bprm = ProbedBinprm(context.arg::<Pointer>(2));
    match Caller::current() {
        Some(caller) => floor::judge(&caller, bprm),
        None => count::count(Reason::OUTSIDE.0),
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
