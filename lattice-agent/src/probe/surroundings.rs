//! What is around the kernel: cgroups, the container runtime, NRI.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use lattice_api::{node_report::FindingResult, v1::Finding};

use super::{finding, offered, unknown};
use crate::{
    containers::{
        cgroup_tree::{CgroupError, CgroupTree},
        containerd::count_namespaces,
    },
    error_chain::ErrorChain,
};

/// Where distributions put containerd's socket.
const CONTAINERD_SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"];
/// Runtimes that Lattice does not read containers from.
const OTHER_RUNTIMES: [(&str, &str); 2] = [("CRI-O", "/run/crio/crio.sock"), ("Docker", "/run/docker.sock")];
const NRI_SOCKET: &str = "/run/nri/nri.sock";

/// The hierarchy, where there is one that Lattice can use.
pub(super) fn cgroups() -> (Finding, Option<CgroupTree>) {
    match CgroupTree::find() {
        Ok(tree) => {
            let place = tree.mount().display().to_string();
            let kind = match tree.mount() == Path::new("/sys/fs/cgroup") {
                true => "cgroup v2",
                false => "cgroup v2 beside v1",
            };
            (offered("cgroups", format!("{kind}, mounted at {place}")), Some(tree))
        }
        Err(error) => (cgroups_refused(&error), None),
    }
}

fn cgroups_refused(error: &CgroupError) -> Finding {
    let text = ErrorChain(error).to_string();
    // The error says both: what is wrong, and, after the colon, what to do.
    let (found, advice) = text.split_once(": ").unwrap_or((&text, ""));
    Finding {
        consequence: "the kernel cannot tell containers apart, so nothing can be enforced".into(),
        advice: advice.into(),
        ..finding("cgroups", FindingResult::Missing, found)
    }
}

pub(super) fn runtime(named: Option<&Path>) -> Finding {
    let places: Vec<PathBuf> = match named {
        Some(socket) => vec![socket.into()],
        None => CONTAINERD_SOCKETS.iter().map(PathBuf::from).collect(),
    };
    let mut problem = String::new();
    for socket in places.iter().filter(|socket| socket.exists() || named.is_some()) {
        match count_namespaces(socket) {
            Ok(namespaces) => {
                let found = format!(
                    "containerd answers at {}, with {namespaces} namespaces",
                    socket.display()
                );
                return offered("runtime", found);
            }
            Err(error) => problem = error,
        }
    }
    if !problem.is_empty() {
        return unknown("runtime", problem, "");
    }
    let other = OTHER_RUNTIMES
        .iter()
        .find(|(_, socket)| UnixStream::connect(socket).is_ok());
    let found = match other {
        Some((name, socket)) => format!("{name} answers at {socket}, and no containerd"),
        None => "no containerd at any of its usual places".into(),
    };
    Finding {
        consequence: "containers have to be named by --cgroup".into(),
        advice: "name containerd's socket with --containerd, if it is elsewhere".into(),
        ..finding("runtime", FindingResult::Missing, found)
    }
}

pub(super) fn nri() -> Finding {
    match UnixStream::connect(NRI_SOCKET) {
        Ok(_) => offered("nri", format!("a runtime answers at {NRI_SOCKET}")),
        Err(error) => Finding {
            consequence: "a container is known when its cgroup appears, and before that the kernel's verdict for unknown cgroups holds \
                          (--managed-root, --unknown)"
                .into(),
            ..finding("nri", FindingResult::Missing, format!("nobody answers at {NRI_SOCKET}: {error}"))
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pure_cgroup_v1_is_refused_with_the_reason_and_what_to_do() {
        let finding = cgroups_refused(&CgroupError::NoUnifiedHierarchy);
        assert_eq!(finding.result, "missing");
        assert!(
            finding
                .found
                .contains("with cgroup v1 alone the kernel cannot tell containers apart")
        );
        assert!(
            finding.advice.contains("systemd.unified_cgroup_hierarchy=1"),
            "{finding:?}"
        );
    }

    #[test]
    fn a_socket_where_nobody_answers_is_not_known_to_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let finding = runtime(Some(&folder.path().join("none.sock")));
        assert_eq!(finding.result, "unknown");
        assert!(finding.found.contains("none.sock"), "{finding:?}");
    }
}
