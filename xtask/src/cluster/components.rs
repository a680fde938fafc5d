//! The command line of each program of a node.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{
    certificates::{Pair, token_keys},
    configuration::Configuration,
    node::{NODE_ADDRESS, NODE_NAME, SERVICE_NETWORK},
    place::Place,
    programs::Programs,
};

/// In the order in which they end: first who would start anything anew.
pub(super) const NAMES: [&str; 9] = [
    "kubelet",
    "kube-proxy",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-apiserver",
    "containerd",
    "etcd",
    "relay",
    "holder",
];

const ETCD_URL: &str = "http://127.0.0.1:2379";

fn flag(command: &mut Command, name: &str, value: impl AsRef<Path>) {
    command.arg(format!("--{name}={}", value.as_ref().display()));
}

/// Without waiting for the disk: nobody needs a test's cluster after the machine lost its power.
pub(super) fn etcd(programs: &Programs) -> Command {
    let mut command = Command::new(&programs.etcd);
    command.args(["--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn"]);
    flag(&mut command, "listen-client-urls", ETCD_URL);
    flag(&mut command, "advertise-client-urls", ETCD_URL);
    flag(&mut command, "listen-peer-urls", "http://127.0.0.1:2380");
    command
}

pub(super) fn containerd(programs: &Programs, configuration: &Configuration) -> Command {
    let mut command = Command::new(programs.containerd("containerd"));
    flag(&mut command, "config", &configuration.containerd);
    command
}

pub(super) fn api_server(programs: &Programs, place: &Place) -> Command {
    let mut command = Command::new(programs.kubernetes("kube-apiserver"));
    let (server, client) = (Pair::of(place, "apiserver"), Pair::of(place, "apiserver-to-kubelet"));
    let authority = Pair::of(place, "ca").certificate;
    let (private, public) = token_keys(place);
    command.args([
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--cert-dir=/var/lib/kube-apiserver",
    ]);
    for (name, value) in [
        ("etcd-servers", Path::new(ETCD_URL)),
        ("advertise-address", Path::new(NODE_ADDRESS)),
        ("service-cluster-ip-range", Path::new(SERVICE_NETWORK)),
        ("client-ca-file", &authority),
        ("tls-cert-file", &server.certificate),
        ("tls-private-key-file", &server.key),
        ("kubelet-client-certificate", &client.certificate),
        ("kubelet-client-key", &client.key),
        ("kubelet-certificate-authority", &authority),
        ("service-account-key-file", &public),
        ("service-account-signing-key-file", &private),
    ] {
        flag(&mut command, name, value);
    }
    command
}

pub(super) fn controller_manager(programs: &Programs, place: &Place) -> Command {
    let mut command = Command::new(programs.kubernetes("kube-controller-manager"));
    let authority = Pair::of(place, "ca");
    client_of_api_server(&mut command, place, "controller-manager");
    command.args([
        "--use-service-account-credentials=true",
        "--cert-dir=/var/lib/kube-controller-manager",
    ]);
    flag(&mut command, "root-ca-file", &authority.certificate);
    flag(&mut command, "cluster-signing-cert-file", &authority.certificate);
    flag(&mut command, "cluster-signing-key-file", &authority.key);
    flag(&mut command, "service-account-private-key-file", token_keys(place).0);
    command
}

pub(super) fn scheduler(programs: &Programs, place: &Place) -> Command {
    let mut command = Command::new(programs.kubernetes("kube-scheduler"));
    client_of_api_server(&mut command, place, "scheduler");
    command.arg("--cert-dir=/var/lib/kube-scheduler");
    command
}

/// There is one of each, so nobody needs to be elected.
fn client_of_api_server(command: &mut Command, place: &Place, holder: &str) {
    let kubeconfig = place.configuration(&format!("{holder}.kubeconfig"));
    for name in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        flag(command, name, &kubeconfig);
    }
    command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
}

pub(super) fn kubelet(programs: &Programs, place: &Place, configuration: &Configuration) -> Command {
    let mut command = Command::new(programs.kubernetes("kubelet"));
    flag(&mut command, "config", &configuration.kubelet);
    flag(&mut command, "kubeconfig", place.configuration("kubelet.kubeconfig"));
    flag(&mut command, "hostname-override", NODE_NAME);
    flag(&mut command, "node-ip", NODE_ADDRESS);
    command.args([
        "--root-dir=/var/lib/kubelet",
        "--cert-dir=/var/lib/kubelet/pki",
        "--v=2",
    ]);
    command
}

pub(super) fn proxy(programs: &Programs, configuration: &Configuration) -> Command {
    let mut command = Command::new(programs.kubernetes("kube-proxy"));
    flag(&mut command, "config", &configuration.proxy);
    command
}

/// Kubeconfigs of the parts that talk to the API server.
///
/// # Errors
///
/// Where one cannot be written.
pub(super) fn write_kubeconfigs(place: &Place) -> Result<()> {
    for holder in ["controller-manager", "scheduler", "kubelet", "proxy"] {
        let path = place.configuration(&format!("{holder}.kubeconfig"));
        super::kubeconfig::write(place, holder, "https://127.0.0.1:6443", &path)?;
    }
    Ok(())
}
