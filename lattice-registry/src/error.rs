//! What can go wrong between us and a registry, told apart by what to do about it.

use std::{sync::Arc, time::Duration};

use lattice_policy::ImageDigest;

use crate::scan::LayerError;

/// Why an image was not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// The reference cannot be parsed.
    #[error("image reference {reference:?} is not valid: {reason}; write it as registry/name@sha256:…")]
    Reference {
        /// As given.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// No TrustPolicy names the registry.
    #[error("registry {host} is not among those that may be contacted; add a TrustPolicy for it, or use another image")]
    NotAllowed {
        /// The registry.
        host: String,
    },
    /// Plain HTTP to another machine.
    #[error("registry {host} is configured for plain HTTP, which is allowed on loopback only; serve it with TLS")]
    PlainHttp {
        /// The registry.
        host: String,
    },
    /// The settings of an endpoint cannot be used.
    #[error("registry {host}: no HTTP client can be made of its settings; look at its certificate authority")]
    Settings {
        /// The registry.
        host: String,
        /// What the HTTP client said.
        source: Arc<reqwest::Error>,
    },
    /// No answer. Transient.
    #[error("registry {host} does not answer ({what}); see whether it runs and can be reached, it is tried again")]
    Unreachable {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What the HTTP client said.
        source: Arc<reqwest::Error>,
    },
    /// It took too long. Transient.
    #[error("registry {host}: {what} took longer than {} s; it is tried again", limit.as_secs())]
    TimedOut {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// Too many requests. Transient.
    #[error(
        "registry {host} refuses {what} for too many requests{}; it is tried again",
        retry_after.map_or_else(String::new, |wait| format!(", and asks to wait {} s", wait.as_secs()))
    )]
    RateLimited {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The registry itself fails. Transient.
    #[error("registry {host} fails with status {status} for {what}; look at its log, it is tried again")]
    ServerError {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// The body ended early. Transient.
    #[error("registry {host}: {what} ended early, after {received_bytes} bytes; it is tried again")]
    Truncated {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What came.
        received_bytes: u64,
    },
    /// Credentials are missing or refused.
    #[error("registry {host} refuses {what} with status {status}; give it credentials that may read this repository")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// Credentials would go to a host that is not listed.
    #[error(
        "registry {host} wants credentials to go to {realm}, which is not listed as its token host; they were not sent"
    )]
    TokenHost {
        /// The registry.
        host: String,
        /// Where the token is to be had.
        realm: String,
    },
    /// It points to a host that is not listed.
    #[error("registry {host} redirects {what} to {target}, which is not listed as its blob host; it was not followed")]
    Redirect {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Where to.
        target: String,
    },
    /// It is not there.
    #[error("registry {host} does not have {what}; see whether it was pushed, and whether the name is right")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Any other status.
    #[error("registry {host} answers {what} with status {status}, which is not understood")]
    Status {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// The bytes are not those that were asked for.
    #[error(
        "{what} from registry {host} has the digest {found} instead of {expected}; do not trust this registry's copy"
    )]
    DigestMismatch {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What was asked for.
        expected: ImageDigest,
        /// What its bytes give.
        found: ImageDigest,
    },
    /// More than we are ready to take.
    #[error(
        "{what} from registry {host} is larger than {limit_bytes} bytes; make the image smaller, or raise the limit"
    )]
    TooLarge {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A media type that we do not read.
    #[error(
        "{what} has the media type {media_type:?}, which is not supported; push it as OCI or Docker schema 2 image"
    )]
    MediaType {
        /// What has it.
        what: String,
        /// The media type.
        media_type: String,
    },
    /// A layer that lies elsewhere.
    #[error(
        "{what} is not in the registry (foreign layer), and foreign URLs are never followed; push the layer itself"
    )]
    ForeignLayer {
        /// The layer.
        what: String,
    },
    /// A document that cannot be read.
    #[error("{what} is malformed: {reason}; build the image anew")]
    Malformed {
        /// What it is.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// An image of nothing.
    #[error("image {image} has no layers; build it with at least one")]
    NoLayers {
        /// The image.
        image: String,
    },
    /// An index without the platform.
    #[error("image {image} is not built for {wanted}, but for {found}; build it for {wanted}")]
    NoPlatform {
        /// The image.
        image: String,
        /// The platform.
        wanted: String,
        /// What the index has.
        found: String,
    },
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl RegistryError {
    /// Whether the same request may succeed later without anybody doing anything; such a failure is never cached.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::TimedOut { .. }
                | Self::RateLimited { .. }
                | Self::ServerError { .. }
                | Self::Truncated { .. }
                | Self::Layer(LayerError::Truncated { .. } | LayerError::Source { .. })
        )
    }
}
