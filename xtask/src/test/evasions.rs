//! The evasion corpus: what the suites say of each trick, in one table, held against what the documentation promises.
//!
//! A suite says `evasion: TRICK | KERNEL | TIER | OUTCOME`, where the outcome is `refused, …`, `not applicable here, …` or `ran`.
//!
//! * In tier 1 nothing may have run.
//! * In tier 2 exactly those ran that `docs/kernel-support.md` lists, each with its reason: one that is refused is out of date there, and one
//!   that runs and is not listed is a hole that nobody was told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail};

use super::report::Tally;
use crate::workspace;

/// Where the table goes, below `target`.
const FILE: &str = "evasions.md";
/// The document that names the holes, and the heading of their table.
const DOCUMENT: &str = "docs/kernel-support.md";
const HEADING: &str = "## What of the evasion corpus tier 2 does not refuse";
/// Fewer tricks than these are no corpus.
const LEAST: usize = 40;

/// A kernel and a tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Column {
    tier: u8,
    /// Two numbers, so that 6.12 comes after 6.1 and 6.2.
    kernel: (u32, u32),
}

/// All that the suites said.
#[derive(Debug, Default)]
pub(super) struct Evasions {
    /// In the order of the corpus.
    tricks: Vec<String>,
    cells: BTreeMap<(String, Column), String>,
    columns: BTreeSet<Column>,
    bad_lines: Vec<String>,
}

/// How a line of the corpus begins.
const PREFIX: &str = "evasion: ";

impl Evasions {
    /// Whether a line of a suite's output is one of the corpus.
    pub(super) fn is_line(line: &str) -> bool {
        line.trim().starts_with(PREFIX)
    }

    /// Takes one line of a suite's output.
    pub(super) fn read_line(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix(PREFIX) else {
            return;
        };
        match parse(rest) {
            Some((trick, column, outcome)) => {
                if !self.tricks.contains(&trick) {
                    self.tricks.push(trick.clone());
                }
                self.columns.insert(column.clone());
                self.cells.insert((trick, column), outcome);
            }
            None => self.bad_lines.push(line.to_owned()),
        }
    }

    /// Prints the table and writes it below `target`; counts each cell that is as it must be. None where no suite told anything.
    ///
    /// # Errors
    /// When the document cannot be read or the table not be written.
    pub(super) fn close(&self) -> Result<Option<Tally>> {
        if self.tricks.is_empty() && self.bad_lines.is_empty() {
            return Ok(None);
        }
        let document = workspace::root().join(DOCUMENT);
        let text = fs::read_to_string(&document).with_context(|| format!("cannot read {}", document.display()))?;
        let holes = listed_holes(&text)?;
        let table = self.render();
        print!("{table}");
        let file = workspace::target().join(FILE);
        fs::write(&file, &table).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Some(self.judge(&holes)))
    }

    fn render(&self) -> String {
        let mut text = "| trick |".to_owned();
        for Column { tier, kernel } in &self.columns {
            text.push_str(&format!(" {}.{}, tier {tier} |", kernel.0, kernel.1));
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(self.columns.len())));
        for trick in &self.tricks {
            text.push_str(&format!("| {trick} |"));
            for column in &self.columns {
                let cell = self.cells.get(&(trick.clone(), column.clone()));
                text.push_str(&format!(" {} |", cell.map_or("no case", String::as_str)));
            }
            text.push('\n');
        }
        text
    }

    fn judge(&self, holes: &BTreeMap<String, String>) -> Tally {
        let mut troubles: Vec<String> = self
            .bad_lines
            .iter()
            .map(|line| format!("evasions: not understood: {line}"))
            .collect();
        let mut passed = 0;
        for ((trick, Column { tier, kernel }), outcome) in &self.cells {
            let ran = outcome == "ran";
            let place = format!("{trick}, tier {tier} on {}.{}", kernel.0, kernel.1);
            match (tier, ran, holes.contains_key(trick)) {
                (1, true, _) => troubles.push(format!("{place}: it ran")),
                (2, true, false) => troubles.push(format!("{place}: it ran, and {DOCUMENT} does not say so")),
                (2, false, true) => troubles.push(format!("{place}: {outcome}, and {DOCUMENT} says that it runs")),
                _ => passed += 1,
            }
        }
        let has_tier = |wanted| self.columns.iter().any(|column| column.tier == wanted);
        if has_tier(1) && self.tricks.len() < LEAST {
            troubles.push(format!("evasions: {} tricks, and {LEAST} are owed", self.tricks.len()));
        }
        for trick in holes.keys().filter(|_| has_tier(2)) {
            let was_tried = |(name, column): &&(String, Column)| name == trick && column.tier == 2;
            if !self.cells.keys().any(|cell| was_tried(&cell)) {
                troubles.push(format!(
                    "{trick}: {DOCUMENT} says that it runs in tier 2, and no case tried it there"
                ));
            }
        }
        Tally::of_checks(passed, troubles)
    }
}

