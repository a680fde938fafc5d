//! deploy/install.yaml, on a cluster that has nothing of Lattice's yet.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{NAMESPACE, World};
use crate::install_file;

/// Who has no helm installs what the chart would, and the API server takes all of it.
pub(super) fn is_current(world: &World) -> Result<()> {
    let file = install_file::path();
    let committed = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(
        committed == install_file::render()?,
        "deploy/install.yaml is not what the chart renders: cargo xtask codegen --chart writes it"
    );
    // Where no namespace is, the API server can try nothing that is to be in it.
    world.kubectl.run(&["create", "namespace", NAMESPACE])?;
    world.kubectl.run(&[
        "apply",
        "--server-side",
        "--dry-run=server",
        "--filename",
        &file.display().to_string(),
    ])?;
    Ok(())
}
