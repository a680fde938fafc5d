//! The facts as OpenMetrics text. Every name is in docs/metrics.md; a test of the running agent holds the two together.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use super::{AgentFacts, Facts};

type Labels = Vec<(&'static str, String)>;
type Real = Gauge<f64, AtomicU64>;

/// What the front counts, as outcomes; those left out are told by other metrics or are details of the log.
const FRONT_LABEL: &str = "outcome";

/// All metrics. Those that do not apply (a front in tier 1, a central that is not named) are there with 0.
pub(super) fn text(facts: &Facts, agent: AgentFacts, is_healthy: bool, is_ready: bool) -> String {
    let mut registry = Registry::with_prefix("lattice");
    let mut metrics = Metrics(&mut registry);
    metrics.info(facts);
    metrics.flag("healthy", "Whether /healthz answers 200", is_healthy);
    metrics.flag("ready", "Whether /readyz answers 200", is_ready);
    metrics.gauge(
        "tier",
        "Tier in force: 1 refuses by BPF LSM, 2 kills at exec",
        u64::from(facts.tier),
    );
    metrics.real(
        "start_duration_seconds",
        "From the start of the agent until it was ready; 0 before",
        facts.start_seconds.unwrap_or(0.0),
    );
    metrics.counters(
        "verdicts",
        "Execs judged by the kernel side, by reason",
        "reason",
        facts
            .verdicts
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count)),
    );
    metrics.named(&facts.named);
    metrics.gauges(
        "containers",
        "Known containers, by the mode that holds; none where no policy does",
        "mode",
        ["monitor", "enforce", "deny", "none"].map(|mode| {
            let count = facts.containers.get(mode).copied().unwrap_or(0);
            (mode.to_owned(), count)
        }),
    );
    metrics.gauge("policies", "Policies in force", facts.policies);
    metrics.gauge(
        "policies_rejected",
        "Policies that are not in force because the kernel cannot be given them",
        facts.policies_rejected,
    );
    metrics.gauge(
        "policy_files_broken",
        "Policy files that cannot be understood as they are now; their last good state is in force",
        facts.policy_files_broken,
    );
    metrics.gauge(
        "policy_sources_unknown",
        "Sources of policies (files, central, modes) of which something is not known that may have held before the start",
        facts.policy_sources_unknown,
    );
    metrics.gauge(
        "containers_held",
        "Containers that stay as they were before the start until those sources are known",
        facts.containers_held,
    );
    metrics.gauges(
        "denied_digests",
        "Digests on the denylist, by what they are of",
        "kind",
        ["file", "image"]
            .into_iter()
            .zip(facts.denied)
            .map(|(kind, count)| (kind.to_owned(), count)),
    );
    metrics.counters(
        "events",
        "Events made since the agent's start, by kind",
        "kind",
        [
            ("violation", facts.violation_events),
            ("gap", facts.gap_events),
            ("notice", facts.notice_events),
        ]
        .map(|(kind, count)| (kind.to_owned(), count)),
    );
    metrics.counter("events_lost", "Events that gap events stand for", facts.lost_events);
    metrics.gauge(
        "spool_events",
        "Events that central has not acknowledged",
        facts.spool.pending_events,
    );
    metrics.gauge("spool_bytes", "Bytes of the spool on the disk", facts.spool.bytes);
    metrics.counter(
        "spool_appended_events",
        "Events that the spool took",
        facts.spool.appended_total,
    );
    metrics.counter(
        "spool_acknowledged_events",
        "Events that central has acknowledged",
        facts.spool.acknowledged_total,
    );
    metrics.counter(
        "spool_dropped_events",
        "Events that the spool gave up because it was full",
        facts.spool.dropped_total,
    );
    metrics.counter(
        "spool_cut_off_bytes",
        "Bytes that were no whole event when the spool was opened",
        facts.spool.cut_off_bytes,
    );
    metrics.flag(
        "central_connected",
        "Whether central's policies are being received",
        facts.central_connected.unwrap_or(false),
    );
    metrics.flag(
        "containerd_connected",
        "Whether containerd's containers are being watched",
        facts.containerd_connected.unwrap_or(false),
    );
    metrics.flag(
        "front_running",
        "Whether scripts are judged (tier 2)",
        facts.front_running.unwrap_or(false),
    );
    metrics.counters(
        "front_questions",
        "What fanotify asked of the front, and how that ended (tier 2)",
        FRONT_LABEL,
        facts
            .front
            .iter()
            .map(|(outcome, count)| ((*outcome).to_owned(), *count)),
    );
    metrics.gauge(
        "agent_resident_memory_bytes",
        "Resident memory of the agent",
        agent.resident_bytes,
    );
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(agent.cpu_seconds);
    registry.register("agent_cpu_seconds", "CPU that the agent has taken", cpu);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// One counter by its labels' names and values.
