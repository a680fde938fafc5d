//! What the agent says of itself on its admin listener.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lattice_api::v1::{Event, event::Kind};
use tokio::sync::watch;

use crate::{
    admin::{
        Facts, Source,
        health::{Condition, Heartbeat, SILENCE},
    },
    containers::containerd,
    kernel::{
        object::{Tier, missing_links},
        pins::PinDirectory,
    },
    policy_sources::{PolicySources, Unknown},
    spool::Spool,
    state::Shared,
    uplink,
};

/// Events since the agent's start.
#[derive(Debug, Default)]
pub struct EventCounts {
    violations: AtomicU64,
    gaps: AtomicU64,
    notices: AtomicU64,
    lost: AtomicU64,
}

impl EventCounts {
    /// Counts one.
    pub fn add(&self, event: &Event) {
        match &event.kind {
            Some(Kind::Gap(gap)) => {
                self.gaps.fetch_add(1, Ordering::Relaxed);
                self.lost
                    .fetch_add(lattice_api::event::lost_events(gap), Ordering::Relaxed);
            }
            Some(Kind::Notice(_)) => {
                self.notices.fetch_add(1, Ordering::Relaxed);
            }
            Some(Kind::Violation(_)) | None => {
                self.violations.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// When the agent became ready.
#[derive(Debug)]
pub struct Start {
    began: Instant,
    took: OnceLock<Duration>,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            took: OnceLock::new(),
        }
    }
}

impl Start {
    /// It is ready now, if it was not before.
    pub fn done(&self) {
        let _ = self.took.set(self.began.elapsed());
    }
}

/// The agent, as the listener asks it.
pub struct AdminSource {
    /// Containers, policies, counters.
    pub state: Arc<Shared>,
    /// Where policies come from.
    pub sources: Arc<PolicySources>,
    /// Where programs and maps are pinned.
    pub pins: PinDirectory,
    /// The tier in force.
    pub tier: Tier,
    /// Release of the kernel.
    pub kernel_release: String,
    /// Events that wait.
    pub spool: Arc<Spool>,
    /// Events that were made.
    pub events: Arc<EventCounts>,
    /// Sign of life of who reads the ring buffer.
    pub reader: Heartbeat,
    /// How the start went.
    pub start: Arc<Start>,
    /// Whether policies come from files.
    pub has_files: bool,
    /// How it stands with central; absent without one.
    pub central: Option<watch::Receiver<uplink::Connection>>,
    /// How it stands with containerd; absent without one.
    pub containerd: Option<watch::Receiver<containerd::Connection>>,
}

impl AdminSource {
    fn is_watching_containerd(&self) -> Option<bool> {
        let containerd = self.containerd.as_ref()?;
        Some(*containerd.borrow() == containerd::Connection::Watching)
    }

    /// Containers that stay as they were before this start.
    fn held(&self) -> u64 {
        self.state.enforcement().held_count().map_or(0, |count| count as u64)
    }

    fn reader_condition(&self) -> Condition {
        let silence = self.reader.silence();
        Condition::new("events", silence < SILENCE, || {
            format!("the ring buffer was not looked at for {} s", silence.as_secs())
        })
    }
}

impl Source for AdminSource {
    fn health(&self) -> Vec<Condition> {
        // Not to be had where somebody holds it for ever; then the listener says so.
        drop(self.state.enforcement());
        vec![Condition::new("state", true, String::new), self.reader_condition()]
    }

    fn readiness(&self) -> Vec<Condition> {
        let missing = missing_links(self.tier, &self.pins);
        let links = Condition::new("links", missing.is_empty(), || {
            format!(
                "not attached: {}: was the agent uninstalled while it runs? Start it again",
                missing.join(", ")
            )
        });
        let has_started = self.start.took.get().is_some();
        let maps = Condition::new("maps", has_started, || "containers are still being made known".into());
        let held = self.held();
        let mut unknown = self.sources.unknown();
        // Files are enough to begin with, where nothing was in force before.
        if self.has_files && held == 0 {
            unknown.remove(&Unknown::Central);
        }
        let policies = Condition::new("policies", unknown.is_empty(), || {
            let mut text = unknown.values().cloned().collect::<Vec<_>>().join("; ");
            if held > 0 {
                text.push_str(&format!(
                    "; {held} containers stay as they were before this start until then"
                ));
            }
            text
        });
        let containers = Condition::new("containers", self.is_watching_containerd() != Some(false), || {
            "containerd does not answer; containers that were known stay known".into()
        });
        vec![links, maps, policies, containers, self.reader_condition()]
    }

    fn facts(&self) -> Facts {
        let mut containers: BTreeMap<String, u64> = BTreeMap::new();
        let enforcement = self.state.enforcement();
        for standing in enforcement.standings() {
            let mode = standing.mode.map_or_else(|| "none".to_owned(), |mode| mode.to_string());
            *containers.entry(mode).or_default() += 1;
        }
        let (policies, rejected) = (enforcement.policies().count(), enforcement.rejected_count());
        drop(enforcement);
        let (verdicts, named) = self.state.kernel_counters();
        let front = self.state.front_counts();
        Facts {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel_release: self.kernel_release.clone(),
            tier: self.tier.number(),
            start_seconds: self.start.took.get().map(Duration::as_secs_f64),
            verdicts,
            named,
            containers,
            policies: policies as u64,
            policies_rejected: rejected as u64,
            policy_files_broken: self.sources.broken_files(),
            policy_sources_unknown: self.sources.unknown().len() as u64,
            containers_held: self.held(),
            denied: self.state.denials().map_or([0, 0], |denials| {
                let counts = denials.counts();
                [counts.files, counts.images]
            }),
            violation_events: self.events.violations.load(Ordering::Relaxed),
            notice_events: self.events.notices.load(Ordering::Relaxed),
            gap_events: self.events.gaps.load(Ordering::Relaxed),
            lost_events: self.events.lost.load(Ordering::Relaxed),
            spool: self.spool.metrics(),
            central_connected: self
                .central
                .as_ref()
                .map(|central| *central.borrow() == uplink::Connection::Connected),
            containerd_connected: self.is_watching_containerd(),
            front_running: front.as_ref().map(|(is_running, _)| *is_running),
            front: front.map(|(_, counts)| counts.named().collect()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lattice_api::v1::{Gap, Violation};

    use super::*;

    #[test]
    fn a_gap_counts_what_it_stands_for() {
        let counts = EventCounts::default();
        let event = |kind| Event {
            kind: Some(kind),
            ..Event::default()
        };
        counts.add(&event(Kind::Violation(Violation::default())));
        counts.add(&event(Kind::Gap(Gap {
            first_sequence: 3,
            last_sequence: 9,
            ..Gap::default()
        })));
        let counted = [&counts.violations, &counts.gaps, &counts.lost].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counted, [1, 1, 7]);
    }
}
