//! Running other programs, with errors that show the command line.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The command as a person would type it; for messages only.
pub(crate) fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end with our own stdout and stderr.
///
/// # Errors
///
/// Where it cannot be started or does not exit with 0.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed with {status}", display(command));
    }
    Ok(())
}

/// Runs a command to its end and returns its stdout.
///
/// # Errors
///
/// Where it cannot be started, does not exit with 0 (its stderr is in the error), or prints what is not UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed with {}: {}",
            display(command),
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed what is not UTF-8", display(command)))
}
