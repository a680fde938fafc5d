//! A registry of the demo's own: Debian's docker-registry with an own configuration, on the loopback.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    cgroups::Cgroups,
    daemon::{self, Daemon},
    http,
    place::Place,
};
use crate::{
    oci::{self, Image},
    workspace,
};

/// The folder, below its own, where it keeps what was pushed.
pub(crate) const CONTENT: &str = "content";

/// A running registry.
pub(crate) struct Registry {
    port: u16,
    _daemon: Daemon,
}

impl Registry {
    /// # Errors
    ///
    /// Where docker-registry is missing or does not come up.
    pub(super) fn start(place: &Place) -> Result<Self> {
        Self::start_in(&place.folder("registry")?, Some(&place.cgroups), &place.log("registry"))
    }

    /// Beside whatever else runs, with its content below the folder; ended when dropped.
    ///
    /// # Errors
    ///
    /// Where docker-registry is missing or does not come up.
    pub(crate) fn start_alone(folder: &Path) -> Result<Self> {
        Self::start_in(folder, None, &folder.join("log"))
    }

    fn start_in(folder: &Path, cgroups: Option<&Cgroups>, log: &Path) -> Result<Self> {
        let program = workspace::find_program("docker-registry")
            .ok_or_else(|| anyhow!("no docker-registry: run `cargo xtask setup`"))?;
        let port = daemon::free_port()?;
        let configuration = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {:?}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            folder.join(CONTENT)
        );
        fs::write(&configuration, text).with_context(|| format!("cannot write {}", configuration.display()))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&configuration);
        let mut daemon = Daemon::start("docker-registry", &command, cgroups, log, None)?;
        daemon.wait_until(|| daemon::answers(port))?;
        Ok(Self { port, _daemon: daemon })
    }

    /// As image references begin: `127.0.0.1:PORT`.
    pub(super) fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether there is a manifest of this tag or digest.
    ///
    /// # Errors
    ///
    /// Where the registry does not answer.
    pub(super) fn has(&self, repository: &str, reference: &str) -> Result<bool> {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.name());
        Ok(http::get(&url, oci::MANIFEST_TYPE)?.status == 200)
    }

    /// Pushes an image under a tag (OCI distribution specification, "Pushing").
    ///
    /// # Errors
    ///
    /// Where the registry refuses.
    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        let base = format!("http://{}/v2/{repository}", self.name());
        for blob in &image.blobs {
            let started = http::post(&format!("{base}/blobs/uploads/"), &[])?;
            let location = started
                .location
                .ok_or_else(|| anyhow!("the registry gave no place to upload to (HTTP {})", started.status))?;
            let location = match location.strip_prefix('/') {
                Some(path) => format!("http://{}/{path}", self.name()),
                None => location,
            };
            let separator = if location.contains('?') { '&' } else { '?' };
            let url = format!("{location}{separator}digest={}", oci::digest(blob));
            expect_created(&http::put(&url, "application/octet-stream", blob)?)?;
        }
        let url = format!("{base}/manifests/{tag}");
        expect_created(&http::put(&url, oci::MANIFEST_TYPE, &image.manifest)?)
    }
}

#[cfg(test)]
impl Registry {
    /// A registry of a test's own; None, and a line that says so, where this machine has none.
    pub(super) fn for_test(test: &str, folder: &Path) -> Option<Self> {
        if workspace::find_program("docker-registry").is_none() {
            println!("skipped: {test}: no docker-registry: run `cargo xtask setup`");
            return None;
        }
        Some(Self::start_alone(folder).expect("the registry comes up"))
    }
}

fn expect_created(answer: &http::Answer) -> Result<()> {
    if answer.status != 201 {
        bail!("the registry answered {}: {}", answer.status, answer.body.trim());
    }
    Ok(())
}
