//! The files that tell containerd, the kubelet, the proxy and the network plugin what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    certificates::Pair,
    images,
    node::{NODE_NAME, POD_NETWORK},
    place::Place,
    programs::Programs,
    registry,
};

/// As the node sees it.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const NRI_SOCKET: &str = "/run/nri/nri.sock";

/// The files, one a program.
pub(super) struct Configuration {
    pub(super) containerd: PathBuf,
    pub(super) kubelet: PathBuf,
    pub(super) proxy: PathBuf,
}

impl Configuration {
    /// # Errors
    ///
    /// Where a file cannot be written.
    pub(super) fn write(place: &Place, programs: &Programs) -> Result<Self> {
        let networks = place.configuration("cni");
        write(&networks.join("10-bridge.conflist"), &network())?;
        write(&place.configuration("resolv.conf"), "")?;
        let configuration = Self {
            containerd: place.configuration("containerd.toml"),
            kubelet: place.configuration("kubelet.json"),
            proxy: place.configuration("proxy.json"),
        };
        let registries = place.configuration("registries");
        registry::write_hosts(place, &registries)?;
        write(&configuration.containerd, &containerd(programs, &networks, &registries))?;
        write(&configuration.kubelet, &kubelet(place)?)?;
        write(&configuration.proxy, &proxy(place))?;
        Ok(configuration)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Its folders are the usual ones, which are the node's own. The kernel lets no container of ours have a lower OOM score than
/// we have where CAP_SYS_RESOURCE is missing.
fn containerd(programs: &Programs, networks: &Path, registries: &Path) -> String {
    format!(
        r#"version = 3
[grpc]
address = {CONTAINERD_SOCKET:?}
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {pause:?}
[plugins."io.containerd.cri.v1.images".registry]
config_path = {registries:?}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{cni:?}]
conf_dir = {networks:?}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc:?}
SystemdCgroup = false
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = {NRI_SOCKET:?}
plugin_path = "/var/lib/nri/plugins"
plugin_config_path = "/var/lib/nri/conf.d"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
"#,
        pause = images::PAUSE,
        cni = programs.cni,
        runc = programs.runc,
    )
}

fn network() -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "lattice",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/var/lib/cni",
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn kubelet(place: &Place) -> Result<String> {
    let server = Pair::of(place, "kubelet-server");
    let groups = place.control_groups()?;
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Hybrid hosts are what many of us develop on.
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", groups.name()),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": Pair::of(place, "ca").certificate},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": server.certificate,
        "tlsPrivateKeyFile": server.key,
        "address": "0.0.0.0",
        "clusterDomain": "cluster.local",
        "resolvConf": place.configuration("resolv.conf"),
        "failSwapOn": false,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        // A developer's disk may be fuller than a node's.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi",
            "nodefs.inodesFree": "1%", "imagefs.inodesFree": "1%",
        },
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    })
    .to_string())
}

fn proxy(place: &Place) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": place.configuration("proxy.kubeconfig")},
        // The machine's own settings stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    })
    .to_string()
}
