//! The programs of a cluster: built from Go modules, and a few of Debian's.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Error, Result, bail};

use super::{place::Place, say};
use crate::{
    go_modules::{CLUSTER, CNI, CONTAINERD, ETCD, GoModule, KUBERNETES, RUNC},
    setup::packages,
};

/// Where the programs are.
pub(super) struct Programs {
    pub(super) etcd: PathBuf,
    pub(super) runc: PathBuf,
    /// Folder of the network plugins.
    pub(super) cni: PathBuf,
    containerd: PathBuf,
    kubernetes: PathBuf,
}

impl Programs {
    /// Builds and installs what is missing.
    ///
    /// # Errors
    ///
    /// Where something cannot be had.
    pub(super) fn ensure() -> Result<Self> {
        packages::ensure_for_cluster()?;
        let missing: Vec<&str> = CLUSTER
            .iter()
            .filter(|module| !module.is_built())
            .map(|module| module.name)
            .collect();
        if !missing.is_empty() {
            say(&format!(
                "to build, once: {} (a quarter of an hour on two processors, if all is missing)",
                missing.join(", ")
            ));
        }
        CLUSTER.iter().try_for_each(|module| module.ensure().map(drop))?;
        Self::find()
    }

    fn find() -> Result<Self> {
        Ok(Self {
            etcd: ETCD.folder()?.join("etcd"),
            runc: RUNC.folder()?.join("runc"),
            cni: CNI.folder()?,
            containerd: CONTAINERD.folder()?,
            kubernetes: KUBERNETES.folder()?,
        })
    }

    pub(super) fn containerd(&self, name: &str) -> PathBuf {
        self.containerd.join(name)
    }

    pub(super) fn kubernetes(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }
}

/// kubectl against a cluster, as a command to add to.
///
/// # Errors
///
/// Where the cluster is not up.
pub(super) fn kubectl(place: &Place) -> Result<Command> {
    let kubeconfig = place.kubeconfig();
    if !kubeconfig.exists() {
        bail!("cluster {0} is not up: cargo xtask cluster up --name {0}", place.name);
    }
    let mut command = Command::new(KUBERNETES.folder()?.join("kubectl"));
    command.arg("--kubeconfig").arg(kubeconfig);
    Ok(command)
}

/// Becomes kubectl.
///
/// # Errors
///
/// Returns only where it fails.
pub(super) fn become_kubectl(place: &Place, arguments: &[OsString]) -> Result<Error> {
    let mut command = kubectl(place)?;
    Ok(Error::from(command.args(arguments).exec()).context("cannot run kubectl"))
}

/// PATH with the programs of a cluster before all others.
///
/// # Errors
///
/// Where the pins cannot be read.
pub(super) fn path() -> Result<OsString> {
    let own = CLUSTER.iter().map(GoModule::folder).collect::<Result<Vec<_>>>()?;
    let inherited = env::var_os("PATH").unwrap_or_default();
    let folders = own
        .into_iter()
        .chain(env::split_paths(&inherited))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    env::join_paths(folders).context("a folder of PATH has a colon in its name")
}

/// What each module's version is, and whether it is built.
///
/// # Errors
///
/// Where the pins cannot be read.
pub(super) fn versions() -> Result<Vec<(&'static str, String, bool)>> {
    CLUSTER
        .iter()
        .map(|module| Ok((module.name, module.version()?, module.is_built())))
        .collect()
}

/// A program of a folder of the PATH that [`path`] makes.
pub(super) fn find(name: &Path) -> Result<PathBuf> {
    if name.components().count() > 1 {
        return Ok(name.to_owned());
    }
    let folders = path()?;
    Ok(env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| name.to_owned()))
}
