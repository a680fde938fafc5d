//! cosign's `.sig` form: the layers of the manifest at the tag `sha256-<hex>.sig`, each a signature over a payload.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use lattice_policy::ImageDigest;
use p256::ecdsa::Signature;

use crate::{
    InvalidPayload, SIMPLE_SIGNING_MEDIA_TYPE, TrustedKey,
    simple_signing::{PAYLOAD_BYTES_MAXIMUM, check_payload, shorten},
};

/// Annotation of a `.sig` layer that holds the signature, base64 over the layer's bytes.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// More signatures than this are not looked at, so that a manifest cannot buy unbounded work.
pub const SIGNATURES_MAXIMUM: usize = 128;

/// One layer of a `.sig` manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureObject {
    /// The layer's media type.
    pub media_type: String,
    /// The layer's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The layer's exact bytes, whose digest was already held against the manifest.
    pub payload: Vec<u8>,
}

/// Why one signature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not a simple-signing layer; an attestation, say.
    #[error("its media type is {found:?}, which is not an image signature ({SIMPLE_SIGNING_MEDIA_TYPE})")]
    MediaType {
        /// The layer's media type.
        found: String,
    },
    /// The annotation is missing.
    #[error("it has no annotation {SIGNATURE_ANNOTATION}")]
    NoSignature,
    /// The annotation is not base64 of an ECDSA signature.
    #[error("its annotation {SIGNATURE_ANNOTATION} is no ECDSA signature in base64: {reason}")]
    MalformedSignature {
        /// What the parser said.
        reason: String,
    },
    /// No trusted key made it, or the bytes were changed.
    #[error("no trusted key made it over these bytes")]
    OtherKey,
    /// A trusted key signed it, but what it says does not hold for this image.
    #[error(transparent)]
    Payload(#[from] InvalidPayload),
    /// Beyond the limit.
    #[error("it stands after {SIGNATURES_MAXIMUM} others, and was not looked at")]
    TooMany,
}

/// What was found about one layer of the `.sig` manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExaminedSignature {
    /// Its place in the manifest, from 0.
    pub index: usize,
    /// Names of the keys that made it for this image, or why it proves nothing.
    pub outcome: Result<Vec<String>, Rejection>,
}

/// What the signatures prove about one image digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureFacts {
    /// The image of which the facts speak.
    pub image_digest: ImageDigest,
    /// Names of the trusted keys that signed it; sorted, each once.
    pub signers: Vec<String>,
    /// Every signature that was there.
    pub examined: Vec<ExaminedSignature>,
}

/// Why an image counts as not signed, from the signature that came nearest; the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing at the `.sig` tag.
    #[error(
        "the image has no signature in cosign's `.sig` form (other forms are not read); sign it with the key that the \
         TrustPolicy names: `cosign sign --key cosign.key --new-bundle-format=false --use-signing-config=false \
         --tlog-upload=false IMAGE@{image_digest}`"
    )]
    Unsigned {
        /// The image's digest.
        image_digest: ImageDigest,
    },
    /// Signatures, but not by a trusted key.
    #[error(
        "the image is signed, but by another key than {trusted} (signatures looked at: {examined}); sign {image_digest} with a \
         trusted key, or name the signer's public key in a TrustPolicy for this registry"
    )]
    OtherKey {
        /// The image's digest.
        image_digest: ImageDigest,
        /// Names of the trusted keys.
        trusted: String,
        /// How many signatures there were.
        examined: usize,
    },
    /// A trusted key signed something, which was then put beside this image.
    #[error(
        "a trusted key signed another image, and that signature was attached to {image_digest}: it names {found:?}; \
         find out who pushed the signature, then sign this digest if it is the one that you want"
    )]
    OtherDigest {
        /// The image's digest.
        image_digest: ImageDigest,
        /// The digest that the payload names.
        found: String,
    },
    /// Only objects that cannot be read.
    #[error("no signature of {image_digest} can be read: {first}; remove the `.sig` tag and sign again with cosign")]
    Malformed {
        /// The image's digest.
        image_digest: ImageDigest,
        /// What is wrong with the first of them.
        first: String,
    },
}