type Labelled = Family<Vec<(String, String)>, Counter>;

struct Metrics<'registry>(&'registry mut Registry);

impl Metrics<'_> {
    fn info(&mut self, facts: &Facts) {
        let labels = vec![
            ("version", escaped(&facts.version)),
            ("kernel", escaped(&facts.kernel_release)),
        ];
        self.0.register("agent", "The agent and its kernel", Info::new(labels));
    }

    /// Counters by their whole names, with a label where they have one: `lattice_a_total{b="c"}`.
    fn named(&mut self, counters: &BTreeMap<String, u64>) {
        const HELP: &str = "See docs/metrics.md";
        let mut families: BTreeMap<&str, Labelled> = BTreeMap::new();
        for (whole, count) in counters {
            let (name, label) = whole.split_once('{').unwrap_or((whole, ""));
            let name = name.strip_prefix("lattice_").unwrap_or(name);
            let name = name.strip_suffix("_total").unwrap_or(name);
            let label = label.strip_suffix("\"}").and_then(|label| label.split_once("=\""));
            let Some((label, value)) = label else {
                self.counter(name, HELP, *count);
                continue;
            };
            let labels = vec![(label.to_owned(), value.to_owned())];
            families.entry(name).or_default().get_or_create(&labels).inc_by(*count);
        }
        for (name, family) in families {
            self.0.register(name, HELP, family);
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(name, help, gauge);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u64::from(value));
    }

    fn real(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Real::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (value, count) in values {
            family.get_or_create(&vec![(label, value)]).inc_by(count);
        }
        self.0.register(name, help, family);
    }

    fn gauges(&mut self, name: &str, help: &str, label: &'static str, values: impl IntoIterator<Item = (String, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (value, count) in values {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            family.get_or_create(&vec![(label, value)]).set(count);
        }
        self.0.register(name, help, family);
    }
}

/// A label's value in OpenMetrics' escape, which the encoder (0.24) leaves to its caller.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_become_text() {
        let facts = Facts {
            version: "0.1.0".into(),
            kernel_release: "6.1 \"odd\"".into(),
            tier: 2,
            verdicts: vec![("listed-digest", 4), ("unlisted", 0)],
            named: [
                ("lattice_ring_buffer_full_total", 7),
                ("lattice_nri_starts_total{outcome=\"late\"}", 2),
            ]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
            containers: [("enforce".to_owned(), 3)].into(),
            denied: [6, 2],
            lost_events: 5,
            front: vec![("denied", 2)],
            ..Facts::default()
        };
        let agent = AgentFacts {
            resident_bytes: 1024,
            cpu_seconds: 1.5,
        };
        let text = text(&facts, agent, true, false);
        for line in [
            "lattice_agent_info{version=\"0.1.0\",kernel=\"6.1 \\\"odd\\\"\"} 1",
            "lattice_healthy 1",
            "lattice_ready 0",
            "lattice_tier 2",
            "lattice_verdicts_total{reason=\"listed-digest\"} 4",
            "lattice_ring_buffer_full_total 7",
            "lattice_nri_starts_total{outcome=\"late\"} 2",
            "lattice_containers{mode=\"enforce\"} 3",
            "lattice_containers{mode=\"none\"} 0",
            "lattice_denied_digests{kind=\"image\"} 2",
            "lattice_events_lost_total 5",
            "lattice_central_connected 0",
            "lattice_front_questions_total{outcome=\"denied\"} 2",
            "lattice_agent_resident_memory_bytes 1024",
            "lattice_agent_cpu_seconds_total 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
