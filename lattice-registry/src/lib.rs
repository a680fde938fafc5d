//! Reads images from registries: what a reference means, its signatures' raw bytes, and what its layers hold.
//!
//! ```text
//!   reference ─► resolve ─► digest, manifest or index ─┬─► signatures ─► raw layers of the `.sig` manifest (unjudged)
//!                                                      └─► read_image ─► configuration, and each layer as a stream:
//!   endpoint: who may be contacted                                       scan ─► LayerSummary ─► memory, by diff_id
//!   transport: tokens, redirects, 429, sizes, times                      (never to disk)
//! ```
//!
//! Everything that comes from a registry is hostile until its digest was checked. Hosts that were not listed are never
//! contacted: not by redirect, not by token realm, not by a descriptor's `urls`.
#![forbid(unsafe_code)]

mod client;
mod endpoint;
mod error;
mod manifest;
pub mod scan;
mod token;
mod transport;

pub use client::{ImageFacts, Limits, RegistryClient, ResolvedImage, SignatureLayer};
pub use endpoint::{ClientLimits, Credentials, RegistryEndpoint};
pub use error::RegistryError;
