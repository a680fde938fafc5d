//! The registries, as far as TrustPolicies open them: one client for exactly the hosts that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use lattice_policy::ImageDigest;
use lattice_registry::{Limits, RegistryClient, RegistryEndpoint, RegistryError};
use oci_spec::distribution::Reference;

use crate::objects::Trust;

/// An image reference that can be read: where it points, and by tag or by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// `host` or `host:port`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// The tag, where it has one; `latest` where it has neither tag nor digest.
    pub tag: Option<String>,
    /// The digest, where it has one; then the tag says nothing.
    pub digest: Option<ImageDigest>,
}

impl FromStr for ImageReference {
    type Err = String;

    /// # Errors
    /// When the text is no reference, or its digest is not SHA-256.
    fn from_str(text: &str) -> Result<Self, String> {
        let advice = "write it as registry/name@sha256:…";
        let parsed = Reference::from_str(text).map_err(|error| format!("not a reference: {error}; {advice}"))?;
        let digest = parsed.digest().map(str::parse).transpose();
        Ok(Self {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest: digest.map_err(|error: lattice_policy::InvalidDigest| format!("{error}; {advice}"))?,
        })
    }
}

/// Makes clients for the registries that TrustPolicies name.
pub struct Images {
    plain_http_registries: Vec<String>,
    /// PEM certificates, by registry, of who signs the registry's own.
    authorities: BTreeMap<String, Vec<u8>>,
    /// The client for the hosts that were asked for last: what it has read of layers stays while the hosts do.
    current: Mutex<Option<(BTreeSet<String>, Arc<RegistryClient>)>>,
}

impl Images {
    /// Checks the registries that speak HTTP without TLS: only this machine's may.
    ///
    /// # Errors
    /// When one of them is not on the loopback.
    pub fn new(plain_http_registries: &[String]) -> Result<Self, RegistryError> {
        let images = Self {
            plain_http_registries: plain_http_registries.to_vec(),
            authorities: BTreeMap::new(),
            current: Mutex::default(),
        };
        RegistryClient::new(images.endpoints(plain_http_registries), Limits::default())?;
        Ok(images)
    }

    /// With authorities of registries, PEM by `host` or `host:port`, that count for these in the place of the system's.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn with_authorities(self, authorities: BTreeMap<String, Vec<u8>>) -> Result<Self, RegistryError> {
        let images = Self { authorities, ..self };
        RegistryClient::new(images.endpoints(images.authorities.keys()), Limits::default())?;
        Ok(images)
    }

    /// A client for the registries that a TrustPolicy names, and no others.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn client(&self, trust: &Trust) -> Result<Arc<RegistryClient>, RegistryError> {
        let hosts: BTreeSet<String> = trust.registries.registries().map(ToString::to_string).collect();
        // Nothing panics while it is held that would leave it half changed.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, client)) = current.as_ref()
            && *known == hosts
        {
            return Ok(client.clone());
        }
        let client = Arc::new(RegistryClient::new(self.endpoints(&hosts), Limits::default())?);
        *current = Some((hosts, client.clone()));
        Ok(client)
    }

    fn endpoints<'a>(&self, hosts: impl IntoIterator<Item = &'a String>) -> Vec<RegistryEndpoint> {
        hosts
            .into_iter()
            .map(|host| RegistryEndpoint {
                host: host.clone(),
                plain_http: self.plain_http_registries.contains(host),
                authorities_pem: self.authorities.get(host).cloned().unwrap_or_default(),
                ..RegistryEndpoint::default()
            })
            .collect()
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[track_caller]
    fn check(text: &str, registry: &str, repository: &str, tag: Option<&str>, digest: bool) {
        let found: ImageReference = text.parse().unwrap();
        let expected = ImageReference {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.then(|| DIGEST.parse().unwrap()),
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn references_say_where_and_what() {
        check(
            "registry.example.com/a/b:v1",
            "registry.example.com",
            "a/b",
            Some("v1"),
            false,
        );
        check("127.0.0.1:5000/a", "127.0.0.1:5000", "a", Some("latest"), false);
        check(&format!("127.0.0.1:5000/a@{DIGEST}"), "127.0.0.1:5000", "a", None, true);
        check(
            &format!("localhost:5000/a:v1@{DIGEST}"),
            "localhost:5000",
            "a",
            Some("v1"),
            true,
        );
        check("busybox", "docker.io", "library/busybox", Some("latest"), false);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "r.example.com/../x",
            "r.example.com/a@sha256:12",
            "r.example.com/a@sha512:aa",
            "https://r.example.com/a",
            "a b",
        ] {
            let error = text.parse::<ImageReference>().expect_err(text);
            assert!(error.contains("write it as registry/name@sha256:"), "{error}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        assert!(Images::new(&["127.0.0.1:5000".to_owned()]).is_ok());
        let error = Images::new(&["registry.example.com".to_owned()])
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("registry.example.com"), "{error}");
    }
}
