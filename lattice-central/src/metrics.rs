//! What central counts, as OpenMetrics text. Every name is in docs/metrics.md.

use std::{collections::BTreeMap, fmt::Write as _};

/// What counters' names end with.
const TOTAL: &str = "_total";

/// From numbers by name and labels, as they are counted: `NAME` or `NAME{label="value"}`. Whether central is ready is told here alone, since
/// `lattice-central health` tells it to who can run it.
pub fn text(counted: &BTreeMap<String, u64>, is_ready: bool) -> String {
    let mut text = format!(
        "# HELP lattice_central See docs/metrics.md.\n# TYPE lattice_central info\nlattice_central_info{{version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    );
    let ready = ("lattice_central_ready", u64::from(is_ready));
    let counted = counted.iter().map(|(name, count)| (name.as_str(), *count));
    // A family's samples stand together, also where a longer name would come between them.
    let mut families: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (sample, count) in counted.chain([ready]) {
        let name = sample.split('{').next().unwrap_or(sample);
        families.entry(name).or_default().push((sample, count));
    }
    for (name, samples) in families {
        let (family, kind) = match name.strip_suffix(TOTAL) {
            Some(family) => (family, "counter"),
            None => (name, "gauge"),
        };
        // Nothing can go wrong in writing to a text.
        let _ = writeln!(text, "# HELP {family} See docs/metrics.md.\n# TYPE {family} {kind}");
        for (sample, count) in samples {
            let _ = writeln!(text, "{sample} {count}");
        }
    }
    text.push_str("# EOF\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_stand_by_family() {
        let counted = [
            ("lattice_central_nodes_not_applied", 0),
            ("lattice_central_nodes{state=\"away\"}", 1),
            ("lattice_central_nodes{state=\"connected\"}", 2),
            ("lattice_central_events_stored_total", 7),
        ];
        let counted = counted
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        let expected = concat!(
            "# HELP lattice_central See docs/metrics.md.\n",
            "# TYPE lattice_central info\n",
            "lattice_central_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1\n",
            "# HELP lattice_central_events_stored See docs/metrics.md.\n",
            "# TYPE lattice_central_events_stored counter\n",
            "lattice_central_events_stored_total 7\n",
            "# HELP lattice_central_nodes See docs/metrics.md.\n",
            "# TYPE lattice_central_nodes gauge\n",
            "lattice_central_nodes{state=\"away\"} 1\n",
            "lattice_central_nodes{state=\"connected\"} 2\n",
            "# HELP lattice_central_nodes_not_applied See docs/metrics.md.\n",
            "# TYPE lattice_central_nodes_not_applied gauge\n",
            "lattice_central_nodes_not_applied 0\n",
            "# HELP lattice_central_ready See docs/metrics.md.\n",
            "# TYPE lattice_central_ready gauge\n",
            "lattice_central_ready 1\n",
            "# EOF\n",
        );
        assert_eq!(text(&counted, true), expected);
    }
}
