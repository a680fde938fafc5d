//! The canary: a program whose very first act is to leave a mark, so that a file proves whether one instruction of it ran.
//!
//! Free-standing, some kilobytes, and without a single library call: it serves as a static program, as a dynamic one and as an
//! ELF interpreter, and its hash costs nothing. It is compiled by the suite (see `canary_build`), not by cargo. Its `unsafe` is all
//! there is between it and the kernel.
//!
//! It appends its 32 bytes of `VARIANT` to the file that `LATTICE_MARK` names. Then:
//!
//! * `hold-map FILE READY`: maps FILE shared and writable, closes it, creates READY, waits to be killed;
//! * `hold-open FILE READY`: opens FILE for writing, creates READY, waits to be killed;
//! * `wait`: waits to be killed;
//! * anything else: exits with 0.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call canary", "ud2");

/// Patched to make programs of equal size and other content.
static VARIANT: [u8; 32] = *b"LATTICE-CANARY-VARIANT-000000000";

const WRITE: usize = 1;
const OPEN: usize = 2;
const CLOSE: usize = 3;
const MMAP: usize = 9;
const PAUSE: usize = 34;
const EXIT: usize = 60;

const O_WRONLY: usize = 1;
const O_RDWR: usize = 2;
const O_CREAT: usize = 0o100;
const O_APPEND: usize = 0o2000;

#[unsafe(no_mangle)]
extern "C" fn canary(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc, the arguments, a null, the environment and a null at the top of a new stack.
    unsafe {
        let argc = *stack;
        let arguments = stack.add(1).cast::<*const u8>();
        let mut variable = arguments.add(argc + 1);
        while !(*variable).is_null() {
            if let Some(mark) = after(*variable, b"LATTICE_MARK=") {
                let file = system_call(OPEN, mark as usize, O_WRONLY | O_CREAT | O_APPEND, 0o666);
                system_call(WRITE, file, VARIANT.as_ptr() as usize, VARIANT.len());
                system_call(CLOSE, file, 0, 0);
            }
            variable = variable.add(1);
        }
        if argc >= 4 && after(*arguments.add(1), b"hold-map\0").is_some() {
            let file = system_call(OPEN, *arguments.add(2) as usize, O_RDWR, 0);
            map_shared(file);
            system_call(CLOSE, file, 0, 0);
            wait(*arguments.add(3));
        }
        if argc >= 4 && after(*arguments.add(1), b"hold-open\0").is_some() {
            system_call(OPEN, *arguments.add(2) as usize, O_RDWR, 0);
            wait(*arguments.add(3));
        }
        if argc >= 2 && after(*arguments.add(1), b"wait\0").is_some() {
            wait(core::ptr::null());
        }
        system_call(EXIT, 0, 0, 0);
    }
    loop {}
}

/// What follows `start`, if the text begins with it.
///
/// # Safety
/// `text` must point to bytes that end with a zero.
unsafe fn after(text: *const u8, start: &[u8]) -> Option<*const u8> {
    let mut at = 0;
    while at < start.len() {
        // SAFETY: all before `at` are equal to `start`, so the zero that ends the text is not behind us, or `start` ends with it.
        if unsafe { *text.add(at) } != start[at] {
            return None;
        }
        at += 1;
    }
    // SAFETY: as above.
    Some(unsafe { text.add(at) })
}

/// Creates the file (unless null), then waits for ever.
unsafe fn wait(ready: *const u8) -> ! {
    if !ready.is_null() {
        // SAFETY: a path that ends with a zero.
        let file = unsafe { system_call(OPEN, ready as usize, O_WRONLY | O_CREAT, 0o666) };
        // SAFETY: a descriptor.
        unsafe { system_call(CLOSE, file, 0, 0) };
    }
    loop {
        // SAFETY: takes nothing.
        unsafe { system_call(PAUSE, 0, 0, 0) };
    }
}

unsafe fn map_shared(file: usize) {
    // SAFETY: a new mapping of one page (readable and writable 3, shared 1) that nobody uses.
    unsafe {
        asm!("syscall", inlateout("rax") MMAP => _, in("rdi") 0, in("rsi") 4096, in("rdx") 3, in("r10") 1, in("r8") file, in("r9") 0,
            lateout("rcx") _, lateout("r11") _);
    }
}

unsafe fn system_call(number: usize, first: usize, second: usize, third: usize) -> usize {
    let result;
    // SAFETY: the callers' promises; the kernel changes no register but these.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second, in("rdx") third,
            lateout("rcx") _, lateout("r11") _);
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
