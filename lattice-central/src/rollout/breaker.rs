//! The breaker: takes a workload back when what is enforced hurts it, and not when somebody attacks it.
//!
//! ```text
//!   refused, and the image holds it ──► the container ends within a minute ──────────────► open
//!            │                     └──► so many of one program, in so many pods ─────────► open
//!            └ the image does not hold it, or it is denied ──► never; what its container does afterwards does not count either
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lattice_api::object::Breaker;
use serde::{Deserialize, Serialize};

use super::{
    evidence::{Evidence, ViolationFacts},
    state::UnixNanos,
};

/// A container that ends so long after a refusal may have ended because of it.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(60);
/// A container that is not told of for so long has ended: an agent that starts anew tells of them one after the other.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// Refusals that are told later than this are for review only.
const TOLD_WITHIN: Duration = Duration::from_secs(300);
/// Refusals that are remembered.
const REFUSALS_MAXIMUM: usize = 1_000;
/// The drift of a program that the image holds. Any other is somebody's who put it there, or nobody knows whose.
const IN_IMAGE: &str = "unlisted-in-image";
/// Drift that somebody brought about.
const DRIFTED: [&str; 5] = ["not-in-image", "modified", "memfd", "deleted", "denylisted"];

/// What a breaker remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerState {
    /// How often it opened since a person last said that all is well.
    pub opened: u32,
    /// Refusals of what the image holds, the oldest first.
    pub refusals: Vec<Refusal>,
    /// Containers, as `node/id`, in which something drifted, and when last.
    pub drifted: BTreeMap<String, UnixNanos>,
}

/// One refusal of what the image holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The container, as `node/id`.
    pub container: String,
    /// Its node.
    pub node: String,
    /// Its pod.
    pub pod: String,
    /// The program.
    pub program: String,
    /// When central heard of it.
    pub time: UnixNanos,
    /// How many it stands for.
    pub count: u64,
    /// Since when the container is not told of.
    pub gone_since: Option<UnixNanos>,
}

impl BreakerState {
    /// Takes a violation that was refused.
    pub fn take(&mut self, violation: &ViolationFacts, now: UnixNanos) {
        let container = format!("{}/{}", violation.node, violation.container);
        // Attack or accident: what happens to this container says nothing about the list any more, nor did what led to it.
        if DRIFTED.contains(&violation.drift.as_str()) {
            self.refusals.retain(|refusal| refusal.container != container);
            if self.drifted.len() < REFUSALS_MAXIMUM {
                self.drifted.insert(container, now);
            }
            return;
        }
        let is_in_image = violation.drift == IN_IMAGE && violation.is_refused;
        let is_late = now.abs_diff(violation.time) > nanos(TOLD_WITHIN);
        if !is_in_image || is_late || self.drifted.contains_key(&container) {
            return;
        }
        if self.refusals.len() >= REFUSALS_MAXIMUM {
            self.refusals.remove(0);
        }
        self.refusals.push(Refusal {
            container,
            node: violation.node.clone(),
            pod: violation.pod.clone(),
            program: violation.path.clone(),
            time: now,
            count: violation.count,
            gone_since: None,
        });
    }

    /// Looks whether it opens now, and why.
    pub fn look(&mut self, rules: &Breaker, evidence: &Evidence, now: UnixNanos) -> Option<String> {
        let remembered = nanos(FOLLOWS_WITHIN + GONE_AFTER).max(nanos(rules.window.duration()));
        self.refusals
            .retain(|refusal| now.saturating_sub(refusal.time) <= remembered);
        self.drifted.retain(|_, time| now.saturating_sub(*time) <= remembered);
        let there: BTreeSet<String> = evidence
            .containers
            .iter()
            .map(|container| format!("{}/{}", container.node, container.id))
            .collect();
        for refusal in &mut self.refusals {
            let is_told_of = evidence.nodes.get(&refusal.node).is_some_and(|node| node.is_connected);
            if there.contains(&refusal.container) {
                refusal.gone_since = None;
            } else if is_told_of {
                refusal.gone_since.get_or_insert(now);
            }
        }
        let ended = self.refusals.iter().find(|refusal| {
            refusal.gone_since.is_some_and(|gone| {
                gone.saturating_sub(refusal.time) <= nanos(FOLLOWS_WITHIN)
                    && now.saturating_sub(gone) >= nanos(GONE_AFTER)
            })
        });
        if let Some(refusal) = ended {
            return Some(format!(
                "{:?}, which the image holds, was refused in container {}, which ended within {} s of it",
                refusal.program,
                refusal.container,
                FOLLOWS_WITHIN.as_secs()
            ));
        }
        let mut programs: BTreeMap<&str, (u64, BTreeSet<&str>)> = BTreeMap::new();
        for refusal in self
            .refusals
            .iter()
            .filter(|refusal| now.saturating_sub(refusal.time) <= nanos(rules.window.duration()))
        {
            let (count, pods) = programs.entry(&refusal.program).or_default();
            *count += refusal.count;
            pods.insert(&refusal.pod);
        }
        let (program, (count, pods)) = programs.into_iter().find(|(_, (count, pods))| {
            *count >= u64::from(rules.refusals) && pods.len() >= usize::try_from(rules.pods).unwrap_or(usize::MAX)
        })?;
        Some(format!(
            "{program:?}, which the image holds, was refused {count} times in {} pod{} within {}",
            pods.len(),
            if pods.len() == 1 { "" } else { "s" },
            rules.window
        ))
    }

    /// Opens it; when monitoring begins anew by itself, if it does.
    pub fn open(&mut self, rules: &Breaker, now: UnixNanos) -> Option<UnixNanos> {
        self.opened = self.opened.saturating_add(1);
        self.refusals.clear();
        // Doubled each time; 2^16 hours are years.
        let factor = 1_u32 << (self.opened - 1).min(16);
        let wait = nanos(rules.back_off.duration().saturating_mul(factor));
        (self.opened <= rules.max_auto_rearm).then(|| now.saturating_add(wait))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
