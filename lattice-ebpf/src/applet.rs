//! Programs of many applets (BusyBox, Toybox, coreutils): one file, and the name that it is called by decides what it does.
//!
//! Two names count, and both must be listed: the last part of the path as passed, and of the first argument, by which such programs
//! choose. The first argument is the caller's word, so it is read where nobody can change it any more: in the new program's memory.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_probe_read_kernel_str, bpf_probe_read_user_str},
    macros::btf_map,
};
use lattice_common::abi::{APPLET_NAME_BYTES, AppletKey, EntryRule};

use crate::{
    caller::current,
    kernel::Pointer,
    maps::{APPLETS, TaskStorage},
};

/// The program and its set in one register, as a BPF function can take it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program(u64);

impl Program {
    #[inline(always)]
    pub(crate) const fn new(set: u32, entry: u32) -> Self {
        Self(set as u64 | (entry as u64) << 32)
    }

    #[inline(always)]
    pub(crate) const fn set(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(crate) const fn entry(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What it may do under the name that ends a path in the kernel's memory.
    #[inline(always)]
    pub(crate) fn rule_of_path(self, path: Pointer) -> EntryRule {
        self.rule(path as u64, KERNEL)
    }

    /// What it may do under the name that its first argument has, in the current task's memory.
    #[inline(always)]
    pub(crate) fn rule_of_argument(self, argument: u64) -> EntryRule {
        self.rule(argument, USER)
    }

    #[inline(always)]
    fn rule(self, text: u64, memory: u32) -> EntryRule {
        EntryRule {
            origins: lattice_applet(self.0, text, memory) as u32,
            entry: self.entry(),
        }
    }
}

const KERNEL: u32 = 0;
const USER: u32 = 1;

/// A text with its terminating zero that is as long or longer is no applet's.
const TEXT_BYTES: usize = 256;

/// Where a name is taken from its text: too large for the stack, and a sleepable program shares its CPU with others.
#[repr(C)]
struct Scratch {
    key: AppletKey,
    /// Bytes of the text without its terminating zero.
    used: u64,
    /// Where its last part begins.
    start: u64,
    text: [u8; TEXT_BYTES],
}

#[btf_map]
static APPLET_SCRATCH: TaskStorage<Scratch> = TaskStorage::new();

/// `bpf_loop` calls it for each byte until it returns 1: what begins behind a slash may be the name.
unsafe extern "C" fn look_for_slash(index: u32, _nothing: *mut c_void) -> i64 {
    let Some(scratch) = APPLET_SCRATCH.get(current()) else {
        return 1;
    };
    // Below the loop's count already; 6.1's verifier follows a mask where it loses a comparison.
    let index = index as usize & (TEXT_BYTES - 1);
    if index as u64 >= scratch.used {
        return 1;
    }
    if scratch.text[index] == b'/' {
        scratch.start = index as u64 + 1;
    }
    0
}

/// [`EntryRule::origins`] of a program under a name; 0 where it is not listed, or cannot be read. A global BPF function, verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lattice_applet(program: u64, text: u64, memory: u32) -> u64 {
    let program = Program(program);
    let Some(scratch) = APPLET_SCRATCH.get_or_create(current()) else {
        return 0;
    };
    let place = scratch.text.as_mut_ptr();
    // SAFETY: the place has TEXT_BYTES; the helpers take any address and fail on one that cannot be read.
    let length = unsafe {
        if memory == USER {
            bpf_probe_read_user_str(place.cast(), TEXT_BYTES as u32, text as *const _)
        } else {
            bpf_probe_read_kernel_str(place.cast(), TEXT_BYTES as u32, text as *const _)
        }
    };
    if length < 2 || length >= TEXT_BYTES as i64 {
        return 0;
    }
    // SAFETY: within the array. Volatile, so that no load moves before the helper.
    let is_login = memory == USER && unsafe { place.read_volatile() } == b'-';
    scratch.used = length as u64 - 1;
    // A login shell's first argument begins with a dash that is not the name's.
    scratch.start = u64::from(is_login);
    // A callback, which the verifier checks once, rather than a loop, which it would follow byte by byte.
    // SAFETY: the callback has the helper's signature and takes nothing.
    unsafe {
        bpf_loop(
            TEXT_BYTES as u32 - 1,
            look_for_slash as *mut c_void,
            core::ptr::null_mut(),
            0,
        )
    };
    let (start, end) = (scratch.start & (TEXT_BYTES as u64 - 1), scratch.used);
    let name_bytes = end.wrapping_sub(start);
    if name_bytes == 0 || name_bytes >= APPLET_NAME_BYTES as u64 {
        return 0;
    }
    let key = &mut scratch.key;
    key.set = program.set();
    key.entry = program.entry();
    let name = key.name.as_mut_ptr();
    let mut word = 0;
    while word < APPLET_NAME_BYTES / 8 {
        // SAFETY: eight bytes of the name, which is aligned to four.
        unsafe { name.add(word * 8).cast::<u64>().write_unaligned(0) };
        word += 1;
    }
    // SAFETY: the name has APPLET_NAME_BYTES; start is within the text, which ends with a zero.
    unsafe {
        bpf_probe_read_kernel_str(
            name.cast(),
            APPLET_NAME_BYTES as u32,
            place.add(start as usize).cast_const().cast(),
        );
    }
    // SAFETY: the value is copied at once.
    unsafe { APPLETS.get(&*key) }.map_or(0, |rule| u64::from(rule.origins))
}
