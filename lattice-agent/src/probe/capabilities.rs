//! Which capabilities this process has of those that the agent needs. Which those are is tried by `cargo xtask footprint`.

use std::fs;

use lattice_api::{node_report::FindingResult, v1::Finding};

use super::{finding, offered, unknown};

/// Number and name of each capability that the agent needs; docs/footprint.md says what fails without it.
pub(super) const NEEDED: [(u32, &str); 3] = [(21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

pub(super) fn capabilities() -> Finding {
    match fs::read_to_string("/proc/self/status")
        .ok()
        .as_deref()
        .and_then(effective)
    {
        Some(held) => judged(held),
        None => unknown("capabilities", "/proc/self/status has no CapEff", "mount proc on /proc"),
    }
}

fn judged(held: u64) -> Finding {
    let absent: Vec<&str> = NEEDED
        .iter()
        .filter(|(number, _)| held >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    if absent.is_empty() {
        return offered("capabilities", "all that the agent needs");
    }
    let absent = absent.join(", ");
    Finding {
        consequence: "what follows may be refused for want of them, not by the kernel".into(),
        advice: format!("run this as root, or give it {absent}"),
        ..finding("capabilities", FindingResult::Missing, format!("without {absent}"))
    }
}

fn effective(status: &str) -> Option<u64> {
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(held.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_absent() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(judged(u64::MAX).result, "offered");
        let without_bpf = judged(!(1 << 39));
        assert_eq!(
            (without_bpf.result.as_str(), without_bpf.found.as_str()),
            ("missing", "without CAP_BPF")
        );
        assert!(judged(0).advice.contains("CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF"));
    }
}
