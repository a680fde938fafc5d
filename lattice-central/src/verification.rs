//! From an image reference to what is proven of the image: a digest, and the trusted keys that signed it.
//!
//! ```text
//!   reference ─► of a registry that a TrustPolicy names? ─► (who asks puts a tag to Cedar) ─► digest ─► signatures ─► a trusted key's?
//! ```
//!
//! Services and admission go the same way, by this code. After it only the digest counts, never the tag.

use lattice_policy::ImageDigest;
use lattice_registry::{RegistryClient, RegistryError, ResolvedImage};
use lattice_verify::{Refusal, SignatureObject, TrustedKey, verify_signatures};

use crate::{
    conditions::Holds,
    gate::ImageFacts,
    images::{ImageReference, with_causes},
    objects::Trust,
};

/// An image whose signature held.
#[derive(Debug, Clone)]
pub struct Verified {
    /// As it was named.
    pub reference: ImageReference,
    /// What it was then.
    pub resolved: ResolvedImage,
    /// Names of the keys that signed it.
    pub signers: Vec<String>,
}

impl Verified {
    /// What Cedar is told.
    pub fn facts(&self) -> ImageFacts {
        facts(&self.reference, Some(self.resolved.digest), &self.signers)
    }
}

/// Why nothing is proven of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// False, or Unknown where it could not be found out.
    pub holds: Holds,
    /// One word for programs.
    pub reason: &'static str,
    /// What is wrong and what to do, without the image's name.
    pub message: String,
}

impl Unproven {
    fn refused(reason: &'static str, message: String) -> Self {
        Self {
            holds: Holds::False,
            reason,
            message,
        }
    }

    /// Whether another try may end differently without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        self.holds == Holds::Unknown
    }
}

impl From<&RegistryError> for Unproven {
    fn from(error: &RegistryError) -> Self {
        let (holds, reason) = match error {
            error if error.is_transient() => (Holds::Unknown, "RegistryUnavailable"),
            RegistryError::NotFound { .. } => (Holds::False, "NotFound"),
            _ => (Holds::False, "RegistryRefused"),
        };
        Self {
            holds,
            reason,
            message: with_causes(error),
        }
    }
}

/// Reads a reference, and finds the keys that count for its registry. Nobody is contacted.
///
/// # Errors
/// When the text is no reference, no TrustPolicy names its registry, or none of the registry's keys can be used.
pub fn trusted<'a>(trust: &'a Trust, image: &str) -> Result<(ImageReference, &'a [TrustedKey]), Unproven> {
    let reference: ImageReference = image
        .parse()
        .map_err(|error| Unproven::refused("InvalidReference", error))?;
    let registry = &reference.registry;
    let keys = trust.registries.keys_for(registry).ok_or_else(|| {
        Unproven::refused(
            "RegistryNotTrusted",
            format!(
                "no TrustPolicy names the registry {registry}, so it is not contacted; add a TrustPolicy with \
                 spec.registry: {registry} and the key that signs its images"
            ),
        )
    })?;
    if keys.is_empty() {
        let problems = trust
            .problems
            .get(registry)
            .map(|problems| problems.join("; "))
            .unwrap_or_default();
        return Err(Unproven::refused(
            "NoUsableKey",
            format!("no key of the registry {registry} can be used: {problems}"),
        ));
    }
    Ok((reference, keys))
}

/// Asks the registry once what the reference means and who signed that. Whether it may be a tag has been asked before.
///
/// # Errors
/// When the registry does not say, or no trusted key signed it.
pub async fn verify(
    client: &RegistryClient,
    image: &str,
    reference: ImageReference,
    keys: &[TrustedKey],
) -> Result<Verified, Unproven> {
    let unread = |error: RegistryError| Unproven::from(&error);
    let resolved = client.resolve(image).await.map_err(unread)?;
    let signatures = client.signatures(&resolved).await.map_err(unread)?;
    let signatures: Vec<_> = signatures
        .into_iter()
        .map(|layer| SignatureObject {
            media_type: layer.media_type,
            annotations: layer.annotations,
            payload: layer.payload,
        })
        .collect();
    let facts = verify_signatures(resolved.digest, &signatures, keys);
    if let Some(refusal) = facts.refusal(keys) {
        let reason = match &refusal {
            Refusal::Unsigned { .. } => "Unsigned",
            Refusal::OtherKey { .. } => "SignedByOtherKey",
            Refusal::OtherDigest { .. } => "SignatureOfOtherImage",
            Refusal::Malformed { .. } => "MalformedSignature",
        };
        return Err(Unproven::refused(reason, refusal.to_string()));
    }
    Ok(Verified {
        reference,
        resolved,
        signers: facts.signers,
    })
}

/// What Cedar is told of an image as far as it is known.
pub fn facts(reference: &ImageReference, digest: Option<ImageDigest>, signers: &[String]) -> ImageFacts {
    let ImageReference {
        registry,
        repository,
        tag,
        ..
    } = reference.clone();
    let suffix = match (digest, &tag) {
        (Some(digest), _) => format!("@{digest}"),
        (None, Some(tag)) => format!(":{tag}"),
        (None, None) => String::new(),
    };
    ImageFacts {
        reference: format!("{registry}/{repository}{suffix}"),
        registry,
        repository,
        tag,
        digest: digest.map(|digest| digest.to_string()),
        signers: signers.to_vec(),
    }
}
