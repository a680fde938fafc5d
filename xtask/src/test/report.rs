//! What the lines of a suite say, and the table that closes a run.
//!
//! Understood are these, each a whole line; all else is for people:
//!
//! * `N passed, N failed, N skipped`: the sum of a suite of our own; several add up;
//! * `skipped: NAME: reason`: one test that was not run, and why;
//! * `FAILED: NAME: reason`: one test that failed, for the closing list;
//! * `test result: …` and `test NAME ... ignored, REASON`: of cargo's test programs.
//!
//! What failed is repeated in the closing list with what it said: the end of a log is what people see first, and where a log is cut, all that
//! they see.

use std::{collections::VecDeque, fmt, time::Duration};

/// Of a panic: where, and what it says. The rest is in the log.
const PANIC_LINES: usize = 6;
/// Of a suite that ends badly without naming a failure.
const LAST_LINES: usize = 10;
/// A longer line is cut in the closing list.
const LINE_CHARACTERS: usize = 300;

/// Counts of one suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// `NAME: reason`, as printed.
    pub(super) skips: Vec<String>,
    /// `NAME: reason`, or what else is known; more lines may follow.
    pub(super) failures: Vec<String>,
    /// The last lines that it printed.
    last_lines: VecDeque<String>,
    /// The test whose output cargo's harness is showing, and how many lines more of its panic belong to the list.
    shown: Option<(String, usize)>,
    /// Whether any line had a sum.
    has_sum: bool,
    /// Tests that ran under cargo's harness, which calls a test passed that only said why it was skipped.
    harness_skips: u64,
    is_harness: bool,
}

/// A suite and what came of it.
pub(super) struct Report {
    pub(super) suite: String,
    pub(super) tally: Tally,
    pub(super) duration: Duration,
}

impl Tally {
    /// Of checks made here; each trouble is `NAME: reason`.
    pub(super) fn of_checks(passed: u64, troubles: Vec<String>) -> Self {
        Self {
            passed,
            failed: troubles.len() as u64,
            failures: troubles,
            has_sum: true,
            ..Self::default()
        }
    }

    /// Takes one line of the suite's output.
    pub(super) fn read_line(&mut self, line: &str) {
        self.remember(line);
        self.read_shown(line);
        let line = line.trim();
        if let Some(reason) = line.strip_prefix("skipped: ") {
            self.skips.push(reason.to_owned());
            self.harness_skips += 1;
        } else if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.is_harness = true;
        } else if let Some(reason) = line.strip_prefix("FAILED: ").filter(|_| !self.is_harness) {
            self.failures.push(reason.to_owned());
        } else if let Some([passed, failed, skipped]) = parse_sum(line).filter(|_| !self.is_harness) {
            // Under cargo's harness such a line is what some test printed.
            self.add(passed, failed, skipped);
        } else if let Some([passed, failed, ignored]) = parse_harness_sum(line) {
            self.is_harness = true;
            self.add(passed, failed, ignored);
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.trim_start_matches(", ");
                let reason = if reason.is_empty() { "#[ignore]" } else { reason };
                self.skips.push(format!("{name}: {reason}"));
            } else if outcome == "FAILED" {
                self.failures.push(name.to_owned());
            }
        }
    }

    /// Takes one line that the suite printed on stderr, where nothing counts.
    pub(super) fn read_error_line(&mut self, line: &str) {
        self.remember(line);
    }

    fn remember(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(cut(line));
    }

    /// Takes what a failed test said from the output that cargo's harness shows after the tests.
    fn read_shown(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.shown = Some((name.to_owned(), 0));
            return;
        }
        if line == "failures:" {
            self.shown = None;
        }
        let Some((name, left)) = &mut self.shown else {
            return;
        };
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            *left = PANIC_LINES;
        }
        if *left == 0 || line.is_empty() {
            return;
        }
        *left -= 1;
        let is_of = |failure: &&mut String| failure.lines().next() == Some(name.as_str());
        if let Some(failure) = self.failures.iter_mut().find(is_of) {
            failure.push('\n');
            failure.push_str(&cut(line));
        }
    }

    /// Ends the count. `end` says how the program ended where it did not end well.
    pub(super) fn close(&mut self, end: Option<&str>) {
        if self.is_harness {
            let moved = self.harness_skips.min(self.passed);
            self.passed -= moved;
            self.skipped += moved;
        }
        let trouble = match end {
            Some(end) if self.failed == 0 => Some(end.to_owned()),
            None if !self.has_sum => Some("ended without a line `N passed, N failed, N skipped`".to_owned()),
            _ => None,
        };
        if let Some(trouble) = trouble {
            self.failed += 1;
            let mut failure = format!("the suite itself: {trouble}");
            if !self.last_lines.is_empty() {
                failure.push_str("; the last that it printed:");
            }
            for line in &self.last_lines {
                failure.push('\n');
                failure.push_str(line);
            }
            self.failures.push(failure);
        }
    }

    fn add(&mut self, passed: u64, failed: u64, skipped: u64) {
        self.has_sum = true;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// `3 passed, 0 failed, 1 skipped`, and nothing else on the line.
fn parse_sum(line: &str) -> Option<[u64; 3]> {
    parse_counts(line.split(", "), ["passed", "failed", "skipped"])
}

/// `test result: ok. 30 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.22s`
fn parse_harness_sum(line: &str) -> Option<[u64; 3]> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let parts: Vec<&str> = counts.split("; ").collect();
    parse_counts(parts.get(..3)?.iter().copied(), ["passed", "failed", "ignored"])
}

