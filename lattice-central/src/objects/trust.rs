//! From TrustPolicy and Secret to keys.

use std::collections::BTreeMap;

use lattice_api::object::{Secret, TrustPolicy};
use lattice_verify::{RegistryHost, RegistryTrust, TrustedKey};

use crate::board::Key;

/// The data key of a Secret that holds a public key, if it has several.
const PUBLIC_KEY: &str = "cosign.pub";

/// Whose signatures count for which registry, and what is wrong with the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The keys that can be used. A registry whose keys are all unusable is there, with none.
    pub registries: RegistryTrust,
    /// Why a TrustPolicy's key cannot be used, by registry.
    pub problems: BTreeMap<String, Vec<String>>,
}

impl Trust {
    /// Joins TrustPolicies with the Secrets that they refer to. The key's name in facts is the reference itself.
    pub fn new<'a>(policies: impl IntoIterator<Item = &'a TrustPolicy>, secrets: &BTreeMap<Key, &Secret>) -> Self {
        let mut trust = Self::default();
        for policy in policies {
            let registry = match policy.spec.registry.parse::<RegistryHost>() {
                Ok(registry) => registry,
                Err(error) => {
                    trust.problem(policy, error.to_string());
                    continue;
                }
            };
            match key(policy, secrets) {
                Ok(key) => trust.registries.trust(registry, [key]),
                Err(problem) => {
                    trust.registries.trust(registry, []);
                    trust.problem(policy, problem);
                }
            }
        }
        trust
    }

    fn problem(&mut self, policy: &TrustPolicy, problem: String) {
        let problem = format!("TrustPolicy {}: {problem}", policy.name);
        self.problems
            .entry(policy.spec.registry.clone())
            .or_default()
            .push(problem);
    }
}

fn key(policy: &TrustPolicy, secrets: &BTreeMap<Key, &Secret>) -> Result<TrustedKey, String> {
    let reference = &policy.spec.cosign.public_key.secret_ref;
    let name = format!("{}/{}", reference.namespace, reference.name);
    let field = format!("spec.cosign.publicKey.secretRef {name}");
    let secret = secrets
        .get(&(reference.namespace.clone(), reference.name.clone()))
        .ok_or_else(|| format!("{field}: there is no such Secret; add it, with the public key under {PUBLIC_KEY}"))?;
    let bytes = match (secret.data.get(PUBLIC_KEY), secret.data.len()) {
        (Some(bytes), _) => bytes,
        (None, 1) => secret
            .data
            .values()
            .next()
            .ok_or_else(|| format!("{field}: the Secret is empty"))?,
        (None, count) => {
            return Err(format!(
                "{field}: the Secret has {count} keys and none is {PUBLIC_KEY}; name the public key so"
            ));
        }
    };
    let pem = std::str::from_utf8(bytes.expose()).map_err(|_| format!("{field}: the key is not text in PEM form"))?;
    TrustedKey::from_pem(name, pem).map_err(|error| format!("{field}: {error}"))
}
