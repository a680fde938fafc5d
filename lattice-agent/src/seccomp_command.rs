//! `lattice-agent seccomp-profile`: the agent's own profile, for a node that has no other way to get the file.

use std::{fs, io::Write as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::cli::SeccompProfile;

/// In the OCI's form.
const PROFILE: &str = include_str!("../../deploy/seccomp/lattice-agent.json");

/// Prints the profile, or puts it where a kubelet looks for it.
///
/// # Errors
/// Where the file cannot be written.
pub(crate) fn run(settings: &SeccompProfile) -> Result<ExitCode> {
    match &settings.install {
        Some(file) => install(file)?,
        None => print!("{PROFILE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A container runtime may read the file at any time, so it is never half written.
fn install(file: &Path) -> Result<()> {
    if fs::read_to_string(file).is_ok_and(|present| present == PROFILE) {
        return Ok(());
    }
    let folder = file
        .parent()
        .with_context(|| format!("{} names no file", file.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let unfinished = file.with_extension("unfinished");
    let mut written =
        fs::File::create(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
    written
        .write_all(PROFILE.as_bytes())
        .and_then(|()| written.sync_all())
        .and_then(|()| fs::rename(&unfinished, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_takes_the_place_of_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seccomp/lattice-agent.json");
        install(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), PROFILE);
        fs::write(&file, "{}").unwrap();
        install(&file).unwrap();
        install(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), PROFILE);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