fn parse_counts<'line>(parts: impl Iterator<Item = &'line str>, words: [&str; 3]) -> Option<[u64; 3]> {
    let parts: Vec<&str> = parts.collect();
    if parts.len() != words.len() {
        return None;
    }
    let mut counts = [0; 3];
    for ((part, word), count) in parts.iter().zip(words).zip(&mut counts) {
        let number = part.strip_suffix(word)?.strip_suffix(' ')?;
        // `parse` takes a sign, which no count has.
        *count = number
            .parse()
            .ok()
            .filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    }
    Some(counts)
}

/// Prints suites, skips, failures and the sum, whose line is the last; returns the sum.
pub(super) fn print_table(reports: &[Report]) -> Tally {
    let table = render_table(reports);
    print!("{}", table.text);
    table.sum
}

struct Table {
    text: String,
    sum: Tally,
}

fn render_table(reports: &[Report]) -> Table {
    let width = reports
        .iter()
        .map(|report| report.suite.chars().count())
        .chain([5])
        .max()
        .unwrap_or(5);
    let mut text = format!(
        "{:width$} {:>7} {:>7} {:>7} {:>8}\n",
        "suite", "passed", "failed", "skipped", "seconds"
    );
    let mut sum = Tally::default();
    for Report { suite, tally, duration } in reports {
        let seconds = duration.as_secs();
        let Tally {
            passed,
            failed,
            skipped,
            ..
        } = tally;
        text.push_str(&format!(
            "{suite:width$} {passed:>7} {failed:>7} {skipped:>7} {seconds:>8}\n"
        ));
        sum.passed += passed;
        sum.failed += failed;
        sum.skipped += skipped;
    }
    text.push_str(&render_list("skipped", reports, |tally| &tally.skips));
    text.push_str(&render_list("failed", reports, |tally| &tally.failures));
    text.push_str(&format!("\n{sum}\n"));
    Table { text, sum }
}

