//! The highest tier that this kernel gives.

use anyhow::Result;
use aya::maps::MapInfo;
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
        (map_names::PATHS, settings.max_paths),
        (map_names::APPLETS, settings.max_applets),
        (map_names::CONTAINERS, settings.max_containers),
        (map_names::STARTED, settings.max_containers),
        // Each container has a cgroup and at most one pod's above it, and there is the managed root: never full before CONTAINERS is.
        (map_names::CGROUPS, 2 * settings.max_containers + 1),
        // The first slot of these stays empty.
        (map_names::POLICIES, settings.max_policies + 1),
        (map_names::NAMESPACES, settings.max_namespaces + 1),
    ]);
    let active = activate_any(settings, pins, &sizes)?;
    warn_of_sizes(pins, &sizes);
    Ok(active)
}

/// A map that is pinned keeps its size.
fn warn_of_sizes(pins: &PinDirectory, sizes: &MapSizes) {
    for &(map, wanted) in &sizes.0 {
        // One that cannot be looked at is said when it is opened.
        let found = MapInfo::from_pin(pins.map(map)).map(|info| info.max_entries());
        if let Ok(found) = found
            && found != wanted
        {
            tracing::warn!(
                map,
                found,
                wanted,
                "a pinned map keeps its number of elements until `lattice-agent uninstall`"
            );
        }
    }
}

fn activate_any(settings: &Settings, pins: &PinDirectory, sizes: &MapSizes) -> Result<Active> {
    Ok(match settings.tier {
        Some(1) => activate(Tier::One, pins, sizes)?,
        Some(_) => activate(Tier::Two, pins, sizes)?,
        // Where `bpf` is not among the active LSMs the kernel makes no inode storage, so that tier 1 cannot be loaded there either.
        None => match activate(Tier::One, pins, sizes) {
            Ok(active) => active,
            Err(error @ (ObjectError::Load { .. } | ObjectError::Program { .. })) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "BPF LSM is refused here: tier 2"
                );
                activate(Tier::Two, pins, sizes)?
            }
            Err(error) => return Err(error.into()),
        },
    })
}
