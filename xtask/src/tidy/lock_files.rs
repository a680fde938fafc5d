//! What the lock files fix: each is of its workspace's manifests as they are now, and names the public index alone.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{build, process, workspace};

/// The only place that a lock file may name.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The folders of this repository's cargo workspaces, below its root.
const WORKSPACES: [&str; 2] = ["", "fuzz"];

/// Every dependency comes from the public index, at a version that a lock file fixes. A workspace that takes crates of another one
/// in by path needs its own lock file brought up when theirs change, or it does not build with `--locked`.
pub(super) fn check() -> Result<()> {
    for folder in WORKSPACES {
        let folder = workspace::root().join(folder);
        let path = folder.join("Cargo.lock");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let foreign = foreign_sources(&text);
        if !foreign.is_empty() {
            bail!(
                "{} names other sources than the public index: {}",
                path.display(),
                foreign.join(", ")
            );
        }
        process::capture(
            build::cargo()
                .args(["metadata", "--locked", "--format-version", "1"])
                .current_dir(&folder),
        )
        .with_context(|| {
            format!(
                "{} is not of its manifests; run `cargo update --workspace` there",
                path.display()
            )
        })?;
    }
    Ok(())
}

fn foreign_sources(lock_file: &str) -> Vec<&str> {
    lock_file
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .map(|source| source.trim_matches('"'))
        .filter(|source| *source != REGISTRY)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_registry_or_a_git_source_is_foreign() {
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                    source = \"git+https://example.com/x#abc\"\nsource = \"registry+https://mirror.example/index\"\n";
        assert_eq!(
            foreign_sources(lock),
            ["git+https://example.com/x#abc", "registry+https://mirror.example/index"]
        );
    }
}
