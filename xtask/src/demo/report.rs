//! What was seen, held against what was expected: as a table for people, as JSON for programs.

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;
use serde_json::Value;

use super::expectations::{EXPECTATIONS, Ends, Expectation};

/// Columns of the table where there is no terminal.
const WIDTH: u16 = 160;

/// How a program ended, as whoever started it saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WaitStatus {
    /// It ended by itself.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// The start was refused; what the starter said.
    NotStarted(String),
}

impl WaitStatus {
    /// From the exit code of a shell or a runtime, which says 128 + N for signal N.
    pub(super) fn from_exit_code(code: i32) -> Self {
        match code {
            129..=192 => Self::Signal(code - 128),
            code => Self::Exit(code),
        }
    }

    fn is(&self, ends: Ends) -> bool {
        match ends {
            Ends::Well => *self == Self::Exit(0),
            Ends::Killed => *self == Self::Signal(9),
            Ends::Refused => matches!(self, Self::Signal(9) | Self::NotStarted(_)),
        }
    }
}

impl std::fmt::Display for WaitStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(formatter, "exit {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
            Self::NotStarted(why) => {
                let last = why.rsplit(": ").next().unwrap_or(why);
                write!(formatter, "not started ({})", last.trim())
            }
        }
    }
}

/// An event as `latticectl` showed it; node, boot and sequence identify it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventSeen {
    pub(super) node: String,
    pub(super) boot_id: String,
    pub(super) sequence: u64,
    pub(super) mode: String,
    pub(super) hook: String,
    pub(super) reason: String,
    pub(super) role: String,
    pub(super) drift: String,
    pub(super) effective_action: String,
    pub(super) path: String,
    pub(super) path_as_passed: String,
    pub(super) message: String,
}

impl EventSeen {
    pub(super) fn from_document(event: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let violation = &event["violation"];
        Self {
            node: text(&event["node"]),
            boot_id: text(&event["bootId"]),
            sequence: event["sequence"].as_u64().unwrap_or_default(),
            mode: text(&violation["mode"]),
            hook: text(&violation["hook"]),
            reason: text(&violation["reason"]),
            role: text(&violation["role"]),
            drift: text(&violation["drift"]),
            effective_action: text(&violation["effectiveAction"]),
            path: text(&violation["path"]),
            path_as_passed: text(&violation["pathAsPassed"]),
            message: text(&event["message"]),
        }
    }
}

impl EventSeen {
    /// The path by which it is best known; a tracepoint cannot resolve one.
    fn name(&self) -> &str {
        match (self.path.as_str(), self.path_as_passed.as_str()) {
            ("", "") => &self.role,
            ("", passed) => passed,
            (path, _) => path,
        }
    }
}

/// What one part of a step showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    pub(super) status: Option<WaitStatus>,
    /// Whether the canary left its mark; None where no canary takes part.
    pub(super) mark: Option<bool>,
    /// For each expected event the one that came; where silence is expected, one that broke it.
    pub(super) events: Vec<Option<EventSeen>>,
    pub(super) facts: Vec<(&'static str, String)>,
}

/// An expectation, what was seen, and how they differ.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    step: u8,
    name: &'static str,
    title: &'static str,
    passed: bool,
    wait_status: Option<WaitStatus>,
    mark_left: Option<bool>,
    events: Vec<Option<EventSeen>>,
    facts: serde_json::Map<String, Value>,
    differences: Vec<String>,
}

/// Where it was played.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stage {
    pub(super) node: String,
    pub(super) tier: u64,
    pub(super) kernel: String,
    pub(super) boot_id: String,
    pub(super) signed_by: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    stage: &'a Stage,
    passed: bool,
    error: Option<String>,
    steps: &'a [Line],
}

