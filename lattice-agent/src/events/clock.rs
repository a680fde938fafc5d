//! When: the kernel's boot clock as wall time, and which boot it is.

use std::fs;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds between the epoch and the start of this boot's clock, as of now. Read anew for each batch: wall clocks are set.
pub fn boot_offset_nanos() -> i128 {
    let nanos = |clock| {
        clock_gettime(clock).map_or(0, |time| {
            i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
        })
    };
    nanos(ClockId::CLOCK_REALTIME) - nanos(ClockId::CLOCK_BOOTTIME)
}

/// Wall time of an instant of the boot clock, in nanoseconds since the epoch.
pub fn wall_nanos(boot_nanos: u64, offset_nanos: i128) -> u64 {
    u64::try_from(i128::from(boot_nanos) + offset_nanos).unwrap_or(0)
}

/// Wall time now, in nanoseconds since the epoch.
pub fn now_nanos() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// This boot's id.
///
/// # Errors
/// When procfs does not say.
pub fn boot_id() -> std::io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}
