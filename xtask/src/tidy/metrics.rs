//! Names of metrics in the chart's alerts and dashboard: each is one of docs/metrics.md, or an alert never fires and a panel stays empty.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};

use crate::workspace;

const PAGE: &str = "docs/metrics.md";
const FILES: [&str; 2] = ["alerts.yaml", "dashboard.json"];
/// What every name begins with.
const PREFIX: &str = "lattice_";

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"));
    let page = read(PAGE)?;
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0))
        .collect();
    let mut problems = Vec::new();
    for file in FILES {
        let text = read(&format!("deploy/charts/lattice/files/{file}"))?;
        let named = names(&text);
        if named.is_empty() {
            problems.push(format!("{file} names no metric"));
        }
        let unknown = named.iter().filter(|name| !documented.contains(*name));
        problems.extend(unknown.map(|name| format!("{file}: {name} is not in {PAGE}")));
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// Whole words that can only be metrics.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with(PREFIX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_where_its_labels_begin() {
        let text =
            "sum by (mode) (rate(lattice_a_total{mode=\"x\"}[5m])) > lattice_b or xlattice_c{job=\"lattice-agent\"}";
        assert_eq!(names(text), BTreeSet::from(["lattice_a_total", "lattice_b"]));
    }
}
