//! `lattice-agent uninstall`: from then on nothing is enforced.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lattice_agent::{
    kernel::{object::is_any_loaded, pins::PinDirectory},
    spool,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Uninstall;

/// How long the kernel may take to detach a program whose pin is gone.
const DETACH_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn uninstall(settings: &Uninstall) -> Result<ExitCode> {
    let removed = PinDirectory::new(&settings.pins.bpf_file_system).remove_all()?;
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
    // Last, since an agent that still runs would go on writing there.
    for folder in &settings.empty {
        for path in empty(folder).with_context(|| format!("--empty {}", folder.display()))? {
            println!("removed {}", path.display());
        }
    }
    if settings.stay {
        stay()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes files and the spool; other folders are somebody else's, as central's state is below the agent's by default.
fn empty(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("cannot be listed")?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.context("cannot be listed")?;
        let path = entry.path();
        // Of a link this is the link.
        let is_folder = entry.file_type().context("cannot be listed")?.is_dir();
        let gone = match is_folder {
            false => fs::remove_file(&path),
            true if entry.file_name() == spool::FOLDER => fs::remove_dir_all(&path),
            true => continue,
        };
        gone.with_context(|| format!("cannot remove {}", path.display()))?;
        removed.push(path);
    }
    Ok(removed)
}

fn stay() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_not_the_agents_stays() {
        let place = tempfile::tempdir().unwrap();
        let (state, other) = (place.path().join("state"), place.path().join("other"));
        for folder in [&state.join(spool::FOLDER), &state.join("central"), &other] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("content"), "content").unwrap();
        }
        fs::write(state.join("modes"), "modes").unwrap();
        symlink(&other, state.join("link")).unwrap();
        let mut removed = empty(&state).unwrap();
        removed.sort();
        assert_eq!(removed, ["link", "modes", spool::FOLDER].map(|name| state.join(name)));
        assert!(state.join("central/content").exists() && other.join("content").exists());
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        assert_eq!(empty(&state).unwrap(), [] as [PathBuf; 0]);
        assert_eq!(empty(&place.path().join("none")).unwrap(), [] as [PathBuf; 0]);
    }
}
