//! Canary steps: which nodes enforce first.

use std::collections::{BTreeMap, BTreeSet};

use lattice_api::object::StepPods;
use sha2::{Digest, Sha256};

/// The nodes of a step: those that were in already, and, in an order that is the namespace's own, as many more as it takes to hold so
/// many pods.
pub fn nodes(
    namespace: &str,
    wanted: StepPods,
    pods: &BTreeMap<&str, BTreeSet<&str>>,
    already: &BTreeSet<String>,
) -> BTreeSet<String> {
    let all: usize = pods.values().map(BTreeSet::len).sum();
    let count = |node: &str| pods.get(node).map_or(0, BTreeSet::len);
    let mut taken = already.clone();
    let mut held: usize = taken.iter().map(|node| count(node)).sum();
    let mut others: Vec<_> = pods.keys().filter(|node| !already.contains(**node)).collect();
    others.sort_by_cached_key(|node| Sha256::digest(format!("{namespace}\0{node}")));
    let mut others = others.into_iter();
    while held < wanted.of(all) {
        // All pods are on nodes, so that there is one as long as some are missing.
        let Some(node) = others.next() else { break };
        held += count(node);
        taken.insert((*node).to_owned());
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PODS: [&str; 8] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];

    #[test]
    fn a_step_keeps_its_nodes_and_takes_in_as_few_as_it_can() {
        let pods: BTreeMap<&str, BTreeSet<&str>> = [
            ("a", [PODS[0], PODS[1]].into()),
            ("b", [PODS[2]].into()),
            ("c", [PODS[3], PODS[4], PODS[5]].into()),
        ]
        .into();
        let one = nodes("payments", StepPods::Count(1), &pods, &BTreeSet::new());
        assert_eq!(one.len(), 1);
        let half = nodes("payments", StepPods::Percent(50), &pods, &one);
        assert!(half.is_superset(&one));
        let all = nodes("payments", StepPods::Percent(100), &pods, &half);
        assert_eq!(all.len(), 3);
        // Another namespace begins on another node, sooner or later.
        let first = |namespace: &str| nodes(namespace, StepPods::Count(1), &pods, &BTreeSet::new());
        assert!((0..20).any(|number| first(&format!("n{number}")) != one));
        assert_eq!(
            nodes("payments", StepPods::Count(9), &BTreeMap::new(), &BTreeSet::new()),
            BTreeSet::new()
        );
    }

    proptest! {
        #[test]
        fn a_step_holds_what_it_says(counts in prop::collection::vec(0usize..8, 1..6), percent in 1u8..=100) {
            let names: Vec<String> = (0..counts.len()).map(|number| format!("node-{number}")).collect();
            let pods: BTreeMap<&str, BTreeSet<&str>> = names.iter().zip(&counts)
                .map(|(name, count)| (name.as_str(), PODS[..*count].iter().copied().collect()))
                .collect();
            let taken = nodes("n", StepPods::Percent(percent), &pods, &BTreeSet::new());
            let all: usize = counts.iter().sum();
            let held: usize = taken.iter().map(|node| pods[node.as_str()].len()).sum();
            prop_assert!(held >= StepPods::Percent(percent).of(all));
        }
    }
}
