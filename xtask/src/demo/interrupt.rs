//! Ctrl-C and SIGTERM: remembered, so that the demo ends what it started before it ends itself.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

static ASKED_TO_STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static TIDYING_UP: AtomicBool = AtomicBool::new(false);

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// From now on the signals no longer end this process; [`check`] tells of them. Programs that it starts are not concerned.
///
/// # Errors
///
/// Where the signals cannot be caught.
pub(super) fn watch() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&ASKED_TO_STOP)).context("cannot catch signals")?;
    }
    Ok(())
}

/// From here on the demo only tidies up, which a second Ctrl-C does not shorten.
pub(super) fn disregard() {
    TIDYING_UP.store(true, Ordering::Relaxed);
}

/// # Errors
///
/// Where the demo was asked to stop.
pub(super) fn check() -> Result<()> {
    if ASKED_TO_STOP.load(Ordering::Relaxed) && !TIDYING_UP.load(Ordering::Relaxed) {
        bail!("asked to stop; what the demo started is ended");
    }
    Ok(())
}

/// Looks until `look` finds what it looks for, or the limit is over: then None.
///
/// # Errors
///
/// Where `look` fails, or the demo was asked to stop.
pub(super) fn wait_for<Found>(
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<Found>>,
) -> Result<Option<Found>> {
    let started = Instant::now();
    loop {
        check()?;
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if started.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}