fn render_list(title: &str, reports: &[Report], list: impl Fn(&Tally) -> &Vec<String>) -> String {
    let lines: String = reports
        .iter()
        .flat_map(|report| {
            list(&report.tally)
                .iter()
                .map(|entry| format!("  [{}] {}\n", report.suite, entry.replace('\n', "\n      ")))
        })
        .collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{title}:\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], end: Option<&str>, expected: [u64; 3]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read_line(line);
        }
        tally.close(end);
        assert_eq!([tally.passed, tally.failed, tally.skipped], expected, "{lines:?}");
        tally
    }

    #[test]
    fn sums_of_our_own_suites_add_up() {
        check(
            &["ok a", "2 passed, 0 failed, 0 skipped", "3 passed, 0 failed, 1 skipped"],
            None,
            [5, 0, 1],
        );
        check(&["0 passed, 0 failed, 0 skipped"], None, [0, 0, 0]);
    }

    #[test]
    fn a_sum_that_a_test_prints_under_cargos_harness_is_not_the_suites() {
        check(
            &[
                "running 1 test",
                "0 passed, 24 failed, 0 skipped",
                "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.22s",
            ],
            None,
            [1, 0, 0],
        );
    }

    #[test]
    fn what_only_looks_like_a_sum_is_none() {
        for line in [
            "said: 2 passed, 0 failed, 0 skipped",
            "2 passed, 0 failed",
            "2 passed, 0 failed, 0 skipped, 1 odd",
            "-2 passed, 0 failed, 0 skipped",
            "+2 passed, 0 failed, 0 skipped",
            "2 passed; 0 failed; 0 skipped",
            "99999999999999999999 passed, 0 failed, 0 skipped",
        ] {
            check(&[line], None, [0, 1, 0]);
        }
    }

    #[test]
    fn cargos_programs_are_summed_and_their_ignored_tests_are_skips() {
        let tally = check(
            &[
                "running 3 tests",
                "test a ... ok",
                "test b ... ignored, needs a printer",
                "test c ... ignored",
                "test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.22s",
                "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s",
            ],
            None,
            [5, 0, 2],
        );
        assert_eq!(tally.skips, ["b: needs a printer", "c: #[ignore]"]);
    }

    #[test]
    fn a_test_that_says_it_was_skipped_is_not_passed() {
        let result = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        let tally = check(
            &["skipped: signs_like_cosign: no cosign on PATH", result],
            None,
            [1, 0, 1],
        );
        assert_eq!(tally.skips, ["signs_like_cosign: no cosign on PATH"]);
    }

    #[test]
    fn a_skip_of_our_own_suites_is_counted_by_their_sum_alone() {
        check(
            &["skipped: fuse: no /dev/fuse", "1 passed, 0 failed, 1 skipped"],
            None,
            [1, 0, 1],
        );
    }

    #[test]
    fn silence_and_a_bad_end_are_failures() {
        check(&[], None, [0, 1, 0]);
        check(
            &["7 passed, 0 failed, 0 skipped"],
            Some("ended with exit status: 1"),
            [7, 1, 0],
        );
        let tally = check(
            &["1 passed, 0 failed, 0 skipped"],
            Some("did not end within 9 s"),
            [1, 1, 0],
        );
        assert!(tally.failures[0].contains("did not end within 9 s"));
    }

    #[test]
    fn a_bad_end_shows_the_last_lines_of_both_streams() {
        let mut tally = Tally::default();
        for number in 0..LAST_LINES {
            tally.read_line(&format!("line {number}"));
        }
        tally.read_error_line(&format!("Error: {}", "x".repeat(LINE_CHARACTERS)));
        tally.close(Some("ended with exit status: 1"));
        let lines: Vec<&str> = tally.failures[0].lines().collect();
        assert_eq!(lines.len(), LAST_LINES + 1);
        assert_eq!(lines[1], "line 1");
        assert!(lines[LAST_LINES].starts_with("Error: x"), "{lines:?}");
        assert!(lines[LAST_LINES].ends_with('…'), "{lines:?}");
    }

    #[test]
    fn what_a_failed_test_panicked_with_is_in_the_list() {
        let result = "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s";
        let tally = check(
            &[
                "running 2 tests",
                "test a ... ok",
                "test b ... FAILED",
                "successes:",
                "---- a stdout ----",
                "thread 'a' (7) panicked at src/a.rs:1:2:",
                "as it should",
                "failures:",
                "---- b stdout ----",
                "much",
                "thread 'b' (8) panicked at src/b.rs:3:4:",
                "left is not right",
                "",
                "failures:",
                "    b",
                result,
            ],
            Some("ended with exit status: 101"),
            [1, 1, 0],
        );
        assert_eq!(tally.failures.len(), 1);
        assert!(
            tally.failures[0].starts_with("b\nthread 'b' (8) panicked at src/b.rs:3:4:\nleft is not right"),
            "{:?}",
            tally.failures
        );
        assert!(!tally.failures[0].contains("as it should"));
    }

    #[test]
    fn a_bad_end_after_named_failures_is_not_counted_twice() {
        let result = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s";
        check(
            &["test a ... FAILED", result],
            Some("ended with exit status: 101"),
            [1, 2, 0],
        );
    }

    #[test]
    fn the_last_line_of_the_table_is_the_sum() {
        let report = |suite: &str, lines: &[&str]| {
            let mut tally = Tally::default();
            lines.iter().for_each(|line| tally.read_line(line));
            tally.close(None);
            Report {
                suite: suite.to_owned(),
                tally,
                duration: Duration::from_secs(3),
            }
        };
        let table = render_table(&[
            report("host", &["2 passed, 0 failed, 0 skipped"]),
            report(
                "vm 6.12",
                &["skipped: x: no y", "FAILED: z: wrong", "3 passed, 1 failed, 1 skipped"],
            ),
        ]);
        let expected = "suite    passed  failed skipped  seconds\n\
                        host          2       0       0        3\n\
                        vm 6.12       3       1       1        3\n\
                        \nskipped:\n  [vm 6.12] x: no y\n\
                        \nfailed:\n  [vm 6.12] z: wrong\n\
                        \n5 passed, 1 failed, 1 skipped\n";
        assert_eq!(table.text, expected);
    }
}
