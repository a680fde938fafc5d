//! The goals of REQUIREMENTS.md that this benchmark shows, each with the figure that decides it.

use super::measurement::Measurement;

/// A figure and its limit.
pub(super) struct Goal {
    pub(super) requirement: &'static str,
    /// What is limited, in words.
    pub(super) text: &'static str,
    /// The measurement's case.
    case: &'static str,
    /// The measurement's value.
    value: &'static str,
    /// Only measurements of this many containers.
    containers: u32,
    pub(super) limit: f64,
    pub(super) unit: &'static str,
}

const fn goal(
    requirement: &'static str,
    text: &'static str,
    (case, value, containers): (&'static str, &'static str, u32),
    limit: f64,
    unit: &'static str,
) -> Goal {
    Goal {
        requirement,
        text,
        case,
        value,
        containers,
        limit,
        unit,
    }
}

const WARM: &str = "allowed, static program, digest kept";
const IN_CONTAINER: &str = "static program in a container";
const FOOTPRINT: &str = "footprint";

/// All of them, in the requirements' order.
pub(super) const GOALS: [Goal; 11] = [
    goal(
        "P1",
        "BPF instructions of an allowed exec, warm",
        (WARM, "bpf_instructions", 1),
        3000.0,
        "",
    ),
    goal(
        "P1",
        "agent CPU of an allowed exec",
        (WARM, "agent_instructions", 1),
        20_000.0,
        "instructions",
    ),
    goal(
        "P1",
        "time in BPF of an allowed exec, warm",
        ("natively: allowed, static program, digest kept", "bpf_nanoseconds", 1),
        2000.0,
        "ns",
    ),
    goal(
        "P2",
        "execs lost in monitor",
        (IN_CONTAINER, "monitor_loss_percent", 1),
        1.0,
        "%",
    ),
    goal(
        "P2",
        "execs lost in enforce",
        (IN_CONTAINER, "enforce_loss_percent", 1),
        1.5,
        "%",
    ),
    goal("P3", "agent's memory (VmRSS)", (FOOTPRINT, "rss_mib", 250), 32.0, "MiB"),
    goal("P3", "maps", (FOOTPRINT, "maps_mib", 250), 8.0, "MiB"),
    goal("P3", "CPU at rest", (FOOTPRINT, "idle_cpu_percent", 250), 0.3, "%"),
    goal(
        "P3",
        "start to protected, one container",
        ("start", "start_seconds", 1),
        1.0,
        "s",
    ),
    goal(
        "P3",
        "start to protected, 250 × 100",
        ("start", "start_seconds", 250),
        1.0,
        "s",
    ),
    goal(
        "N6",
        "a mode's change, p99",
        (
            "natively: a namespace's mode, from latticectl to the kernel",
            "p99_seconds",
            250,
        ),
        1.0,
        "s",
    ),
];

impl Goal {
    /// The figure, if it was measured.
    pub(super) fn figure(&self, measurements: &[Measurement]) -> Option<f64> {
        measurements
            .iter()
            .filter(|measurement| measurement.case == self.case && measurement.containers == self.containers)
            .find_map(|measurement| measurement.values.get(self.value).copied())
    }

    /// Whether a figure is within the limit.
    pub(super) fn is_met(&self, figure: f64) -> bool {
        figure <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_finds_its_figure_and_no_other() {
        let maps = |containers, value| Measurement {
            case: FOOTPRINT.to_owned(),
            containers,
            values: [("maps_mib".to_owned(), value)].into(),
            ..Measurement::default()
        };
        let goal = &GOALS[6];
        assert_eq!(goal.figure(&[maps(1, 3.0), maps(250, 9.0)]), Some(9.0));
        assert_eq!(goal.figure(&[maps(1, 3.0)]), None);
        assert!(goal.is_met(8.0) && !goal.is_met(8.1));
    }
}
