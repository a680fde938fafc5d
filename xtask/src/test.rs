//! `cargo xtask test`: every test there is, one after the other, and one sum at the end.
//!
//! ```text
//!  setup ─► build-ebpf ─► build ─► suites, in order ─► table ─► "N passed, N failed, N skipped"
//!                                     └─ each a program whose lines `report` understands
//! ```
//!
//! What the suites say of the evasion corpus is merged to one table, which is held against `docs/kernel-support.md` (`evasions`).
//!
//! To add a suite, add a line in `suites`. A suite that says nothing, or ends badly without naming a failure, counts as
//! one failed test: silence is no success.

mod evasions;
mod report;
mod suites;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{build, build_ebpf, process, setup};
use evasions::Evasions;
use report::{Report, Tally};
use suites::Suite;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only suites whose name holds one of these words
    #[arg(value_name = "SUITE")]
    only: Vec<String>,
    /// Print the names of the suites and end
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let chosen: Vec<Suite> = suites::all()
        .into_iter()
        .filter(|suite| is_chosen(suite, &arguments.only))
        .collect();
    if arguments.list {
        for suite in suites::all() {
            if arguments.only.is_empty() || is_chosen(&suite, &arguments.only) {
                let note = if suite.is_on_demand {
                    "  (only where it is named)"
                } else {
                    ""
                };
                println!("{}{note}", suite.name);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    heading("set-up");
    setup::run(&setup::Arguments::default())?;
    heading("BPF objects");
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    heading("build");
    // The suites run programs by their path; cargo test alone would not bring all of them up to date.
    process::execute(build::cargo().arg("build"))?;

    let mut reports = Vec::new();
    let mut evasions = Evasions::default();
    for together in groups(chosen) {
        for ran in run_together(together)? {
            for line in &ran.evasions {
                evasions.read_line(line);
            }
            let report = ran.report;
            println!(
                "--- {}: {} ({} s)",
                report.suite,
                report.tally,
                report.duration.as_secs()
            );
            reports.push(report);
        }
    }
    heading("evasion corpus");
    if let Some(tally) = evasions.close()? {
        println!("--- {tally}");
        reports.push(Report {
            suite: "evasion corpus".to_owned(),
            tally,
            duration: Duration::ZERO,
        });
    } else {
        println!("no suite of it ran");
    }
    heading(&format!("result after {} s", started.elapsed().as_secs()));
    let sum = report::print_table(&reports);
    Ok(if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn is_chosen(suite: &Suite, only: &[String]) -> bool {
    if only.is_empty() {
        return !suite.is_on_demand;
    }
    only.iter().any(|word| suite.name.contains(word.as_str()))
}

fn heading(text: &str) {
    println!("\n=== {text} ===");
}

/// Suites that run at the same time, in order.
fn groups(suites: Vec<Suite>) -> Vec<Vec<Suite>> {
    let mut groups: Vec<Vec<Suite>> = Vec::new();
    for suite in suites {
        let is_beside = |group: &&mut Vec<Suite>| {
            group
                .last()
                .is_some_and(|last| suite.beside.as_ref() == Some(&last.name))
        };
        match groups.last_mut().filter(is_beside) {
            Some(group) => group.push(suite),
            None => groups.push(vec![suite]),
        }
    }
    groups
}

/// Runs suites at the same time. Where there are several, each line says of which it is.
fn run_together(suites: Vec<Suite>) -> Result<Vec<Ran>> {
    let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
    heading(&names.join(", "));
    let is_alone = suites.len() == 1;
    thread::scope(|scope| {
        let running: Vec<_> = suites
            .into_iter()
            .map(|suite| {
                let prefix = if is_alone {
                    String::new()
                } else {
                    format!("{}: ", suite.name)
                };
                scope.spawn(move || run_suite(suite, &prefix))
            })
            .collect();
        let ended = running
            .into_iter()
            .map(|suite| suite.join().expect("a suite's thread panicked"));
        ended.collect()
    })
}

/// What came of a suite.
struct Ran {
    report: Report,
    /// Its lines of the evasion corpus.
    evasions: Vec<String>,
}

/// Runs one suite, shows its lines as they come, and counts.
fn run_suite(mut suite: Suite, prefix: &str) -> Result<Ran> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut evasions = Vec::new();
    let mut child = suite
        .command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!(
                "cannot start suite {} (`{}`)",
                suite.name,
                process::display(&suite.command)
            )
        })?;
    let no_pipe = "the suite was started without a pipe for its output";
    let (sender, lines) = mpsc::channel();
    send_lines(child.stdout.take().context(no_pipe)?, sender.clone(), Line::Output);
    send_lines(child.stderr.take().context(no_pipe)?, sender, Line::Error);
    let end = loop {
        match lines.recv_timeout(suite.limit.saturating_sub(started.elapsed())) {
            Ok(Line::Output(line)) => {
                println!("{prefix}{line}");
                tally.read_line(&line);
                if Evasions::is_line(&line) {
                    evasions.push(line);
                }
            }
            Ok(Line::Error(line)) => {
                eprintln!("{prefix}{line}");
                tally.read_error_line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break end_of(&mut child, &suite.command)?,
            Err(RecvTimeoutError::Timeout) => {
                // It may have ended this moment; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                break Some(format!("did not end within {} s", suite.limit.as_secs()));
            }
        }
    };
    tally.close(end.as_deref());
    let report = Report {
        suite: suite.name,
        tally,
        duration: started.elapsed(),
    };
    Ok(Ran { report, evasions })
}

/// A line that a suite printed.
enum Line {
    /// On stdout, where what counts is.
    Output(String),
    /// On stderr.
    Error(String),
}

/// Sends each line of a suite's pipe, until it ends or nobody listens any more.
fn send_lines(pipe: impl Read + Send + 'static, sender: mpsc::Sender<Line>, of: fn(String) -> Line) {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(of(text)).is_err() {
                break;
            }
        }
    });
}

/// None where the suite ended well.
fn end_of(child: &mut Child, command: &Command) -> Result<Option<String>> {
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{}`", process::display(command)))?;
    Ok((!status.success()).then(|| format!("ended with {status}")))
}

/// A suite that takes longer hangs. Several times what the longest one takes on an idle machine.
const SUITE_LIMIT: Duration = Duration::from_secs(45 * 60);
