//! The C library's heap: it keeps what was freed between blocks that are still in use, and a start frees a lot (the kernel's types, parsed
//! policies).

/// Gives freed pages back to the kernel. Takes milliseconds; for after what needed much.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer, may be called at any time and from any thread, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_lies_between_blocks_in_use_is_given_back() {
        // Small blocks, so that they come from the heap, and one in use at the end of it.
        let mut blocks: Vec<Vec<u8>> = (0..200_000).map(|_| vec![1; 200]).collect();
        let kept = blocks.split_off(blocks.len() - 1);
        drop(blocks);
        let before = resident_kib();
        give_back();
        let after = resident_kib();
        assert!(after + 16 * 1024 < before, "{before} KiB before, {after} KiB after");
        drop(kept);
    }
}
