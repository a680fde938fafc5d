//! Metrics for a Prometheus that is elsewhere: over TLS, and for nobody but who has a certificate for it. The agent and central share this.
//!
//! ```text
//!   Credentials (certificate, key, authority), replaced while it runs
//!        ▼
//!   Listener ◄── TLS 1.3 ── Prometheus
//!        └─► the client's certificate: by this authority, and with the name metrics.lattice ──► GET /metrics ──► the program's own text
//! ```
//!
//! The certificate of a scraper is good for nothing else: neither central nor an agent takes it for an operator's or a node's.
#![forbid(unsafe_code)]

mod credentials;
mod listener;

pub use credentials::{Credentials, CredentialsError};
pub use listener::Listener;

/// DNS SAN of a scraper's certificate.
pub const SCRAPER_NAME: &str = "metrics.lattice";
/// DNS SAN, besides its own, of each agent's certificate: one name for all, since a scraper is told one for all that it scrapes.
pub const AGENT_SERVER_NAME: &str = "agent.metrics.lattice";
/// What is answered is of this type.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
