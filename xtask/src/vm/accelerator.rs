//! KVM or emulation.
//!
//! A /dev/kvm that opens proves little: nested in another virtual machine it may refuse a register or let the guest
//! hang for good. So a kernel is booted once, and the answer holds until this machine boots again.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::workspace;

/// A kernel that works panics for want of a root file system in about a second.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accelerator {
    /// The processor itself
    Kvm,
    /// Emulation; works everywhere
    Tcg,
}

impl Accelerator {
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg", "-cpu", "max"],
        }
    }

    /// KVM if a trial boot of `kernel_image` ends as it should; the answer is kept in `cache_folder`.
    pub(crate) fn probe(kernel_image: &Path, cache_folder: &Path) -> Self {
        if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Self::Tcg;
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let cache = cache_folder.join("accelerator");
        let cached = fs::read_to_string(&cache).unwrap_or_default();
        match cached.strip_prefix(&boot_id).filter(|_| !boot_id.is_empty()) {
            Some("kvm") => return Self::Kvm,
            Some("tcg") => return Self::Tcg,
            _ => {}
        }
        let works = trial_boot(kernel_image);
        if !works {
            eprintln!("vm: /dev/kvm is there but a trial boot with it failed; emulating from now on");
        }
        // Where it cannot be kept, the next run tries again.
        let _ = fs::write(cache, format!("{boot_id}{}", if works { "kvm" } else { "tcg" }));
        if works { Self::Kvm } else { Self::Tcg }
    }
}

/// Whether QEMU ends by itself and well, which it does when the guest resets after its panic.
fn trial_boot(kernel_image: &Path) -> bool {
    let Some(qemu) = workspace::find_program("qemu-system-x86_64") else {
        return false;
    };
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(qemu)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "pc",
            "-m",
            "256M",
        ])
        .args(Accelerator::Kvm.arguments())
        .arg("-kernel")
        .arg(kernel_image)
        .args(["-append", "panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let started = Instant::now();
    while started.elapsed() < TRIAL_LIMIT {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => thread::sleep(POLL_INTERVAL),
            Err(_) => break,
        }
    }
    // Fails only where it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    false
}