/// Collects observations while the demo plays.
#[derive(Default)]
pub(super) struct Report {
    pub(super) stage: Stage,
    observations: Vec<(&'static str, Observation)>,
}

impl Report {
    /// Notes what was seen, and returns how it differs from what was expected.
    pub(super) fn observe(&mut self, name: &'static str, observation: Observation) -> Vec<String> {
        let differences = EXPECTATIONS
            .iter()
            .find(|expectation| expectation.name == name)
            .map_or_else(
                || vec![format!("nobody expects {name}")],
                |expectation| compare(expectation, &observation),
            );
        self.observations.push((name, observation));
        differences
    }

    fn lines(&self) -> Vec<Line> {
        EXPECTATIONS
            .iter()
            .map(|expectation| {
                let found = self.observations.iter().find(|(name, _)| *name == expectation.name);
                let differences = match found {
                    Some((_, observation)) => compare(expectation, observation),
                    None => vec!["not observed".to_owned()],
                };
                let observation = found.map(|(_, observation)| observation.clone()).unwrap_or_default();
                let facts = observation
                    .facts
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), Value::String(value)));
                Line {
                    step: expectation.step,
                    name: expectation.name,
                    title: expectation.title,
                    passed: differences.is_empty(),
                    wait_status: observation.status,
                    mark_left: observation.mark,
                    events: observation.events,
                    facts: facts.collect(),
                    differences,
                }
            })
            .collect()
    }

    /// Prints the table and the sum that `cargo xtask test` reads, writes the file; says whether all was as expected.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub(super) fn close(&self, file: Option<&Path>, error: Option<&anyhow::Error>) -> Result<bool> {
        let lines = self.lines();
        let mut table = Table::new();
        table
            .load_preset(UTF8_BORDERS_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["", "Step", "Expected", "Seen"]);
        if !io::stdout().is_terminal() {
            table.set_width(WIDTH);
        }
        for (line, expectation) in lines.iter().zip(EXPECTATIONS) {
            table.add_row([
                if line.passed { "ok" } else { "NO" }.to_owned(),
                format!("{} {}", line.step, line.title),
                expectation.to_string(),
                seen(line, expectation),
            ]);
        }
        println!("\n{table}");
        let passed = error.is_none() && lines.iter().all(|line| line.passed);
        if let Some(file) = file {
            let document = Document {
                api_version: "lattice.dev/v1alpha1",
                kind: "DemoReport",
                stage: &self.stage,
                passed,
                error: error.map(|error| format!("{error:#}")),
                steps: &lines,
            };
            let text = serde_json::to_string_pretty(&document).context("cannot write the report")?;
            fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
            println!("report: {}", file.display());
        }
        for line in lines.iter().filter(|line| !line.passed) {
            println!("FAILED: {}: {}", line.name, line.differences.join("; "));
        }
        let good = lines.iter().filter(|line| line.passed).count();
        println!("{good} passed, {} failed, 0 skipped", lines.len() - good);
        Ok(passed)
    }
}

fn seen(line: &Line, expectation: &Expectation) -> String {
    let mut parts = Vec::new();
    parts.extend(line.wait_status.as_ref().map(WaitStatus::to_string));
    parts.extend(
        line.mark_left
            .map(|left| if left { "mark left" } else { "no mark" }.to_owned()),
    );
    parts.extend(line.events.iter().map(|event| match event {
        Some(event) => format!(
            "event {}: {} {} ({})",
            event.sequence,
            event.name(),
            event.reason,
            event.effective_action
        ),
        None => "no event".to_owned(),
    }));
    for (name, _) in expectation.facts {
        let value = line.facts.get(*name).and_then(Value::as_str).unwrap_or("nothing");
        parts.push(format!("{name}: {value}"));
    }
    if !line.passed {
        parts.push(format!("→ {}", line.differences.join("; ")));
    }
    parts.join("\n")
}

