//! One listener for those who run the agent: `/metrics`, `/healthz` and `/readyz`, in the clear and therefore on loopback or a Unix
//! socket alone. The metrics are there besides for who is elsewhere, by `lattice-scrape`.
//!
//! ```text
//!   Prometheus, kubelet ──► listener (address) ──► serve ──► health: conditions, each with what is wrong
//!                                                      ├───► metrics: facts of the agent and of the kernel's counters, as text
//!   Prometheus elsewhere ──TLS──► lattice-scrape ──────┘
//! ```

mod address;
mod facts;
pub mod health;
mod metrics;
mod serve;

pub use address::{AdminAddress, AdminAddressError};
pub use facts::{AgentFacts, Facts};
pub use serve::{Admin, AdminError, Source, metrics_router};
