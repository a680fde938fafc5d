//! A registry in a cluster's network, with a certificate of the cluster's authority, since nothing but loopback may do without.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{
    certificates::Pair,
    component::{self, Component},
    place::Place,
};
use crate::workspace;

/// As references begin.
pub(super) const HOST: &str = "10.210.0.1:5000";
/// Whose certificate it has.
pub(super) const HOLDER: &str = "registry";

const LIMIT: Duration = Duration::from_secs(30);

/// Starts it over what a registry has stored in a folder. It ends with the cluster.
///
/// # Errors
///
/// Where docker-registry is missing or does not come up.
pub(super) fn start(place: &Place, content: &Path) -> Result<()> {
    let program = workspace::find_program("docker-registry")
        .ok_or_else(|| anyhow!("no docker-registry: run `cargo xtask setup`"))?;
    let pair = Pair::of(place, HOLDER);
    let configuration = place.configuration("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {content:?}}}\nhttp:\n  addr: {HOST:?}\n  tls: \
         {{certificate: {:?}, key: {:?}}}\n",
        pair.certificate, pair.key
    );
    fs::write(&configuration, text).with_context(|| format!("cannot write {}", configuration.display()))?;
    let mut command = Command::new(program);
    command.arg("serve").arg(&configuration);
    let holder = component::holder_of(place)?;
    let mut running = [Component::start(place, holder, "registry", &command)?];
    let curl = workspace::find_program("curl").ok_or_else(|| anyhow!("no curl: run `cargo xtask setup`"))?;
    let authority = Pair::of(place, "ca").certificate.display().to_string();
    let url = format!("https://{HOST}/v2/");
    component::wait_until(place, "the registry answers", LIMIT, &mut running, || {
        component::run_inside(place, &curl, &["--fail", "--silent", "--cacert", &authority, &url]).is_ok()
    })
}

/// What tells containerd whom to believe there: a folder a host, below the folder that is returned in its configuration.
pub(super) fn write_hosts(place: &Place, folder: &Path) -> Result<()> {
    let host = folder.join(HOST);
    super::place::create(&host)?;
    let text = format!(
        "server = \"https://{HOST}\"\n[host.\"https://{HOST}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = {:?}\n",
        Pair::of(place, "ca").certificate
    );
    let file = host.join("hosts.toml");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{super::node::NODE_ADDRESS, *};

    #[test]
    fn it_is_at_the_nodes_address() {
        assert_eq!(HOST.split_once(':').map(|(host, _)| host), Some(NODE_ADDRESS));
    }
}
