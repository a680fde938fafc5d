//! From signatures to facts: what is proven about an image, by which key, and why the rest proves nothing.
//!
//! ```text
//!   TrustPolicy ──► registry_trust ──► trusted_key ──┐
//!                                                    ▼
//!   `.sig` manifest's layers ───────────► cosign_signature ──► SignatureFacts ──► (Cedar, conditions)
//!                                            │
//!                                            └─ simple_signing: the payload, parsed strictly, after its signature held
//! ```
//!
//! Pure: no clock, no network, no file. A fact speaks of one image digest, and never of a tag. What is decided from the
//! facts is decided elsewhere, each time anew.
#![forbid(unsafe_code)]

pub mod cosign_signature;
pub mod registry_trust;
pub mod simple_signing;
pub mod trusted_key;

pub use cosign_signature::{
    ExaminedSignature, Refusal, Rejection, SIGNATURE_ANNOTATION, SignatureFacts, SignatureObject, verify_signatures,
};
pub use registry_trust::{InvalidRegistry, RegistryHost, RegistryTrust};
pub use simple_signing::{InvalidPayload, SIMPLE_SIGNING_MEDIA_TYPE};
pub use trusted_key::{InvalidKey, TrustedKey};
