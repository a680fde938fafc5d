//! Images that a cluster has from the beginning, and how others come into it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{component, configuration::CONTAINERD_SOCKET, place, programs};
use crate::{
    oci::{
        self, Image,
        files::{self, Files},
    },
    process, workspace,
};

/// Holds a pod's namespaces. No registry has the name.
pub(super) const PAUSE: &str = "localhost/lattice-pause:1";

/// Imports an image under a name, so that pods can be started of it.
///
/// # Errors
///
/// Where the cluster is not up, or containerd does not take the image.
pub(super) fn import(place: &place::Place, name: &str, image: &Image) -> Result<()> {
    let archive = place.run().join("import.tar");
    fs::write(&archive, image.archive(name)?).with_context(|| format!("cannot write {}", archive.display()))?;
    let ctr = programs::find(Path::new("ctr"))?;
    let result = process::capture(
        component::inside(place, &ctr)?
            .args([
                "--address",
                CONTAINERD_SOCKET,
                "--namespace",
                "k8s.io",
                "images",
                "import",
                "--local",
            ])
            .arg(&archive),
    );
    let removed = fs::remove_file(&archive);
    result.with_context(|| format!("cannot import {name}"))?;
    removed.with_context(|| format!("cannot remove {}", archive.display()))
}

/// # Errors
///
/// Where the compiler fails.
pub(super) fn pause() -> Result<Image> {
    let mut layer = Files::new();
    files::add_as(&mut layer, "/pause", &pause_program()?)?;
    let layer = files::archive(&layer, &mut std::collections::BTreeSet::new())?;
    oci::assemble(vec![layer], &json!({"Entrypoint": ["/pause"]}))
}

/// Static, since its image has nothing but it.
fn pause_program() -> Result<PathBuf> {
    let source = workspace::root().join("xtask/cluster/pause.rs");
    let text = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let folder = workspace::target().join("tools/pause");
    place::create(&folder)?;
    let program = folder.join(format!("pause-{}", hex::encode(&Sha256::digest(&text)[..6])));
    if !program.exists() {
        // Under another name first, so that an interrupted build is no program.
        let unfinished = folder.join("pause.unfinished");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        process::execute(
            Command::new(rustc)
                .args([
                    "--edition",
                    "2024",
                    "-C",
                    "opt-level=s",
                    "-C",
                    "strip=symbols",
                    "-C",
                    "panic=abort",
                ])
                .args(["-C", "target-feature=+crt-static", "-o"])
                .arg(&unfinished)
                .arg(&source),
        )?;
        fs::rename(&unfinished, &program).with_context(|| format!("cannot write {}", program.display()))?;
    }
    Ok(program)
}
