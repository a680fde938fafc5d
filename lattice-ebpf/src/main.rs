#![no_std]
#![no_main]
//! The BPF programs of Lattice.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
