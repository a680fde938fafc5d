//! The kernel itself: release, types, and what its refusals mean.

use std::{fs, path::Path};

use lattice_api::{node_report::FindingResult, v1::Finding};

use super::{finding, offered};
use crate::{
    error_chain::ErrorChain,
    kernel::{btf::Btf, object::ObjectError, offsets::globals},
};

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
const ACTIVE_LSMS: &str = "/sys/kernel/security/lsm";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const IMA_RULES: &str = "/sys/kernel/security/ima/policy";
const IMA_MEASUREMENTS: &str = "/sys/kernel/security/ima/runtime_measurements_count";
/// The verifier's log can be long; what matters comes first.
const REASON_CHARACTERS: usize = 400;

pub(super) fn release() -> String {
    read("/proc/sys/kernel/osrelease").unwrap_or_default()
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

pub(super) fn kernel() -> Finding {
    let found = format!("Linux {} on {}", release(), std::env::consts::ARCH);
    let is_confidential = read(LOCKDOWN).is_some_and(|modes| modes.contains("[confidentiality]"));
    if is_confidential {
        return Finding {
            consequence: "BPF programs may not read kernel memory, so neither tier can be had".into(),
            advice: "boot with lockdown=integrity, or without".into(),
            ..finding(
                "kernel",
                FindingResult::Limited,
                format!("{found}, locked down to confidentiality"),
            )
        };
    }
    offered("kernel", found)
}

pub(super) fn btf() -> Finding {
    let found = Btf::from_file(Path::new(KERNEL_BTF)).and_then(|btf| globals(&btf));
    match found {
        Ok(globals) => offered("btf", format!("{} offsets taken from {KERNEL_BTF}", globals.len())),
        Err(error) => Finding {
            consequence: "neither tier can be had".into(),
            advice: "use a kernel of 5.17 or later with CONFIG_DEBUG_INFO_BTF".into(),
            ..finding("btf", FindingResult::Missing, ErrorChain(&error).to_string())
        },
    }
}

/// Why an IMA policy seems to be active; `None` where nothing says so.
pub(super) fn active_ima_policy() -> Option<String> {
    let rules = read(IMA_RULES).map_or(0, |rules| rules.lines().count());
    if rules > 0 {
        return Some(format!("{IMA_RULES} has {rules} rules"));
    }
    // The first measurement is of the boot itself, and is there without a policy.
    let measured: u64 = read(IMA_MEASUREMENTS).and_then(|count| count.parse().ok()).unwrap_or(0);
    if measured > 1 {
        return Some(format!("IMA has measured {measured} files"));
    }
    let line = read("/proc/cmdline").unwrap_or_default();
    let word = line
        .split_ascii_whitespace()
        .find(|word| word.starts_with("ima_policy="));
    word.map(|word| format!("{word} on the kernel's command line"))
}

fn reason(error: &ObjectError) -> String {
    let text = ErrorChain(error).to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(REASON_CHARACTERS).collect()
}

pub(super) fn lsm_refused(error: &ObjectError) -> Finding {
    Finding {
        consequence: "tier 1 cannot be had".into(),
        advice: lsm_advice(read(ACTIVE_LSMS).as_deref(), true),
        ..finding("bpf-lsm", FindingResult::Missing, reason(error))
    }
}

pub(super) fn lsm_never_called() -> Finding {
    Finding {
        consequence: "tier 1 cannot be had".into(),
        advice: lsm_advice(read(ACTIVE_LSMS).as_deref(), false),
        ..finding(
            "bpf-lsm",
            FindingResult::Missing,
            "its programs load and attach, but the kernel does not call them: an unlisted program ran",
        )
    }
}

/// What to change, by the list of active LSMs; the list explains what trying has shown.
fn lsm_advice(active: Option<&str>, is_refused: bool) -> String {
    let Some(active) = active.filter(|active| !active.is_empty()) else {
        return "look at /sys/kernel/security/lsm (mount securityfs there): boot with lsm=<what it names>,bpf, on a kernel with \
                CONFIG_BPF_LSM"
            .into();
    };
    if !active.split(',').any(|name| name == "bpf") {
        return format!("boot with lsm={active},bpf on the kernel's command line, on a kernel with CONFIG_BPF_LSM");
    }
    match is_refused {
        true => format!(
            "the list of active LSMs names bpf ({active}), and its programs are refused all the same: ask whoever provides this kernel"
        ),
        false => format!("the list of active LSMs names bpf ({active}): report this"),
    }
}

pub(super) fn floor_refused(error: &ObjectError) -> Finding {
    Finding {
        consequence: "nothing can be enforced here".into(),
        advice: "use a kernel of 5.17 or later with BTF, and run this as root of the host".into(),
        ..finding("floor", FindingResult::Missing, reason(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_from_the_list_of_active_lsms() {
        let check = |active, is_refused, expected: &str| {
            let advice = lsm_advice(active, is_refused);
            assert!(advice.contains(expected), "{advice}");
        };
        check(
            Some("lockdown,capability,yama"),
            true,
            "boot with lsm=lockdown,capability,yama,bpf ",
        );
        check(Some("capability,bpf"), true, "refused all the same");
        check(Some("capability,bpf"), false, "report this");
        check(Some("capability,bpfish"), false, "boot with lsm=capability,bpfish,bpf ");
        check(None, true, "mount securityfs");
        check(Some(""), true, "mount securityfs");
    }

    #[test]
    fn this_kernel_is_described() {
        assert!(!release().is_empty());
        assert_eq!((kernel().check.as_str(), btf().check.as_str()), ("kernel", "btf"));
    }
}
