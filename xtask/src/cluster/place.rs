//! Where a cluster keeps everything: one folder below target, and control groups of one name.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::control_groups::ControlGroups;
use crate::workspace;

/// Folders of the machine in whose place the node has its own, so that nothing outside may be needed from below them.
const HIDDEN: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// One cluster's folders, whether it runs or not.
pub(super) struct Place {
    pub(super) name: String,
    folder: PathBuf,
}

impl Place {
    /// # Errors
    ///
    /// Where the name cannot be a folder's, or the checkout lies where a node has folders of its own.
    pub(super) fn named(name: &str) -> Result<Self> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 32 || name.starts_with('-') || !name.bytes().all(is_plain) {
            bail!("{name:?} is no name for a cluster: up to 32 small letters, digits and `-`");
        }
        let folder = all().join(name);
        for outside in [&folder, &workspace::user_cache()?, &workspace::root()] {
            if let Some(hidden) = HIDDEN.iter().find(|hidden| outside.starts_with(hidden)) {
                bail!(
                    "{} lies below {hidden}, of which a node has one of its own: move the checkout, or set \
                     CARGO_TARGET_DIR and XDG_CACHE_HOME to folders elsewhere",
                    outside.display()
                );
            }
        }
        Ok(Self {
            name: name.to_owned(),
            folder,
        })
    }

    /// Every cluster that was ever made here and has not been forgotten.
    pub(super) fn every() -> Vec<Self> {
        let mut names: Vec<String> = fs::read_dir(all())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.iter().filter_map(|name| Self::named(name).ok()).collect()
    }

    /// Held while a cluster is being brought up or down.
    ///
    /// # Errors
    ///
    /// Where another process holds it.
    pub(super) fn lock(&self) -> Result<File> {
        create(&self.folder)?;
        let path = self.folder.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "another process brings cluster {} up or down ({} is locked)",
                self.name,
                path.display()
            );
        }
        Ok(lock)
    }

    /// All that `down` removes.
    pub(super) fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What the node has at an absolute path that is its own, as the machine sees it.
    pub(super) fn on_node(&self, path: &str) -> PathBuf {
        self.run().join("node").join(path.trim_start_matches('/'))
    }

    pub(super) fn keys(&self) -> PathBuf {
        self.run().join("keys")
    }

    pub(super) fn configuration(&self, name: &str) -> PathBuf {
        self.run().join("configuration").join(name)
    }

    pub(super) fn process_files(&self) -> PathBuf {
        self.run().join("processes")
    }

    /// Whoever has this file may do everything.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.run().join("admin.kubeconfig")
    }

    /// Written by the holder when the namespaces are as they should be.
    pub(super) fn node_is_ready(&self) -> PathBuf {
        self.run().join("node-is-ready")
    }

    pub(super) fn port_file(&self) -> PathBuf {
        self.run().join("port")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Two checkouts on one machine must not share a control group.
    pub(super) fn control_groups(&self) -> Result<ControlGroups> {
        let short = hex::encode(&Sha256::digest(self.folder.as_os_str().as_encoded_bytes())[..4]);
        ControlGroups::find(&format!("lattice-cluster-{short}"))
    }

    /// Makes the folders of a cluster that is about to start.
    ///
    /// # Errors
    ///
    /// Where one cannot be made.
    pub(super) fn prepare(&self) -> Result<()> {
        let configuration = self.configuration("cni");
        for folder in [&self.keys(), &configuration, &self.process_files(), &self.logs()] {
            create(folder)?;
        }
        for folder in HIDDEN.iter().skip(1) {
            create(&self.on_node(folder))?;
        }
        Ok(())
    }
}

/// The folder of all clusters of this checkout.
fn all() -> PathBuf {
    workspace::target().join("cluster")
}

pub(super) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, is_name: bool) {
        assert_eq!(Place::named(name).is_ok(), is_name, "{name:?}");
    }

    #[test]
    fn a_name_is_a_folder_below_target_and_never_a_way_out_of_it() {
        check("default", true);
        check("two-2", true);
        check("", false);
        check("../../etc", false);
        check(".", false);
        check("-name", false);
        check("a/b", false);
    }

    #[test]
    fn two_clusters_have_nothing_in_common() {
        let (one, two) = (Place::named("one").unwrap(), Place::named("two").unwrap());
        assert_ne!(one.run(), two.run());
        assert!(!one.run().starts_with(two.run()) && !two.run().starts_with(one.run()));
        assert_ne!(
            one.control_groups().unwrap().name(),
            two.control_groups().unwrap().name()
        );
    }
}
