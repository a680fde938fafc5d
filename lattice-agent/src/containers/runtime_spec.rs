//! What of a container's OCI runtime specification says where its cgroup will be, and which hooks run in it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{cgroup_tree::CgroupTree, identity::CRI_KIND_ANNOTATION};

const SPEC_BYTES: usize = 8 << 20;
/// More hooks than any bundle has; the rest is judged as the container's programs.
const HOOKS: usize = 16;

/// The part of the specification that is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RuntimeSpec {
    #[serde(default)]
    linux: Option<Linux>,
    #[serde(default)]
    hooks: Option<Hooks>,
    /// Annotations, set by whoever made the container.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Linux {
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Hooks {
    #[serde(default, rename = "createContainer")]
    create_container: Vec<Hook>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Hook {
    path: PathBuf,
}

/// Why a specification could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Larger than any that a runtime would take.
    #[error("the runtime specification has {0} bytes, more than 8 MiB")]
    Size(usize),
    /// No JSON of the form.
    #[error("the runtime specification is not what the OCI says")]
    Form(#[from] serde_json::Error),
}

impl RuntimeSpec {
    /// Reads the JSON document.
    ///
    /// # Errors
    /// When it is larger than 8 MiB or not of the form.
    pub fn read(json: &[u8]) -> Result<Self, SpecError> {
        if json.len() > SPEC_BYTES {
            return Err(SpecError::Size(json.len()));
        }
        Ok(serde_json::from_slice(json)?)
    }

    /// Whether containerd's CRI plugin made it, for a kubelet.
    pub fn is_from_kubelet(&self) -> bool {
        self.annotations.contains_key(CRI_KIND_ANNOTATION)
    }

    /// The programs of the hooks that run in the container's cgroup and not in its root: they are the runtime's, not the container's.
    /// Of the six kinds of hooks only `createContainer` does both (OCI runtime specification, config.md, "POSIX-platform Hooks").
    pub fn hook_programs(&self) -> Vec<PathBuf> {
        let hooks = self.hooks.iter().flat_map(|hooks| &hooks.create_container);
        hooks
            .map(|hook| hook.path.clone())
            .filter(|path| path.is_absolute())
            .take(HOOKS)
            .collect()
    }

    /// Where runc will put the container, or `None` where the specification alone does not say: without a path, or with one
    /// relative to the cgroup of the runtime.
    ///
    /// `/a/b` is below the hierarchy's root (runc: libcontainer/cgroups/fs2/defaultpath.go); `a-b.slice:prefix:name` is
    /// systemd's `/a.slice/a-b.slice/prefix-name.scope` (libcontainer/cgroups/systemd/common.go).
    pub fn cgroup_folder(&self, tree: &CgroupTree) -> Option<PathBuf> {
        let path = self.linux.as_ref()?.cgroups_path.as_str();
        if path.starts_with('/') {
            let folder = tree.folder(path)?;
            return (folder != tree.mount()).then_some(folder);
        }
        let mut parts = path.split(':');
        let (Some(slice), Some(prefix), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let unit = match name {
            "" => return None,
            name if name.ends_with(".slice") => name.to_owned(),
            name if prefix.is_empty() => format!("{name}.scope"),
            name => format!("{prefix}-{name}.scope"),
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        tree.folder(&format!("{}/{unit}", expand_slice(slice)?))
    }
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)); `-.slice` is the root.
fn expand_slice(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/'))?;
    if name == "-" {
        return Some(String::new());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    // Nested deeper than the kernel's own limit is nonsense, and this string grows with its square.
    (path.len() <= 4096 && Path::new(&path).components().count() <= 64).then_some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(cgroups_path: &str, expected: Option<&str>) {
        let json = serde_json::json!({"ociVersion": "1.0.2", "linux": {"cgroupsPath": cgroups_path, "devices": []}});
        let spec = RuntimeSpec::read(json.to_string().as_bytes()).unwrap();
        assert_eq!(
            spec.cgroup_folder(&CgroupTree::at("/cg")),
            expected.map(PathBuf::from),
            "{cgroups_path}"
        );
    }

    #[test]
    fn folders_are_where_runc_puts_them() {
        check("/default/c0ffee", Some("/cg/default/c0ffee"));
        check(
            "/kubepods/burstable/pod1/c0ffee",
            Some("/cg/kubepods/burstable/pod1/c0ffee"),
        );
        check(
            "kubepods-burstable-pod1.slice:cri-containerd:c0ffee",
            Some(
                "/cg/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c0ffee.scope",
            ),
        );
        check(":runc:c0ffee", Some("/cg/system.slice/runc-c0ffee.scope"));
        check("-.slice:runc:c0ffee", Some("/cg/runc-c0ffee.scope"));
        check("system.slice::c0ffee", Some("/cg/system.slice/c0ffee.scope"));
    }

    #[test]
    fn only_hooks_in_the_containers_cgroup_count() {
        let hook = |path: &str| serde_json::json!({"path": path, "args": ["hook"], "timeout": 3});
        let json = serde_json::json!({"hooks": {
            "createRuntime": [hook("/outside")],
            "createContainer": [hook("/usr/bin/first"), hook("relative"), hook("/second")],
            "startContainer": [hook("/inside")],
        }});
        let spec = RuntimeSpec::read(json.to_string().as_bytes()).unwrap();
        assert_eq!(
            spec.hook_programs(),
            [Path::new("/usr/bin/first"), Path::new("/second")]
        );
        let many = serde_json::json!({"hooks": {"createContainer": vec![hook("/many"); 1000]}});
        assert_eq!(
            RuntimeSpec::read(many.to_string().as_bytes())
                .unwrap()
                .hook_programs()
                .len(),
            HOOKS
        );
        assert!(
            RuntimeSpec::read(b"{\"hooks\": null}")
                .unwrap()
                .hook_programs()
                .is_empty()
        );
    }

    #[test]
    fn what_does_not_say_where_is_not_guessed() {
        for path in [
            "",
            "relative/path",
            "/",
            "/a/../../b",
            "a:b",
            "a:b:c:d",
            "a--b.slice:p:n",
            "../x.slice:p:n",
            ":p:",
        ] {
            check(path, None);
        }
        assert!(RuntimeSpec::read(b"7").is_err());
        assert!(RuntimeSpec::read(&vec![b' '; SPEC_BYTES + 1]).is_err());
        assert_eq!(
            RuntimeSpec::read(b"{}").unwrap().cgroup_folder(&CgroupTree::at("/cg")),
            None
        );
    }

    proptest! {
        #[test]
        fn a_folder_is_always_below_the_mount(path in "[a-z./:-]{0,40}") {
            let spec = RuntimeSpec { linux: Some(Linux { cgroups_path: path }), ..RuntimeSpec::default() };
            if let Some(folder) = spec.cgroup_folder(&CgroupTree::at("/cg")) {
                prop_assert!(folder.starts_with("/cg") && folder != Path::new("/cg"));
                prop_assert!(!folder.components().any(|component| component.as_os_str() == ".."));
            }
        }
    }
}
