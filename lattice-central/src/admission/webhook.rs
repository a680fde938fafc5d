//! The API server believes central's listener by the authority in the ValidatingWebhookConfiguration: it is written there, and put right.

use std::time::Duration;

use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::images::with_causes;

/// It is looked at so often: an upgrade or a hand may have changed it.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Who writes, to the API server.
const FIELD_MANAGER: &str = "lattice-central";

/// Keeps the authority in every webhook of the configuration; `shown` is called whenever it is there.
pub async fn keep(client: Client, name: String, authority: String, shown: impl Fn()) {
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut is_said = false;
    loop {
        let looked = timeout(ANSWER_WITHIN, show(&configurations, &name, &authority)).await;
        match looked.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
            Ok(()) => {
                is_said = false;
                shown();
            }
            Err(problem) => {
                if !is_said {
                    tracing::warn!(
                        configuration = %name, problem,
                        "the API server cannot be told whom to believe at admission; trying again"
                    );
                    is_said = true;
                }
            }
        }
        sleep(LOOK_INTERVAL).await;
    }
}

async fn show(configurations: &Api<ValidatingWebhookConfiguration>, name: &str, authority: &str) -> Result<(), String> {
    let there = configurations
        .get_opt(name)
        .await
        .map_err(|error| with_causes(&error))?;
    let there = there.ok_or_else(|| "there is no such ValidatingWebhookConfiguration".to_owned())?;
    let webhooks = there.webhooks.unwrap_or_default();
    let wanted = ByteString(authority.as_bytes().to_vec());
    let others: Vec<_> = webhooks
        .iter()
        .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted))
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": wanted}}))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let count = others.len();
    // Merged by the webhooks' names: what the chart says of them stays as it is.
    let patch = Patch::Strategic(json!({
        "metadata": {"resourceVersion": there.metadata.resource_version},
        "webhooks": others,
    }));
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = configurations.patch(name, &parameters, &patch).await;
    patched.map_err(|error| with_causes(&error))?;
    tracing::info!(configuration = %name, webhooks = count, "the API server believes central at admission");
    Ok(())
}
