//! helm, built as the rest of a cluster is, and the chart of this checkout.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::place::Place;
use crate::{
    go_modules::HELM,
    install_file::{self, RELEASE},
    process,
};

pub(super) struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Helm {
    /// # Errors
    ///
    /// Where it cannot be built.
    pub(super) fn ensure(place: &Place) -> Result<Self> {
        Ok(Self {
            program: HELM.ensure()?.join("helm"),
            kubeconfig: place.kubeconfig(),
            folder: place.run(),
        })
    }

    /// Installs the chart, or upgrades what is installed.
    ///
    /// # Errors
    ///
    /// Where helm refuses; the error has what it said.
    pub(super) fn install(&self, namespace: &str, values: &Value) -> Result<()> {
        let file = self.folder.join("values.json");
        fs::write(&file, values.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = self.command(namespace);
        command
            .args(["upgrade", "--install", RELEASE, "--create-namespace"])
            .arg(install_file::chart())
            .arg("--values")
            .arg(&file);
        process::capture(&mut command).map(drop)
    }

    /// # Errors
    ///
    /// Where helm refuses; the error has what it said.
    pub(super) fn uninstall(&self, namespace: &str) -> Result<()> {
        process::capture(self.command(namespace).args(["uninstall", RELEASE, "--wait"])).map(drop)
    }

    fn command(&self, namespace: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--namespace", namespace, "--kubeconfig"])
            .arg(&self.kubeconfig)
            // What helm keeps of its own goes with the cluster.
            .env("HELM_CACHE_HOME", self.folder.join("helm/cache"))
            .env("HELM_CONFIG_HOME", self.folder.join("helm/config"))
            .env("HELM_DATA_HOME", self.folder.join("helm/data"));
        command
    }
}
