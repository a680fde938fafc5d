//! The floor: which registries are trusted at all, written for the API server itself. Its ValidatingAdmissionPolicy goes by that, and by digests,
//! also while nobody answers reviews.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use crate::{
    images::with_causes,
    objects::{ObjectSet, Trust},
};

/// The key in the ConfigMap; a registry a line.
const REGISTRIES: &str = "registries";
/// It is looked at so often: a hand may have changed it.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Who writes, to the API server.
const FIELD_MANAGER: &str = "lattice-central";

/// Keeps the ConfigMap of this name in step with the TrustPolicies.
pub async fn keep(client: Client, namespace: String, name: String, mut objects: watch::Receiver<ObjectSet>) {
    let config_maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let mut is_said = false;
    loop {
        let registries = registries(&objects.borrow_and_update().trust);
        let shown = timeout(ANSWER_WITHIN, show(&config_maps, &name, &registries)).await;
        match shown.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
            Ok(()) => is_said = false,
            Err(problem) => {
                if !is_said {
                    tracing::warn!(
                        config_map = %name, problem,
                        "the API server cannot be told which registries are trusted; it goes by what it was told last"
                    );
                    is_said = true;
                }
            }
        }
        // Another set, or nothing new for a while.
        if let Ok(Err(_)) = timeout(LOOK_INTERVAL, objects.changed()).await {
            return;
        }
    }
}

/// A registry a line. One whose keys cannot be used is there too: that is for central to refuse, with its reason.
fn registries(trust: &Trust) -> String {
    let registries = trust.registries.registries().map(ToString::to_string);
    registries.collect::<Vec<_>>().join("\n")
}

async fn show(config_maps: &Api<ConfigMap>, name: &str, registries: &str) -> Result<(), String> {
    let there = config_maps.get_opt(name).await.map_err(|error| with_causes(&error))?;
    let there = there.ok_or_else(|| "there is no such ConfigMap".to_owned())?;
    let data = BTreeMap::from([(REGISTRIES.to_owned(), registries.to_owned())]);
    if there.data.as_ref() == Some(&data) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"data": data}));
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = config_maps.patch(name, &parameters, &patch).await;
    patched.map_err(|error| with_causes(&error))?;
    tracing::info!(config_map = %name, "the API server knows which registries are trusted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trusted_registry_is_a_line() {
        let mut trust = Trust::default();
        assert_eq!(registries(&trust), "");
        for registry in ["registry.example.com:5000", "ghcr.io"] {
            trust.registries.trust(registry.parse().unwrap(), []);
        }
        let lines = registries(&trust);
        let mut lines: Vec<_> = lines.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["ghcr.io", "registry.example.com:5000"]);
    }
}