fn parse(rest: &str) -> Option<(String, Column, String)> {
    let parts: Vec<&str> = rest.split(" | ").collect();
    let [trick, kernel, tier, outcome] = parts[..] else {
        return None;
    };
    let (major, minor) = kernel.split_once('.')?;
    let column = Column {
        tier: tier.parse().ok().filter(|tier| (1..=2).contains(tier))?,
        kernel: (major.parse().ok()?, minor.parse().ok()?),
    };
    let is_known = outcome == "ran" || outcome.starts_with("refused, ") || outcome.starts_with("not applicable here, ");
    (is_known && !trick.is_empty()).then(|| (trick.to_owned(), column, outcome.to_owned()))
}

/// Rows of the document's table: the trick, and why it runs.
fn listed_holes(document: &str) -> Result<BTreeMap<String, String>> {
    let mut lines = document.lines().skip_while(|line| *line != HEADING);
    if lines.next().is_none() {
        bail!("{DOCUMENT} has no heading {HEADING:?}");
    }
    let mut holes = BTreeMap::new();
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        let Some(row) = line.strip_prefix("| ") else { continue };
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [trick, reason] = cells[..] else {
            bail!("{DOCUMENT}: a hole is a trick and a reason, not {line:?}");
        };
        if reason.is_empty() || holes.insert(trick.to_owned(), reason.to_owned()).is_some() {
            bail!("{DOCUMENT}: {trick} has no reason, or stands there twice");
        }
    }
    // The first row is the heading of the columns.
    holes.remove("Trick");
    Ok(holes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], holes: &[&str], expected: &[&str]) {
        let mut evasions = Evasions::default();
        for line in lines {
            evasions.read_line(line);
        }
        let holes = holes
            .iter()
            .map(|trick| ((*trick).to_owned(), "a reason".to_owned()))
            .collect();
        let tally = evasions.judge(&holes);
        let mut found = tally.failures;
        found.retain(|failure| !failure.contains("are owed"));
        assert_eq!(found, expected, "{lines:?}");
    }

    #[test]
    fn nothing_may_run_in_tier_1_whatever_the_document_says() {
        check(&["evasion: a | 6.1 | 1 | refused, SIGKILL"], &[], &[]);
        check(&["evasion: a | 6.1 | 1 | not applicable here, ETXTBSY"], &[], &[]);
        check(&["evasion: a | 6.1 | 1 | ran"], &["a"], &["a, tier 1 on 6.1: it ran"]);
    }

    #[test]
    fn tier_2_and_the_document_are_held_against_each_other() {
        check(&["evasion: a | 6.18 | 2 | ran"], &["a"], &[]);
        check(
            &["evasion: a | 6.18 | 2 | ran"],
            &[],
            &["a, tier 2 on 6.18: it ran, and docs/kernel-support.md does not say so"],
        );
        check(
            &["evasion: a | 6.18 | 2 | refused, SIGKILL"],
            &["a"],
            &["a, tier 2 on 6.18: refused, SIGKILL, and docs/kernel-support.md says that it runs"],
        );
        check(
            &["evasion: a | 6.18 | 2 | ran"],
            &["a", "b"],
            &["b: docs/kernel-support.md says that it runs in tier 2, and no case tried it there"],
        );
        // Without a suite in tier 2 nothing is known of it.
        check(&["evasion: a | 6.1 | 1 | refused, EPERM"], &["a", "b"], &[]);
    }

    #[test]
    fn what_is_not_understood_is_a_failure() {
        for line in [
            "evasion: a | 6.1 | 1",
            "evasion: a | 6.1 | 3 | ran",
            "evasion: a | 6 | 1 | ran",
            "evasion: a | 6.1 | 1 | perhaps",
        ] {
            check(&[line], &[], &[&format!("evasions: not understood: {line}")]);
        }
    }

    #[test]
    fn a_corpus_of_a_few_tricks_is_none() {
        let mut evasions = Evasions::default();
        evasions.read_line("evasion: a | 6.1 | 1 | refused, EPERM");
        let tally = evasions.judge(&BTreeMap::new());
        assert_eq!(tally.failures, ["evasions: 1 tricks, and 40 are owed"]);
    }

    #[test]
    fn the_table_has_a_row_a_trick_and_a_column_a_kernel_and_tier() {
        let mut evasions = Evasions::default();
        for line in [
            "evasion: b | 6.12 | 1 | refused, SIGKILL",
            "evasion: a | 6.1 | 1 | refused, EPERM",
            "evasion: b | 6.18 | 2 | ran",
        ] {
            evasions.read_line(line);
        }
        assert_eq!(
            evasions.render(),
            "| trick | 6.1, tier 1 | 6.12, tier 1 | 6.18, tier 2 |\n|---|---|---|---|\n\
             | b | no case | refused, SIGKILL | ran |\n| a | refused, EPERM | no case | no case |\n"
        );
    }

    #[test]
    fn the_documents_table_is_read() {
        let holes = listed_holes(&fs::read_to_string(workspace::root().join(DOCUMENT)).unwrap_or_default());
        assert!(holes.is_ok_and(|holes| !holes.is_empty() && !holes.contains_key("---")));
    }
}
