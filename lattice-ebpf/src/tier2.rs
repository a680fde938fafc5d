#![no_std]
#![no_main]
//! tier 1
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
