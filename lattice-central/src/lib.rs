//! The central service: verifies signed images, asks Cedar, derives what may start, hands it to the agents, and keeps what
//! they report.
//!
//! ```text
//!   DIR/*.yaml, *.cedar, or an API server   registries (only those that a TrustPolicy names)
//!        │ objects: watched, last good state      ▲
//!        ▼                                        │ images
//!   reconciler ── a task a service ──► chain: resolve once ► signature ► gate (Cedar) ► layers ► derive
//!        │                                        │ stops at the first that does not open: conditions
//!        ▼                                        ▼
//!      board: policies + modes, revision ◄── derived policies, generation
//!        │        └──► store (SQLite): commit first, then tell
//!        ▼                  ▲
//!   server: hub ────────────┘ events, acknowledged after commit; a node speaks only for itself (identity)
//!        ├─ control: latticectl, operators only ──► denials ──► store, and at once to every agent
//!        └─ rollout: evidence, spec, time ──► machine (pure) ──► store ──► board: which policy enforces where
//! ```
//!
//! In a cluster what was derived becomes objects as well: `children` says which, `applier` brings them there, and what is said of a service
//! stands in its status.
//!
//! The programs: `lattice-central --local DIR` or `--kubernetes` serves; `lattice-central init-tls` makes certificates for local use;
//! `lattice-central schema` prints what Cedar policies may speak of. All settings are flags; `settings` has them.
//!
//! Architecture Invariant: nothing is given to an agent, and no event is acknowledged, before the store has committed it.
//!
//! Architecture Invariant: a failure never takes a policy away. A file that turns invalid, a registry that is down, a
//! derivation that fails: what was in force stays, and the conditions say why it is not newer. Only a service or document
//! that is gone takes its policy along.
//!
//! Architecture Invariant: decisions are not kept. Facts may be; Cedar is asked anew each time.
#![forbid(unsafe_code)]

pub mod admission;
pub mod applier;
pub mod authority;
pub mod board;
pub mod central;
pub mod chain;
pub mod children;
pub mod cluster_identity;
pub mod conditions;
pub mod denials;
pub mod enrolment;
pub mod gate;
pub mod health;
pub mod identity;
pub mod images;
pub mod init_tls;
pub mod metrics;
pub mod nodes;
pub mod objects;
pub mod reconciler;
pub mod rollout;
pub mod server;
pub mod settings;
pub mod specification;
pub mod standings;
pub mod store;
pub mod verification;
