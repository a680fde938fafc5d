//! The programs that the demo brings along, built from the sources in `xtask/demo` where these changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::place;
use crate::{process, workspace};

/// Where the containers find the folder in which canaries leave their marks.
pub(super) const MARKS_IN_CONTAINER: &str = "/marks";

/// The demo's server: dynamic, so that an ELF interpreter is part of its start.
///
/// # Errors
///
/// Where the compiler fails.
pub(crate) fn server() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    build("server.rs", "server", |source, program| {
        let mut command = Command::new(rustc);
        command
            .args(["--edition", "2024", "-C", "opt-level=1", "-C", "strip=symbols", "-o"])
            .arg(program)
            .arg(source);
        command
    })
}

/// A static program whose first act is to leave a mark of this name.
///
/// # Errors
///
/// Where the assembler fails.
pub(super) fn canary(mark: &str) -> Result<PathBuf> {
    build("canary.S", &format!("canary-{mark}"), |source, program| {
        let mut command = Command::new("gcc");
        command
            .args(["-nostdlib", "-static", "-no-pie"])
            .arg(format!("-DMARK=\"{MARKS_IN_CONTAINER}/{mark}\""))
            .arg("-o")
            .arg(program)
            .arg(source);
        command
    })
}

/// Builds unless the cache has what this source makes.
fn build(source: &str, name: &str, command: impl FnOnce(&Path, &Path) -> Command) -> Result<PathBuf> {
    let source = workspace::root().join("xtask/demo").join(source);
    let text = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let folder = place::cache()?;
    let program = folder.join(format!("{name}-{}", hex::encode(&Sha256::digest(&text)[..6])));
    if !program.exists() {
        // In a folder of its own first: an interrupted build is no program, and another process may build the same at the same time.
        let place = tempfile::Builder::new()
            .prefix("unfinished-")
            .tempdir_in(&folder)
            .with_context(|| format!("cannot create a folder in {}", folder.display()))?;
        let unfinished = place.path().join(name);
        process::execute(&mut command(&source, &unfinished))?;
        fs::rename(&unfinished, &program).with_context(|| format!("cannot write {}", program.display()))?;
    }
    Ok(program)
}
