//! Which modules there are.

use super::GoModule;

/// Snapshotters that need libraries or devices are left out.
pub(crate) const CONTAINERD: GoModule = GoModule {
    name: "containerd",
    module: "github.com/containerd/containerd/v2",
    programs: &[
        ("containerd", "cmd/containerd"),
        ("containerd-shim-runc-v2", "cmd/containerd-shim-runc-v2"),
        ("ctr", "cmd/ctr"),
    ],
    tags: "no_btrfs no_devmapper no_zfs no_aufs",
    variables: &[("github.com/containerd/containerd/v2/version.Version", "{version}")],
    cgo: false,
};

pub(crate) const COSIGN: GoModule = GoModule {
    name: "cosign",
    module: "github.com/sigstore/cosign/v3",
    programs: &[("cosign", "cmd/cosign")],
    tags: "",
    variables: &[],
    cgo: false,
};

pub(crate) const ETCD: GoModule = GoModule {
    name: "etcd",
    module: "go.etcd.io/etcd/server/v3",
    programs: &[("etcd", "")],
    tags: "",
    variables: &[],
    cgo: false,
};

/// With seccomp, which wants libseccomp's headers.
pub(crate) const RUNC: GoModule = GoModule {
    name: "runc",
    module: "github.com/opencontainers/runc",
    programs: &[("runc", "")],
    tags: "seccomp",
    variables: &[],
    cgo: true,
};

pub(crate) const CNI: GoModule = GoModule {
    name: "cni",
    module: "github.com/containernetworking/plugins",
    programs: &[
        ("bridge", "plugins/main/bridge"),
        ("loopback", "plugins/main/loopback"),
        ("host-local", "plugins/ipam/host-local"),
        ("portmap", "plugins/meta/portmap"),
    ],
    tags: "",
    variables: &[],
    cgo: false,
};

/// Its libraries are modules of their own at the version 0.x that belongs to 1.x; go.mod replaces them one by one.
pub(crate) const KUBERNETES: GoModule = GoModule {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    programs: &[
        ("kubectl", "cmd/kubectl"),
        ("kube-apiserver", "cmd/kube-apiserver"),
        ("kube-controller-manager", "cmd/kube-controller-manager"),
        ("kube-scheduler", "cmd/kube-scheduler"),
        ("kubelet", "cmd/kubelet"),
        ("kube-proxy", "cmd/kube-proxy"),
    ],
    tags: "",
    variables: &[
        ("k8s.io/component-base/version.gitVersion", "{version}"),
        ("k8s.io/component-base/version.gitMajor", "{major}"),
        ("k8s.io/component-base/version.gitMinor", "{minor}"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/component-base/version.gitCommit", "module"),
    ],
    cgo: false,
};

/// Installs the chart in tests.
pub(crate) const HELM: GoModule = GoModule {
    name: "helm",
    module: "helm.sh/helm/v4",
    programs: &[("helm", "cmd/helm")],
    tags: "",
    variables: &[("helm.sh/helm/v4/internal/version.version", "{version}")],
    cgo: false,
};

/// What a node of Kubernetes is made of.
pub(crate) const CLUSTER: &[GoModule] = &[ETCD, RUNC, CNI, CONTAINERD, KUBERNETES];

#[cfg(test)]
pub(super) const ALL: &[GoModule] = &[CONTAINERD, COSIGN, ETCD, RUNC, CNI, KUBERNETES, HELM];
