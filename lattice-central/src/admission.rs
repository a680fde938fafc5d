//! Admission: what the API server asks before it lets an object in that runs images.
//!
//! ```text
//!   API server ── TLS ─► listener ─► review: object ─► images that are new ─► judge: denied? trusted? signed? Cedar ─► answer
//!                           ▲                              facts, kept by digest ──┘                                     │
//!        certificate ───────┘ renews itself                counted, and told as events of the namespace ◄────────────────┘
//!        webhook: writes the authority into the ValidatingWebhookConfiguration
//!        floor: writes the trusted registries for the API server's own ValidatingAdmissionPolicy
//! ```
//!
//! The stage comes with the path: the configuration has one webhook for namespaces that are warned and one for those that refuse, each with
//! its own failure policy, and the API server reads the namespaces' labels.
//!
//! Architecture Invariant: an image is verified here by the code that verifies a service's, and Cedar is asked anew each time. What is kept is
//! what was proven of a digest, and never longer than the TrustPolicies and keys that it was proven by.
//!
//! Architecture Invariant: only images that an object did not name before are judged. What runs can be scaled, labelled and deleted, whatever
//! became of its signature.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

pub mod answer;
pub mod certificate;
pub mod facts;
pub mod floor;
pub mod judge;
pub mod listener;
pub mod notices;
pub mod object;
pub mod review;
pub mod webhook;

/// The label by which a namespace has its stage. Whoever may change it may change what is admitted.
pub const LABEL: &str = "lattice.dev/admission";

/// How far a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Everything is let in, and who asked is told what would be refused.
    Warn,
    /// What is not verified and permitted is refused.
    Deny,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Warn, Self::Deny];

    /// As the label has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Deny => "deny",
        }
    }

    /// Where the API server asks.
    pub fn path(self) -> &'static str {
        match self {
            Self::Warn => "/admission/warn",
            Self::Deny => "/admission/deny",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// What came of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every image is verified and permitted.
    Allowed,
    /// One is not; in the stage `warn` it was let in all the same.
    Refused,
    /// It was not found out in time, or the registry did not answer.
    Unknown,
    /// Central has not seen all objects yet, or has too much to do.
    Unready,
    /// The request is not in the form.
    Malformed,
}

impl Outcome {
    const ALL: [Self; 5] = [
        Self::Allowed,
        Self::Refused,
        Self::Unknown,
        Self::Unready,
        Self::Malformed,
    ];

    /// As counters have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Unready => "unready",
            Self::Malformed => "malformed",
        }
    }
}

/// How often what came of reviews.
#[derive(Debug, Default)]
pub struct Counts {
    reviews: [[AtomicU64; Outcome::ALL.len()]; Stage::ALL.len()],
    notices_lost: AtomicU64,
}

impl Counts {
    fn review(&self, stage: Stage, outcome: Outcome) {
        self.reviews[stage as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn notice_lost(&self) {
        self.notices_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Every counter by its documented name.
    pub fn all(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for (stage, counts) in Stage::ALL.iter().zip(&self.reviews) {
            for (outcome, count) in Outcome::ALL.iter().zip(counts) {
                let outcome = outcome.word();
                all.push((
                    format!("lattice_central_admission_reviews_total{{stage=\"{stage}\",outcome=\"{outcome}\"}}"),
                    count.load(Ordering::Relaxed),
                ));
            }
        }
        all.push((
            "lattice_central_admission_events_lost_total".to_owned(),
            self.notices_lost.load(Ordering::Relaxed),
        ));
        all
    }
}

#[cfg(test)]
mod tests;
