//! What is asked before anything is enforced: a snapshot of what is known, and the approvals that are bound to it.

use std::{fmt::Write as _, time::Duration};

use lattice_api::object::{ApprovalMode, LatticeRolloutSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    evidence::Evidence,
    miss::Review,
    state::{Track, UnixNanos},
};

/// An approval counts for so long.
pub const APPROVAL_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Who promotes where nobody must approve.
pub const CENTRAL: &str = "lattice-central";

/// The approvals of a track.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approvals(pub Vec<Approved>);

/// That somebody agreed to what was known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// The operator, by the certificate.
    pub by: String,
    /// When.
    pub time: UnixNanos,
    /// Hash of the snapshot that was agreed to.
    pub gate: String,
}

impl Approvals {
    /// Drops those that are too old, or are of something else than is known now; whom they were of is the answer.
    pub fn expire(&mut self, gate: &str, now: UnixNanos) -> Vec<String> {
        let lifetime = u64::try_from(APPROVAL_LIFETIME.as_nanos()).unwrap_or(u64::MAX);
        let counts = |approved: &Approved| approved.gate == gate && now.saturating_sub(approved.time) < lifetime;
        let (kept, over) = std::mem::take(&mut self.0).into_iter().partition(counts);
        self.0 = kept;
        let over: Vec<Approved> = over;
        over.into_iter().map(|approved| approved.by).collect()
    }

    /// Whose approvals count: those whom Cedar lets promote.
    pub fn counting<'a>(&'a self, evidence: &Evidence) -> Vec<&'a str> {
        let by = self.0.iter().map(|approved| approved.by.as_str());
        by.filter(|by| !evidence.forbidden.contains_key(*by)).collect()
    }

    /// Whether those whom Cedar lets promote are enough.
    pub fn are_enough(&self, spec: &LatticeRolloutSpec, evidence: &Evidence) -> bool {
        match spec.approval.mode {
            ApprovalMode::Auto => !evidence.forbidden.contains_key(CENTRAL),
            // Each operator is in it once.
            ApprovalMode::Manual => {
                self.counting(evidence).len() >= usize::try_from(spec.approval.approvers).unwrap_or(usize::MAX)
            }
        }
    }
}

/// What keeps a track in monitoring; empty where nothing does.
pub fn unmet(track: &Track, spec: &LatticeRolloutSpec) -> Vec<String> {
    let mut unmet = Vec::new();
    let clock = &track.clock;
    let burn_in = &spec.burn_in;
    for (what, have, need) in [
        ("the clock", clock.elapsed, burn_in.min_duration),
        ("the quiet period", clock.quiet, burn_in.quiet_period),
    ] {
        if have < need.duration() {
            let have = lattice_api::object::Timespan::from_seconds(have.as_secs());
            unmet.push(format!("{what} is at {have} of {need}"));
        }
    }
    match track.misses.open() {
        0 => {}
        1 => unmet.push("1 miss is open".to_owned()),
        count => unmet.push(format!("{count} misses are open")),
    }
    unmet
}

/// Hash of what an approval is given for: which lists, by which rules, and what was decided about each miss.
pub fn snapshot(namespace: &str, workload: &str, track: &Track, spec: &LatticeRolloutSpec) -> String {
    let mut text = format!("rollout {namespace}/{workload}\n");
    for (name, list) in &track.lists {
        let _ = writeln!(text, "policy {name} {} {}", list.image, list.content);
    }
    let (burn_in, approval) = (&spec.burn_in, &spec.approval);
    let _ = writeln!(
        text,
        "{} burn-in {} {} approval {:?} {}",
        spec.environment, burn_in.min_duration, burn_in.quiet_period, approval.mode, approval.approvers
    );
    for step in &spec.steps {
        let _ = writeln!(text, "step {} {}", step.pods, step.hold);
    }
    for (id, miss) in &track.misses.kept {
        if let Review::Dismissed(why) = &miss.review {
            let _ = writeln!(text, "dismissed {id} {} {:?}", why.by, why.reason);
        }
    }
    hex::encode(Sha256::digest(text))
}

/// Hash of what was known when something was decided.
pub fn evidence_hash(namespace: &str, workload: &str, track: &Track, spec: &LatticeRolloutSpec) -> String {
    let snapshot = snapshot(namespace, workload, track, spec);
    let clock = &track.clock;
    let mut text = format!(
        "{snapshot}\n{} {} {:?}\n{} {}\n",
        clock.elapsed.as_secs(),
        clock.quiet.as_secs(),
        clock.hold,
        track.misses.left_out,
        track.breaker.opened
    );
    for (id, miss) in &track.misses.kept {
        let _ = writeln!(text, "miss {id} {} {}", miss.count, miss.last);
    }
    for approved in &track.approvals.0 {
        let _ = writeln!(text, "approved {} {} {}", approved.by, approved.time, approved.gate);
    }
    hex::encode(Sha256::digest(text))
}
