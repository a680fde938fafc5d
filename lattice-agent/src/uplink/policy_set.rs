//! A `PolicySet` from the wire or from disk, checked as a whole: what is wrong in one policy keeps the set out, and the last good
//! one stays in force.

use std::collections::BTreeMap;

use lattice_api::v1;
use lattice_policy::{ExecPolicy, Mode};

use crate::error_chain::ErrorChain;

/// More than a node runs containers.
const POLICIES: usize = 20_000;
const NAMESPACE_MODES: usize = 20_000;
const NAMESPACE_BYTES: usize = 253;

/// All that holds for this node.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySet {
    /// Rises with every change at central.
    pub revision: u64,
    /// Policies.
    pub policies: Vec<ExecPolicy>,
    /// Modes that win over the policies' own, by namespace.
    pub namespace_modes: BTreeMap<String, Mode>,
}

/// What is wrong with a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicySetError {
    /// Too many of something.
    #[error("revision {revision}: {count} {what} are more than the {limit} that are held")]
    TooMany {
        /// The set.
        revision: u64,
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A policy is wrong.
    #[error("revision {revision}: policy {namespace}/{name}: {reason}")]
    Policy {
        /// The set.
        revision: u64,
        /// Namespace of the policy.
        namespace: String,
        /// Its name.
        name: String,
        /// Field and value.
        reason: String,
    },
    /// Two policies have one name.
    #[error("revision {revision}: policy {namespace}/{name} is there twice")]
    Twice {
        /// The set.
        revision: u64,
        /// Namespace of the policy.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A namespace's mode is wrong.
    #[error("revision {revision}: mode of namespace {namespace:?}: {reason}")]
    Mode {
        /// The set.
        revision: u64,
        /// The namespace.
        namespace: String,
        /// The word that is none.
        reason: String,
    },
}

fn shown(text: &str) -> String {
    text.chars()
        .take(NAMESPACE_BYTES)
        .flat_map(char::escape_debug)
        .collect()
}

impl TryFrom<v1::PolicySet> for PolicySet {
    type Error = PolicySetError;

    /// # Errors
    /// The first thing that is wrong.
    fn try_from(message: v1::PolicySet) -> Result<Self, PolicySetError> {
        let revision = message.revision;
        for (what, count, limit) in [
            ("policies", message.policies.len(), POLICIES),
            ("modes of namespaces", message.namespace_modes.len(), NAMESPACE_MODES),
        ] {
            if count > limit {
                return Err(PolicySetError::TooMany {
                    revision,
                    what,
                    count,
                    limit,
                });
            }
        }
        let mut policies: Vec<ExecPolicy> = Vec::with_capacity(message.policies.len());
        let mut names = std::collections::BTreeSet::new();
        for policy in message.policies {
            let (namespace, name) = (shown(&policy.namespace), shown(&policy.name));
            let converted = ExecPolicy::try_from(policy).map_err(|error| PolicySetError::Policy {
                revision,
                namespace: namespace.clone(),
                name: name.clone(),
                reason: ErrorChain(&error).to_string(),
            })?;
            if !names.insert((converted.namespace.clone(), converted.name.clone())) {
                return Err(PolicySetError::Twice {
                    revision,
                    namespace,
                    name,
                });
            }
            policies.push(converted);
        }
        let mut namespace_modes = BTreeMap::new();
        for v1::NamespaceMode { namespace, mode } in message.namespace_modes {
            let wrong = |reason: String| PolicySetError::Mode {
                revision,
                namespace: shown(&namespace),
                reason,
            };
            if namespace.is_empty() || namespace.len() > NAMESPACE_BYTES {
                return Err(wrong("that is no namespace".into()));
            }
            let mode = mode.parse::<Mode>().map_err(|error| wrong(error.to_string()))?;
            if namespace_modes.insert(namespace.clone(), mode).is_some() {
                return Err(wrong("it is there twice".into()));
            }
        }
        Ok(Self {
            revision,
            policies,
            namespace_modes,
        })
    }
}

impl From<&PolicySet> for v1::PolicySet {
    fn from(set: &PolicySet) -> Self {
        let mode = |(namespace, mode): (&String, &Mode)| v1::NamespaceMode {
            namespace: namespace.clone(),
            mode: mode.word().into(),
        };
        Self {
            revision: set.revision,
            policies: set.policies.iter().map(Into::into).collect(),
            namespace_modes: set.namespace_modes.iter().map(mode).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: shop, namespace: payments}
spec:
  entries:
  - path: /app/server
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
";

    fn message() -> v1::PolicySet {
        let policies = lattice_policy::read_documents("shop.yaml", POLICY.as_bytes()).unwrap();
        let namespace_modes = BTreeMap::from([("payments".to_owned(), Mode::Enforce)]);
        (&PolicySet {
            revision: 7,
            policies,
            namespace_modes,
        })
            .into()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut v1::PolicySet), expected: &str) {
        let mut message = message();
        change(&mut message);
        let error = PolicySet::try_from(message).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_set_round_trips() {
        let set = PolicySet::try_from(message()).unwrap();
        assert_eq!(v1::PolicySet::from(&set), message());
    }

    #[test]
    fn one_wrong_thing_keeps_the_set_out_and_is_named() {
        check(
            |set| set.policies[0].mode = "kill".into(),
            "revision 7: policy payments/shop: ",
        );
        check(|set| set.policies[0].target = None, "spec.target");
        check(
            |set| set.policies.push(set.policies[0].clone()),
            "payments/shop is there twice",
        );
        check(
            |set| set.namespace_modes[0].mode = "off".into(),
            "mode of namespace \"payments\": \"off\" is none of",
        );
        check(
            |set| set.namespace_modes.push(set.namespace_modes[0].clone()),
            "it is there twice",
        );
        check(|set| set.namespace_modes[0].namespace.clear(), "that is no namespace");
        check(
            |set| set.policies = vec![set.policies[0].clone(); POLICIES + 1],
            "20001 policies are more than",
        );
    }
}
