//! The highest tier that this kernel gives.

use anyhow::Result;
use lattice_agent::kernel::{
    object::{Active, MapSizes, ObjectError, Tier, activate},
    pins::PinDirectory,
};
use lattice_common::abi::maps as map_names;

use crate::cli::Settings;

pub(super) fn activate_best(settings: &Settings, pins: &PinDirectory) -> Result<Active> {
    let sizes = MapSizes(vec![
        (map_names::ENTRIES, settings.max_entries),
        (map_names::SIZES, settings.max_entries),
    ]);
    Ok(match settings.tier {
        Some(1) => activate(Tier::One, pins, &sizes)?,
        Some(_) => activate(Tier::Two, pins, &sizes)?,
        // Where `bpf` is not among the active LSMs the kernel makes no inode storage, so that tier 1 cannot be loaded there either.
        None => match activate(Tier::One, pins, &sizes) {
            Ok(active) => active,
            Err(error @ (ObjectError::Load { .. } | ObjectError::Program { .. })) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "BPF LSM is refused here: tier 2"
                );
                activate(Tier::Two, pins, &sizes)?
            }
            Err(error) => return Err(error.into()),
        },
    })
}
