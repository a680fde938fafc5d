//! What cannot be tried here, and how that is known.

use std::fs;

/// A name, and the reason; `None` where there is none any more.
pub(super) type Skip = (&'static str, fn() -> Option<String>);

pub(super) const SKIPS: &[Skip] = &[
    ("a_reflinked_file_is_a_file_like_any_other", || {
        let systems = fs::read_to_string("/proc/filesystems").ok()?;
        let shares = systems
            .split_whitespace()
            .any(|name| ["btrfs", "xfs", "bcachefs"].contains(&name));
        (!shares).then(|| "no file system of this kernel shares extents between files".to_owned())
    }),
    ("at_execve_check_is_answered_without_a_signal", || {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next()?, numbers.next()?);
        (version < (6, 14)).then(|| format!("AT_EXECVE_CHECK came with 6.14, this is {}", release.trim()))
    }),
];
