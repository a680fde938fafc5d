//! `cluster down`: ends every process by its id, then removes what is left of the cluster.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{components, place::Place, running::Running, say};

/// How long a part may take to end by itself before it is killed.
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// # Errors
///
/// Where something stays.
pub(super) fn run(place: &Place) -> Result<()> {
    let _lock = place.lock()?;
    let was_there = place.run().exists();
    clear(place)?;
    say(&if was_there {
        format!("{} is down; its logs stay in {}", place.name, place.logs().display())
    } else {
        format!("{} was not up", place.name)
    });
    Ok(())
}

/// Leaves nothing but the logs. Where nothing runs it does no harm.
///
/// # Errors
///
/// Where a process does not end, or a control group or folder cannot be removed.
pub(super) fn clear(place: &Place) -> Result<()> {
    // Who starts others goes first; what holds the namespaces, last.
    for name in components::NAMES {
        if let Some(running) = Running::read(&place.process_files().join(name)) {
            end(running);
        }
    }
    let groups = place.control_groups()?;
    groups.kill_all()?;
    // With the last process the namespaces went, and the mounts in them.
    groups.remove()?;
    let run = place.run();
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("cannot remove {}", run.display()))?;
    }
    Ok(())
}

/// Asks, and waits for a while; the control groups' turn comes after.
fn end(running: Running) {
    running.ask_to_end();
    let started = Instant::now();
    while running.is_alive() && started.elapsed() < END_LIMIT {
        thread::sleep(LOOK_INTERVAL);
    }
}