impl SignatureFacts {
    /// Whether a trusted key signed this image.
    pub fn is_signed(&self) -> bool {
        !self.signers.is_empty()
    }

    /// Why the image counts as not signed; `None` where it is signed.
    pub fn refusal(&self, keys: &[TrustedKey]) -> Option<Refusal> {
        if self.is_signed() {
            return None;
        }
        let image_digest = self.image_digest;
        let rejections = || {
            self.examined
                .iter()
                .filter_map(|examined| examined.outcome.as_ref().err())
        };
        let other_digest = rejections().find_map(|rejection| match rejection {
            Rejection::Payload(InvalidPayload::OtherDigest { found }) => Some(found.clone()),
            _ => None,
        });
        Some(if let Some(found) = other_digest {
            Refusal::OtherDigest { image_digest, found }
        } else if rejections().any(|rejection| matches!(rejection, Rejection::OtherKey)) {
            let trusted = keys.iter().map(TrustedKey::name).collect::<Vec<_>>().join(", ");
            Refusal::OtherKey {
                image_digest,
                trusted,
                examined: self.examined.len(),
            }
        } else if let Some(first) = rejections().next() {
            Refusal::Malformed {
                image_digest,
                first: first.to_string(),
            }
        } else {
            Refusal::Unsigned { image_digest }
        })
    }
}

/// Holds every signature against every key. All are looked at, so that the facts name every signer.
pub fn verify_signatures(
    image_digest: ImageDigest,
    objects: &[SignatureObject],
    keys: &[TrustedKey],
) -> SignatureFacts {
    let examined: Vec<_> = objects
        .iter()
        .enumerate()
        .map(|(index, object)| {
            let outcome = if index < SIGNATURES_MAXIMUM {
                examine(&image_digest, object, keys)
            } else {
                Err(Rejection::TooMany)
            };
            ExaminedSignature { index, outcome }
        })
        .collect();
    let mut signers: Vec<_> = examined
        .iter()
        .filter_map(|examined| examined.outcome.as_ref().ok())
        .flatten()
        .cloned()
        .collect();
    signers.sort();
    signers.dedup();
    SignatureFacts {
        image_digest,
        signers,
        examined,
    }
}

fn examine(
    image_digest: &ImageDigest,
    object: &SignatureObject,
    keys: &[TrustedKey],
) -> Result<Vec<String>, Rejection> {
    if object.media_type != SIMPLE_SIGNING_MEDIA_TYPE {
        return Err(Rejection::MediaType {
            found: shorten(&object.media_type),
        });
    }
    let encoded = object
        .annotations
        .get(SIGNATURE_ANNOTATION)
        .ok_or(Rejection::NoSignature)?;
    if object.payload.len() > PAYLOAD_BYTES_MAXIMUM {
        return Err(InvalidPayload::TooLarge {
            bytes: object.payload.len(),
        }
        .into());
    }
    let malformed = |reason: String| Rejection::MalformedSignature {
        reason: shorten(&reason),
    };
    // The longest DER signature on P-256 has 72 bytes, 96 in base64.
    if encoded.len() > 128 {
        return Err(malformed(format!("{} characters are too many", encoded.len())));
    }
    let der = STANDARD.decode(encoded).map_err(|error| malformed(error.to_string()))?;
    let signature = Signature::from_der(&der).map_err(|_| malformed("not an ASN.1 pair (r, s)".to_owned()))?;
    let signers: Vec<_> = keys
        .iter()
        .filter(|key| key.verifies(&object.payload, &signature))
        .map(|key| key.name().to_owned())
        .collect();
    if signers.is_empty() {
        return Err(Rejection::OtherKey);
    }
    check_payload(&object.payload, image_digest)?;
    Ok(signers)
}
