//! `lattice-agent uninstall`: from then on nothing is enforced.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lattice_agent::kernel::{object::is_any_loaded, pins::PinDirectory};

use crate::cli::Pins;

/// How long the kernel may take to detach a program whose pin is gone.
const DETACH_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn uninstall(pins: &Pins) -> Result<ExitCode> {
    let removed = PinDirectory::new(&pins.bpf_file_system).remove_all()?;
    let give_up = Instant::now() + DETACH_WITHIN;
    while is_any_loaded() {
        if Instant::now() > give_up {
            bail!(
                "{removed} pins are removed, but BPF programs are still loaded: is an agent running? Stop it, then uninstall again"
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("removed {removed} pins: nothing is enforced on this node now");
    Ok(ExitCode::SUCCESS)
}
