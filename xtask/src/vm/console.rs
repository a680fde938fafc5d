//! What on a kernel's console means that the kernel is not well.

/// The words by which the kernel announces a bug of its own, an oops, and a broken assertion.
const FAILURE_WORDS: [&str; 4] = ["BUG:", "Oops", "WARNING:", "Kernel panic"];

/// The first line that tells of a failure.
pub(crate) fn first_failure(console: &str) -> Option<&str> {
    console
        .lines()
        .find(|line| FAILURE_WORDS.iter().any(|word| line.contains(word)))
}

/// The last lines, for a message.
pub(crate) fn tail(console: &str, lines: usize) -> String {
    let all: Vec<&str> = console.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, is_failure: bool) {
        let console = format!("[    0.1] Linux version 6.1\n{line}\n[    9.9] end\n");
        assert_eq!(first_failure(&console), is_failure.then_some(line), "{line}");
    }

    #[test]
    fn kernel_failures_are_seen_and_plain_lines_are_not() {
        check(
            "[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000010",
            true,
        );
        check("[    5.1] Oops: 0000 [#1] PREEMPT SMP NOPTI", true);
        check(
            "[    5.1] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1 do_check+0x1/0x2",
            true,
        );
        check("[    5.1] Kernel panic - not syncing: sysrq triggered crash", true);
        check("[    5.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", true);
        check(
            "[    0.2] LSM: initializing lsm=lockdown,capability,yama,apparmor,tomoyo,bpf,integrity",
            false,
        );
        check("[    0.2] Run /init as init process", false);
    }
}
