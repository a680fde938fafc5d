//! Ending the current task.

use aya_ebpf::helpers::generated::bpf_send_signal;

const SIGKILL: u32 = 9;

/// Sends SIGKILL to the current task. Not 0 where the kernel could not (-EBUSY while its irq work is pending, -EPERM for the global
/// init): the agent then finishes what the record says.
#[inline(always)]
pub(crate) fn kill_current() -> i32 {
    // SAFETY: signals the current task; any number is accepted.
    (unsafe { bpf_send_signal(SIGKILL) }) as i32
}
