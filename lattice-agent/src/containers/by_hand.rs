//! A container named on the command line: `--cgroup PATH=NAMESPACE/WORKLOAD/CONTAINER[,root=DIR][,image=DIGEST][,pod=NAME]`.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use lattice_policy::{ImageDigest, InvalidDigest};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{
    ContainerInfo,
    cgroup_tree::{CgroupTree, cgroup_id},
};
use crate::inodes::mounts::Mounts;

const NAME_BYTES: usize = 253;

/// What is wrong with the value of `--cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByHandError {
    /// Not of the form.
    #[error(
        "--cgroup {value:?} is not PATH=NAMESPACE/WORKLOAD/CONTAINER[,root=DIR][,image=sha256:…][,pod=NAME]; for example /sys/fs/cgroup/shop=payments/shop/server"
    )]
    Form {
        /// The value.
        value: String,
    },
    /// The path is not absolute.
    #[error("--cgroup {value:?}: the path must be absolute and below the cgroup2 mount, like /sys/fs/cgroup/shop")]
    Relative {
        /// The value.
        value: String,
    },
    /// A name that nothing can have.
    #[error("--cgroup {value:?}: {name:?} is no name: use 1 to 253 letters, digits, '-', '_' and '.'")]
    Name {
        /// The value.
        value: String,
        /// The part that is wrong.
        name: String,
    },
    /// The image's digest is none.
    #[error("--cgroup {value:?}: image: {problem}")]
    Image {
        /// The value.
        value: String,
        /// What is wrong.
        problem: InvalidDigest,
    },
    /// The folder is not there.
    #[error("--cgroup: there is no folder {}: create the cgroup first (mkdir), then start the agent", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The root is no mount.
    #[error(
        "--cgroup: nothing is mounted at root={}: name the folder where the container's root file system is mounted, or leave root away",
        path.display()
    )]
    NoRoot {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is no cgroup, or the root of all.
    #[error("--cgroup: {} is no cgroup below the cgroup2 mount {}", path.display(), mount.display())]
    NoCgroup {
        /// The path.
        path: PathBuf,
        /// Where cgroups are.
        mount: PathBuf,
    },
}

/// A cgroup, and whose it is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    path: PathBuf,
    namespace: String,
    workload: String,
    container: String,
    root: Option<PathBuf>,
    image: Option<ImageDigest>,
    /// Whose cgroup is the one above; empty outside pods.
    pod: String,
}

impl FromStr for ByHand {
    type Err = ByHandError;

    /// # Errors
    /// When the value is not `PATH=NAMESPACE/WORKLOAD/CONTAINER[,root=DIR][,image=DIGEST][,pod=NAME]` with absolute paths and
    /// proper names.
    fn from_str(value: &str) -> Result<Self, ByHandError> {
        let value_shown: String = value.chars().take(512).collect();
        let form = || ByHandError::Form {
            value: value_shown.clone(),
        };
        let (value, pod) = value
            .rsplit_once(",pod=")
            .map_or((value, None), |(value, pod)| (value, Some(pod)));
        let (value, image) = match value.rsplit_once(",image=") {
            Some((value, image)) => {
                let image: Result<ImageDigest, _> = image.parse();
                let wrong = |problem| ByHandError::Image {
                    value: value_shown.clone(),
                    problem,
                };
                (value, Some(image.map_err(wrong)?))
            }
            None => (value, None),
        };
        let (value, root) = match value.rsplit_once(",root=") {
            Some((value, root)) => (value, Some(PathBuf::from(root))),
            None => (value, None),
        };
        if root.as_ref().is_some_and(|root| !root.is_absolute()) {
            return Err(ByHandError::Relative { value: value_shown });
        }
        // Names have no '='; folders may.
        let (path, identity) = value.rsplit_once('=').ok_or_else(form)?;
        let mut names = identity.split('/');
        let (Some(namespace), Some(workload), Some(container), None) =
            (names.next(), names.next(), names.next(), names.next())
        else {
            return Err(form());
        };
        for name in [namespace, workload, container].into_iter().chain(pod) {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(plain) {
                return Err(ByHandError::Name {
                    value: value_shown,
                    name: name.chars().take(80).collect(),
                });
            }
        }
        if !path.starts_with('/') {
            return Err(ByHandError::Relative { value: value_shown });
        }
        Ok(Self {
            path: path.into(),
            namespace: namespace.into(),
            workload: workload.into(),
            container: container.into(),
            root,
            image,
            pod: pod.unwrap_or_default().into(),
        })
    }
}

