//! The arguments of the program that is to start, bounded.
//!
//! Before the point of no return they lie in the caller's memory, from where the kernel has already copied them into memory that no
//! helper reaches; another thread of the caller may have changed its own since, so the record says where they are from. Afterwards
//! they are read from the new program's memory, which nobody else has yet. The environment, which follows there, is never read: only
//! so many texts are taken as there are arguments.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_probe_read_user_str, bpf_task_pt_regs},
};
use lattice_common::abi::{ExecRecord, RECORD_ARGUMENT_BYTES, RECORD_ARGUMENTS, RECORD_ARGV_LIMIT, record_flag};

use crate::{
    caller::current,
    kernel::{MM_STRUCT_ARG_START, Pointer, TASK_STRUCT_MM, TASK_STRUCT_STATUS, probe},
};

/// Where the arguments are, in one register as a BPF function can take it: from bit 56 on how many of them lie in the current task's own
/// memory, which is the new program's, and below that the address of the first, 0 for where the memory itself says.
pub(crate) type Place = u64;

/// Not known, or not to be had.
pub(crate) const NOWHERE: Place = 0;
/// In the caller's memory, as the system call names them.
pub(crate) const AT_CALLER: Place = 1;

const COUNT_SHIFT: u32 = 56;

/// So many arguments in the current task's own memory, which is the new program's.
#[inline(always)]
pub(crate) const fn of_program(count: u32) -> Place {
    of_program_at(0, count)
}

/// Likewise, while only the exec knows where: the first one's address. With five levels of page tables it
/// is just below 2^56, since an exec builds its stack at the very top, whatever the program uses later.
#[inline(always)]
pub(crate) const fn of_program_at(first: u64, count: u32) -> Place {
    // More than fit are as good as many: the record has fewer.
    let count = if count > u8::MAX as u32 { u8::MAX as u32 } else { count };
    // An exec has at least one argument since 5.18.
    if count == 0 {
        NOWHERE
    } else {
        (count as u64) << COUNT_SHIFT | first & (1 << COUNT_SHIFT) - 1
    }
}

/// Address of the first argument in the current task's memory, once its program has started.
#[inline(always)]
pub(crate) fn first_argument() -> u64 {
    let memory = probe::<u64>(current().cast_const().cast(), TASK_STRUCT_MM.load()) as Pointer;
    probe(memory, MM_STRUCT_ARG_START.load())
}

/// x86-64's `struct pt_regs`, which is ABI (ptrace(2)).
const REGISTER_DX: u64 = 12 * 8;
const REGISTER_SI: u64 = 13 * 8;
const REGISTER_ORIGINAL_AX: u64 = 15 * 8;
/// Numbers of x86-64's system calls.
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;
/// `TS_COMPAT` in `thread_info.status`: a 32-bit system call, whose numbers and pointers are others.
const COMPAT: u32 = 2;

/// Address of the array of arguments that the current system call names; 0 where it is no 64-bit exec.
#[inline(always)]
fn array_of_caller() -> u64 {
    // SAFETY: the task is the current one.
    let registers = (unsafe { bpf_task_pt_regs(current()) }) as Pointer;
    if probe::<u32>(current().cast_const().cast(), TASK_STRUCT_STATUS.load()) & COMPAT != 0 {
        return 0;
    }
    match probe::<u64>(registers, REGISTER_ORIGINAL_AX) {
        EXECVE => probe(registers, REGISTER_SI),
        EXECVEAT => probe(registers, REGISTER_DX),
        _ => 0,
    }
}

/// Fills in the arguments. A global BPF function, verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn lattice_arguments(record: *mut ExecRecord, place: Place) -> u32 {
    // SAFETY: the verifier hands a global function null or memory of the type's size.
    let Some(record) = (unsafe { record.as_mut() }) else {
        return 0;
    };
    record.argv_length = 0;
    if place == NOWHERE {
        return 0;
    }
    let is_program = place != AT_CALLER;
    let mut address = if is_program {
        match place & (1 << COUNT_SHIFT) - 1 {
            0 => first_argument(),
            first => first,
        }
    } else {
        array_of_caller()
    };
    if address == 0 {
        return 0;
    }
    let mut flags = record_flag::ARGV;
    if is_program {
        flags |= record_flag::ARGV_OF_PROGRAM;
    }
    let mut used = 0_usize;
    let mut index = 0;
    loop {
        let mut text = address;
        if is_program {
            if u64::from(index) >= place >> COUNT_SHIFT {
                break;
            }
        } else {
            // SAFETY: the helper takes any address and fails on one that cannot be read.
            match unsafe { bpf_probe_read_user::<u64>(address as *const u64) } {
                Ok(0) => break,
                Ok(pointer) => text = pointer,
                Err(_) => {
                    flags |= record_flag::ARGV_CUT;
                    break;
                }
            }
        }
        if index >= RECORD_ARGUMENTS || used > RECORD_ARGV_LIMIT {
            flags |= record_flag::ARGV_CUT;
            break;
        }
        // SAFETY: `used` is at most the limit, behind which there is room for one argument more.
        let length = unsafe {
            bpf_probe_read_user_str(
                record.argv.as_mut_ptr().add(used).cast(),
                RECORD_ARGUMENT_BYTES as u32,
                text as *const _,
            )
        };
        if length < 0 {
            flags |= record_flag::ARGV_CUT;
            break;
        }
        // For an empty text the helper returns 0, and not 1 as it does for one in the kernel's memory: its terminating zero is not counted.
        let length = if length == 0 {
            // SAFETY: as above.
            unsafe { record.argv.as_mut_ptr().add(used).write_volatile(0) };
            1
        } else {
            length as usize
        };
        used += length;
        if length >= RECORD_ARGUMENT_BYTES {
            flags |= record_flag::ARGV_CUT;
            // Where the next text begins is not known where they lie one behind the other.
            if is_program {
                break;
            }
        }
        address += if is_program {
            length as u64
        } else {
            size_of::<u64>() as u64
        };
        index += 1;
    }
    record.argv_length = used as u32;
    record.flags |= flags;
    0
}
