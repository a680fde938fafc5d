//! `deploy/install.yaml`: what the chart comes to with its own values, for who has no helm.
//!
//! ```text
//!   deploy/charts/lattice ──┬─► helm template ──► deploy/install.yaml      `cargo xtask codegen --chart`, and held against by `test cluster`
//!                           └─► SHA-256 ────────► its second line          held against by `tidy`, which needs no helm
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{go_modules::HELM, process, workspace};

/// What the release is called, and where it is.
pub(crate) const RELEASE: &str = "lattice";
pub(crate) const NAMESPACE: &str = "lattice-system";

const HEAD: &str = "# Made from deploy/charts/lattice by `cargo xtask codegen --chart`: kubectl apply --server-side --filename deploy/install.yaml";
const DIGEST: &str = "# Of the chart with SHA-256 ";

/// The chart of this checkout.
pub(crate) fn chart() -> PathBuf {
    workspace::root().join("deploy/charts/lattice")
}

pub(crate) fn path() -> PathBuf {
    workspace::root().join("deploy/install.yaml")
}

/// Writes the file anew.
///
/// # Errors
///
/// Where helm cannot be built, does not take the chart, or the file cannot be written.
pub(crate) fn write() -> Result<()> {
    let path = path();
    fs::write(&path, render()?).with_context(|| format!("cannot write {}", path.display()))
}

/// What the file is to be.
///
/// # Errors
///
/// Where helm cannot be built or does not take the chart; the error has what it said.
pub(crate) fn render() -> Result<String> {
    let mut helm = Command::new(HELM.ensure()?.join("helm"));
    helm.args(["template", RELEASE, "--include-crds", "--namespace", NAMESPACE])
        .arg(chart());
    let objects = process::capture(&mut helm)?;
    // Helm makes the namespace by --create-namespace. The agent sees the node's processes and folders.
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    });
    let digest = digest(&chart())?;
    Ok(format!(
        "{HEAD}\n{DIGEST}{digest}\n---\n{namespace}\n{}\n",
        objects.trim_end()
    ))
}

/// Whether the file is of the chart as it is, by what it says of itself.
///
/// # Errors
///
/// Where it is not.
pub(crate) fn check() -> Result<()> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let said = text.lines().find_map(|line| line.strip_prefix(DIGEST));
    if said != Some(digest(&chart())?.as_str()) {
        bail!(
            "{} is of another chart than deploy/charts/lattice is now: cargo xtask codegen --chart writes it",
            path.display()
        );
    }
    Ok(())
}

/// Of all files below a folder, links followed: each one's name, length and content, in the order of the names.
fn digest(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file
            .strip_prefix(folder)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        hasher.update(name);
        hasher.update([0]);
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    Ok(hex::encode(hasher.finalize()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_and_name_of_a_chart_counts() {
        let chart = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = chart.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            digest(chart.path()).unwrap()
        };
        let first = file("templates/a.yaml", "a: 1\n");
        let changed = file("templates/a.yaml", "a: 2\n");
        assert_ne!(first, changed);
        assert_eq!(file("templates/a.yaml", "a: 1\n"), first);
        let more = file("templates/b.yaml", "");
        assert_ne!(more, first);
        fs::rename(chart.path().join("templates/b.yaml"), chart.path().join("b.yaml")).unwrap();
        assert_ne!(digest(chart.path()).unwrap(), more);
    }
}