impl ByHand {
    /// Looks the folder up.
    ///
    /// # Errors
    /// When the folder is not there, or is no cgroup below the hierarchy's root.
    pub fn resolve(&self, tree: &CgroupTree) -> Result<ContainerInfo, ByHandError> {
        let missing = || ByHandError::Missing {
            path: self.path.clone(),
        };
        let no_cgroup = || ByHandError::NoCgroup {
            path: self.path.clone(),
            mount: tree.mount().into(),
        };
        let folder = self.path.canonicalize().map_err(|_| missing())?;
        let mount = tree.mount().canonicalize().unwrap_or_else(|_| tree.mount().into());
        let below = folder
            .strip_prefix(&mount)
            .ok()
            .filter(|below| *below != Path::new(""))
            .ok_or_else(no_cgroup)?;
        if statfs(&folder).map_err(|_| missing())?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(no_cgroup());
        }
        let root_device = match &self.root {
            None => 0,
            Some(root) => mounted_at(root).ok_or_else(|| ByHandError::NoRoot { path: root.clone() })?,
        };
        Ok(ContainerInfo {
            container_id: below.to_string_lossy().into_owned(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            workload: self.workload.clone(),
            name: self.container.clone(),
            service_account: String::new(),
            image_reference: String::new(),
            image_digest: self.image,
            cgroup_id: cgroup_id(&folder).ok_or_else(no_cgroup)?,
            has_own_root: self.root.is_some(),
            is_running: super::cgroup_tree::is_populated(&folder),
            cgroup_path: folder,
            pod_cgroup_id: None,
            root_device,
            pid: None,
        })
    }
}

/// Device of what is mounted at a folder; `None` where nothing is.
fn mounted_at(folder: &Path) -> Option<u32> {
    let folder = folder.canonicalize().ok()?;
    let mounts = Mounts::of("self").ok()?;
    mounts
        .of_path(&folder)
        .filter(|mount| mount.mount_point == folder)
        .map(|mount| mount.device)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(value: &str, expected: &str) {
        let found = match value.parse::<ByHand>() {
            Ok(by_hand) => {
                let ByHand {
                    path,
                    namespace,
                    workload,
                    container,
                    root,
                    image,
                    pod,
                } = by_hand;
                let root = root.map_or(String::new(), |root| format!(" at {}", root.display()));
                let image = image.map_or(String::new(), |image| format!(" of {image}"));
                let pod = if pod.is_empty() { pod } else { format!(" in {pod}") };
                format!(
                    "{} {namespace} {workload} {container}{root}{image}{pod}",
                    path.display()
                )
            }
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{found}");
    }

    #[test]
    fn reads_the_form_and_nothing_else() {
        check(
            "/sys/fs/cgroup/shop=payments/shop/server",
            "/sys/fs/cgroup/shop payments shop server",
        );
        check("/a=b/c=n/w/c", "/a=b/c n w c");
        check("/a=n/w/c,root=/run/c/rootfs", "/a n w c at /run/c/rootfs");
        let image = format!("sha256:{:064x}", 7);
        check(&format!("/a=n/w/c,image={image}"), &format!("/a n w c of {image}"));
        let both = format!("/a=n/w/c,root=/run/c,image={image}");
        check(&both, &format!("/a n w c at /run/c of {image}"));
        check("/a=n/w/c,pod=web-0", "/a n w c in web-0");
        let all = format!("{both},pod=web-0");
        check(&all, &format!("/a n w c at /run/c of {image} in web-0"));
        check("/a=n/w/c,pod=", "\"\" is no name");
        check("/a=n/w/c,image=latest", "image: digest \"latest\" does not begin with");
        check("/a=n/w/c,root=rootfs", "the path must be absolute");
        check("/a=n/w/c,rot=/x", "is not PATH=");
        check("/sys/fs/cgroup/shop", "is not PATH=NAMESPACE/WORKLOAD/CONTAINER");
        check("/a=n/w", "is not PATH=");
        check("/a=n/w/c/d", "is not PATH=");
        check("a=n/w/c", "the path must be absolute");
        check("=n/w/c", "the path must be absolute");
        check("/a=n//c", "\"\" is no name");
        check("/a=n/w w/c", "\"w w\" is no name");
        check(&format!("/a=n/{}/c", "x".repeat(254)), "is no name");
    }

    #[test]
    fn resolves_only_cgroups() {
        let tree = match CgroupTree::find() {
            Ok(tree) => tree,
            Err(error) => return println!("skipped: resolves_only_cgroups: {error}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let resolve = |path: &Path| {
            let value = format!("{}=n/w/c", path.display());
            value.parse::<ByHand>().unwrap().resolve(&tree)
        };
        assert!(matches!(resolve(folder.path()), Err(ByHandError::NoCgroup { .. })));
        assert!(matches!(resolve(tree.mount()), Err(ByHandError::NoCgroup { .. })));
        assert!(matches!(
            resolve(&folder.path().join("none")),
            Err(ByHandError::Missing { .. })
        ));
        let cgroup = tree.mount().join(format!("lattice-by-hand-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&cgroup) {
            return println!(
                "skipped: resolves_only_cgroups (a real one): {}: {error}",
                cgroup.display()
            );
        }
        let resolved = resolve(&cgroup);
        std::fs::remove_dir(&cgroup).unwrap();
        let resolved = resolved.unwrap();
        assert_eq!(resolved.cgroup_path, cgroup.canonicalize().unwrap_or(cgroup));
        assert_ne!(resolved.cgroup_id, 0);
        assert_eq!((resolved.namespace.as_str(), resolved.name.as_str()), ("n", "c"));
    }

    proptest! {
        #[test]
        fn foreign_values_never_panic(value in "\\PC{0,80}") {
            let _ = value.parse::<ByHand>();
        }
    }
}
