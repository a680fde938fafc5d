//! Long steps: their output goes to a log, and a line now and then says that they are alive.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::say;
use crate::{process, workspace};

const REPORT_INTERVAL: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Of a failed step's log, in its error.
const LOG_TAIL_LINES: usize = 30;

/// Runs a command whose output matters only where it fails.
///
/// # Errors
///
/// Where it cannot be started or fails; the error has the end of its output and names the whole log.
pub(crate) fn execute(label: &str, command: &mut Command) -> Result<()> {
    let folder = workspace::target().join("setup-logs");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let log_path = folder.join(format!(
        "{}.log",
        label.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
    ));
    let log = File::create(&log_path).with_context(|| format!("cannot create {}", log_path.display()))?;
    let errors = log.try_clone().context("cannot share the log")?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::display(command)))?;
    let mut next_report = REPORT_INTERVAL;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {label}"))? {
            break status;
        }
        if started.elapsed() >= next_report {
            say(&format!("{label}: still at it after {} s", started.elapsed().as_secs()));
            next_report += REPORT_INTERVAL;
        }
        thread::sleep(POLL_INTERVAL);
    };
    if !status.success() {
        let text = String::from_utf8_lossy(&fs::read(&log_path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        bail!(
            "{label}: `{}` failed with {status}; see {}\n{tail}",
            process::display(command),
            log_path.display()
        );
    }
    say(&format!("{label}: done in {} s", started.elapsed().as_secs()));
    Ok(())
}
