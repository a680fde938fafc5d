//! The tables: for the terminal, and for docs/benchmarks.md between its two marks.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use anyhow::{Context, Result, bail};

use super::{KernelReport, Report, goals::GOALS, measurement::Measurement};
use crate::workspace;

const BEGIN: &str = "<!-- begin: written by `cargo xtask bench --write` -->";
const END: &str = "<!-- end -->";

/// Puts the tables into the page; what stands around the marks is written by people.
///
/// # Errors
///
/// Where the page cannot be read or written, or has no marks.
pub(super) fn write(report: &Report) -> Result<()> {
    let path = workspace::root().join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(page) = replaced(&page, &tables(report)) else {
        bail!("{} has no marks `{BEGIN}` and `{END}`", path.display());
    };
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

/// All tables as Markdown.
pub(super) fn tables(report: &Report) -> String {
    let mut text = String::new();
    let kernels: Vec<&str> = report.kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    let amount = if report.quick { "quick run" } else { "full run" };
    line(
        &mut text,
        &format!(
            "Commit {}, {}, {amount}; kernels {}; {}.",
            report.revision,
            report.date,
            kernels.join(" and "),
            report.emulator
        ),
    );
    goals(&mut text, report);
    for (requirement, heading) in [
        ("P1", "P1: one exec"),
        ("P2", "P2: vfork, exec, exit and wait"),
        ("P3", "P3: the agent at rest"),
        ("N6", "N6: a mode's change"),
    ] {
        line(&mut text, &format!("\n### {heading}\n"));
        figures(&mut text, report, requirement);
    }
    programs(&mut text, report);
    for kernel in &report.kernels {
        for failure in &kernel.failures {
            line(
                &mut text,
                &format!("\n**Not measured on {}:** {failure}", kernel.series),
            );
        }
        for note in notes(kernel) {
            line(&mut text, &format!("\nOn {}: {note}.", kernel.series));
        }
    }
    text
}

fn goals(text: &mut String, report: &Report) {
    line(text, "\n### Goals\n");
    heading(text, &["", "goal"], report);
    for goal in &GOALS {
        let mut cells = vec![
            format!("{} {}", goal.requirement, goal.text),
            format!("≤ {}", with_unit(goal.limit, goal.unit)),
        ];
        let is_measured = report
            .kernels
            .iter()
            .any(|kernel| goal.figure(&kernel.measurements).is_some());
        for kernel in &report.kernels {
            cells.push(match goal.figure(&kernel.measurements) {
                Some(figure) if goal.is_met(figure) => format!("{}, met", with_unit(figure, goal.unit)),
                Some(figure) => format!("**{}, missed**", with_unit(figure, goal.unit)),
                // Some are measured in VMs alone, others only natively.
                None if is_measured => "–".to_owned(),
                None => "not measured".to_owned(),
            });
        }
        row(text, &cells);
    }
}

/// One line a case and value.
fn figures(text: &mut String, report: &Report, requirement: &str) {
    heading(text, &["case", "figure"], report);
    let mut seen = BTreeSet::new();
    for measurement in report.kernels.iter().flat_map(|kernel| &kernel.measurements) {
        let key = (&measurement.case, measurement.containers, measurement.entries);
        if measurement.requirement != requirement || !seen.insert(key) {
            continue;
        }
        let mut case = situation(measurement);
        for name in measurement.values.keys() {
            let mut cells = vec![std::mem::take(&mut case), name.replace('_', " ")];
            for kernel in &report.kernels {
                let figure = same(kernel, measurement).and_then(|found| found.values.get(name));
                cells.push(figure.map_or_else(|| "–".to_owned(), |figure| number(*figure)));
            }
            row(text, &cells);
        }
    }
}

/// What each program takes of a warm exec.
fn programs(text: &mut String, report: &Report) {
    line(
        text,
        "\n### BPF instructions by program (runs × instructions a run; nanoseconds natively)\n",
    );
    heading(text, &["case", "program"], report);
    let mut seen = BTreeSet::new();
    for measurement in report.kernels.iter().flat_map(|kernel| &kernel.measurements) {
        let key = (&measurement.case, measurement.containers, measurement.entries);
        if measurement.case.contains("grows") || !seen.insert(key) {
            continue;
        }
        let mut case = measurement.case.clone();
        for name in measurement.programs.keys() {
            let mut cells = vec![std::mem::take(&mut case), format!("`{name}`")];
            for kernel in &report.kernels {
                let cost = same(kernel, measurement).and_then(|found| found.programs.get(name));
                cells.push(cost.map_or_else(
                    || "–".to_owned(),
                    |cost| format!("{} × {}", number(cost.runs), number(cost.instructions / cost.runs)),
                ));
            }
            row(text, &cells);
        }
    }
}

fn same<'report>(kernel: &'report KernelReport, measurement: &Measurement) -> Option<&'report Measurement> {
    kernel.measurements.iter().find(|found| {
        (&found.case, found.containers, found.entries)
            == (&measurement.case, measurement.containers, measurement.entries)
    })
}

fn situation(measurement: &Measurement) -> String {
    format!(
        "{} ({} × {})",
        measurement.case,
        number(measurement.containers.into()),
        number(measurement.entries.into())
    )
}

fn notes(kernel: &KernelReport) -> Vec<String> {
    kernel
        .measurements
        .iter()
        .filter(|measurement| !measurement.note.is_empty())
        .map(|measurement| format!("{}: {}", situation(measurement), measurement.note))
        .collect()
}

fn heading(text: &mut String, first: &[&str], report: &Report) {
    let mut cells: Vec<String> = first.iter().map(|&cell| cell.to_owned()).collect();
    cells.extend(report.kernels.iter().map(|kernel| kernel.series.clone()));
    row(text, &cells);
    row(text, &vec!["---".to_owned(); cells.len()]);
}

fn row(text: &mut String, cells: &[String]) {
    line(text, &format!("| {} |", cells.join(" | ")));
}

fn line(text: &mut String, words: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{words}");
}

fn with_unit(figure: f64, unit: &str) -> String {
    match unit {
        "" => number(figure),
        _ => format!("{} {unit}", number(figure)),
    }
}

/// Three digits at least, thousands apart.
fn number(figure: f64) -> String {
    if figure.abs() < 100.0 {
        let text = format!("{figure:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::from(if figure < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_number(figure: f64, expected: &str) {
        assert_eq!(number(figure), expected);
    }

    #[test]
    fn numbers_are_short_and_readable() {
        check_number(0.0, "0");
        check_number(1.996, "2");
        check_number(12.34, "12.34");
        check_number(4208.66, "4,209");
        check_number(57_518_775.8, "57,518,776");
        check_number(-447.8, "-448");
    }

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&page, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced("no marks", "new"), None);
    }
}