/// How the observation differs; empty where it does not.
fn compare(expectation: &Expectation, observation: &Observation) -> Vec<String> {
    let mut differences = Vec::new();
    match (&observation.status, expectation.ends) {
        (Some(status), Some(ends)) if !status.is(ends) => differences.push(format!("{status} instead of {ends}")),
        (None, Some(ends)) => differences.push(format!("no status instead of {ends}")),
        _ => {}
    }
    if expectation.mark != observation.mark {
        differences.push(match (expectation.mark, observation.mark) {
            (Some(true), _) => "the canary left no mark".to_owned(),
            (Some(false), Some(true)) => "the canary left its mark".to_owned(),
            _ => "nobody looked for the right mark".to_owned(),
        });
    }
    if expectation.is_silent {
        differences.extend(
            observation
                .events
                .iter()
                .flatten()
                .map(|event| format!("an event: {}", event.message)),
        );
    }
    for (index, wanted) in expectation.events.iter().enumerate() {
        match observation.events.get(index).and_then(Option::as_ref) {
            None => differences.push(format!("no event for {}", wanted.path)),
            Some(event) => differences.extend(wanted.differences(event)),
        }
    }
    for (name, wanted) in expectation.facts {
        let found = observation.facts.iter().find(|(found, _)| found == name);
        let found = found.map_or("nothing", |(_, value)| value.as_str());
        if found != *wanted {
            differences.push(format!("{name} is {found} instead of {wanted}"));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation(name: &str) -> &'static Expectation {
        EXPECTATIONS
            .iter()
            .find(|expectation| expectation.name == name)
            .unwrap()
    }

    fn refused_wget() -> Observation {
        let event = EventSeen {
            node: "n".to_owned(),
            boot_id: "b".to_owned(),
            sequence: 1,
            mode: "enforce".to_owned(),
            hook: "bprm_check_security".to_owned(),
            reason: "unlisted".to_owned(),
            role: "target".to_owned(),
            drift: "unlisted-in-image".to_owned(),
            effective_action: "deny+kill".to_owned(),
            path: "/usr/bin/wget".to_owned(),
            path_as_passed: "wget".to_owned(),
            message: String::new(),
        };
        Observation {
            status: Some(WaitStatus::Signal(9)),
            mark: Some(false),
            events: vec![Some(event)],
            facts: vec![("downloads", "0".to_owned())],
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Observation), expected: Option<&str>) {
        let mut observation = refused_wget();
        change(&mut observation);
        let differences = compare(expectation("enforce-attack"), &observation);
        match expected {
            None => assert_eq!(differences, Vec::<String>::new()),
            Some(text) => assert!(differences.iter().any(|found| found.contains(text)), "{differences:?}"),
        }
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        check(|_| {}, None);
        check(
            |seen| seen.status = Some(WaitStatus::Exit(0)),
            Some("exit 0 instead of"),
        );
        check(|seen| seen.status = None, Some("no status"));
        check(|seen| seen.mark = Some(true), Some("left its mark"));
        check(|seen| seen.mark = None, Some("nobody looked"));
        check(|seen| seen.events.clear(), Some("no event for"));
        check(|seen| seen.facts.clear(), Some("downloads is nothing instead of 0"));
        let with = |change: fn(&mut EventSeen)| {
            move |seen: &mut Observation| seen.events.iter_mut().flatten().for_each(change)
        };
        check(with(|event| event.reason = "origin".to_owned()), Some("origin"));
        check(with(|event| event.effective_action = "none".to_owned()), Some("none"));
        check(
            with(|event| event.role = "elf-interpreter".to_owned()),
            Some("elf-interpreter"),
        );
    }

    #[test]
    fn nothing_passes_that_was_not_observed() {
        let report = Report::default();
        assert!(report.lines().iter().all(|line| !line.passed));
        assert!(!report.close(None, None).unwrap());
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<_> = EXPECTATIONS.iter().map(|expectation| expectation.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EXPECTATIONS.len());
    }

    #[test]
    fn exit_codes_above_128_are_signals() {
        assert_eq!(WaitStatus::from_exit_code(137), WaitStatus::Signal(9));
        assert_eq!(WaitStatus::from_exit_code(127), WaitStatus::Exit(127));
        assert_eq!(WaitStatus::from_exit_code(0), WaitStatus::Exit(0));
    }
}
