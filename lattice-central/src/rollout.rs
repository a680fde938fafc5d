//! Rollouts: a LatticeRollout takes its namespace from monitor to enforce, workload by workload.
//!
//! ```text
//!   LatticeRollout ──────────────────────────────┐ spec
//!   board, nodes, standings, events ─► observe ──┤ evidence      ┌─► store (commit: state, history)
//!   clock of the wall ───────────────────────────┼─► machine ────┤
//!   latticectl rollout ─► command ───────────────┘ (pure)        └─► board: which policy enforces on which node
//!                    driver: once a second
//! ```
//!
//! `simulate` runs the same machine over what is recorded, with a candidate for the lists, and changes nothing.
//!
//! A *track* is one workload of the namespace with its policies. Each is taken through the phases by itself, so that a service that
//! comes new into a namespace that enforces begins in monitoring, and a breaker takes back one workload and not its neighbours.
//!
//! ```text
//!   Monitoring ──clock, quiet, nothing open──► AwaitingApproval ──N approvals──► Canary(step) ──all steps──► Enforced
//!       ▲  ▲                                        │ a miss, another gate           │ breaker, operator        │
//!       │  └────────────────────────────────────────┘                                ▼                          │
//!       └───────────────────── after the back-off, or when a person says so ──── RolledBack ◄───────────────────┘
//! ```
//!
//! Architecture Invariant: the machine does no I/O and reads no clock. Two weeks are a loop in a test.
//!
//! Architecture Invariant: nothing is enforced by a rollout without a full clock and its approvals, and nothing that was observed is
//! allowed because it was observed.
//!
//! Architecture Invariant: a refusal of what the image does not hold, or of what is denied, never opens a breaker.

pub mod breaker;
pub mod clock;
pub mod command;
pub mod driver;
pub mod evidence;
pub mod gate;
pub mod machine;
pub mod miss;
mod observe;
pub mod replay;
pub mod report;
mod sequences;
pub mod simulate;
pub mod state;
pub mod steps;
