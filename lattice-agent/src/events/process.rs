//! What procfs says of processes, where the kernel's record does not, or not wholly.

use std::{fs, os::unix::ffi::OsStrExt as _};

use lattice_api::v1;

/// Ancestors that an event names at most, as many as a record has.
const MAX_ANCESTORS: usize = lattice_common::abi::RECORD_ANCESTORS;
/// procfs counts starts in ticks of 10 ms (`USER_HZ`, which is ABI).
const TICK_NANOS: u64 = 10_000_000;

/// Fields of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    start_boot_nanos: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The command name in parentheses may hold anything but its end is the last parenthesis.
    let end = bytes.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        parent,
        start_boot_nanos: ticks.checked_mul(TICK_NANOS)?,
    })
}

/// What a link below a process' folder leads to; `None` where the process is gone, or another one that got the same number: with
/// `start_boot_nanos`, one that started at another time.
fn link(pid: u32, name: &str, start_boot_nanos: Option<u64>) -> Option<Vec<u8>> {
    let path = fs::read_link(format!("/proc/{pid}/{name}")).ok()?;
    // Looked at afterwards: had the number been given away before the link was read, the start would be the new one's.
    if let Some(nanos) = start_boot_nanos
        && stat(pid)?.start_boot_nanos / TICK_NANOS != nanos / TICK_NANOS
    {
        return None;
    }
    Some(path.as_os_str().as_bytes().to_vec())
}

/// Path of a process' executable.
pub(crate) fn executable(pid: u32, start_boot_nanos: Option<u64>) -> Option<Vec<u8>> {
    link(pid, "exe", start_boot_nanos)
}

/// A process' working directory, as the host sees it.
pub(crate) fn working_directory(pid: u32, start_boot_nanos: u64) -> Option<Vec<u8>> {
    link(pid, "cwd", Some(start_boot_nanos))
}

/// When a process started, if it is still there; to the tick.
pub(crate) fn started(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_boot_nanos)
}

/// A process' parent, if it is still there.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The ancestors of a process from its parent on, nearest first, as far as they are still there: for what the kernel has no record of.
pub(crate) fn ancestors(parent_pid: u32) -> Vec<v1::Ancestor> {
    let mut ancestors = Vec::new();
    let mut pid = parent_pid;
    while pid > 0 && ancestors.len() < MAX_ANCESTORS {
        let Some(stat) = stat(pid) else { break };
        let executable = executable(pid, None).unwrap_or_default();
        let name = executable.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        ancestors.push(v1::Ancestor {
            pid,
            name: name.to_vec(),
            executable,
            start_boot_nanos: stat.start_boot_nanos,
        });
        pid = stat.parent;
    }
    ancestors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_may_hold_anything() {
        let line = b"42 (a) b \xff) S 7 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0\n";
        let stat = parse_stat(&[&line[..3], b"(x)\n S 99 (", &line[3..]].concat()).unwrap();
        assert_eq!((stat.parent, stat.start_boot_nanos), (7, 12_340_000_000));
        assert!(parse_stat(b"42 (a").is_none());
        assert!(parse_stat(b"42 (a) S").is_none());
    }

    #[test]
    fn this_process_is_found_by_its_start_and_no_other() {
        let pid = std::process::id();
        let start = stat(pid).unwrap().start_boot_nanos;
        assert!(executable(pid, Some(start + TICK_NANOS / 2)).is_some());
        assert_eq!(executable(pid, Some(start + TICK_NANOS)), None);
        let chain = ancestors(parent_of(pid).unwrap());
        assert!(!chain.is_empty());
        assert!(chain.iter().all(|ancestor| ancestor.start_boot_nanos <= start));
    }
}
