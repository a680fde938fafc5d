//! kubectl, as a user has it.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::super::{place::Place, programs};
use crate::process;

pub(super) struct Kubectl {
    place: Place,
}

impl Kubectl {
    pub(super) fn new(place: &Place) -> Result<Self> {
        Ok(Self {
            place: Place::named(&place.name)?,
        })
    }

    fn command(&self) -> Result<Command> {
        programs::kubectl(&self.place)
    }

    /// # Errors
    ///
    /// Where it fails; the error has what it said.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        process::capture(self.command()?.args(arguments))
    }

    /// # Errors
    ///
    /// Where the API server does not take the objects.
    pub(super) fn apply(&self, objects: &str) -> Result<()> {
        let mut child = self
            .command()?
            .args(["apply", "--server-side", "--filename=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut input) = child.stdin.take() {
            input
                .write_all(objects.as_bytes())
                .context("kubectl does not read its input")?;
        }
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Creates what is on its input: whether that was done, and all that it printed.
    ///
    /// # Errors
    ///
    /// Where it cannot be run.
    pub(super) fn create(&self, objects: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = self.command()?;
        command.args(["create", "--filename=-"]).args(arguments);
        answered(command, objects)
    }

    /// Whether it did what it was told, and all that it printed.
    ///
    /// # Errors
    ///
    /// Where it cannot be run.
    pub(super) fn try_run(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = self.command()?;
        command.args(arguments);
        answered(command, "")
    }

    /// # Errors
    ///
    /// Where it fails, or what it prints is no JSON.
    pub(super) fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = arguments.to_vec();
        all.push("--output=json");
        serde_json::from_str(&self.run(&all)?).context("kubectl printed no JSON")
    }

    /// What it prints, however it ends.
    ///
    /// # Errors
    ///
    /// Where it cannot be run.
    pub(super) fn answer(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command()?.args(arguments).output().context("cannot run kubectl")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs a command in the service's pod: its exit status and its output.
    ///
    /// # Errors
    ///
    /// Where kubectl cannot be run.
    pub(super) fn exec(&self, namespace: &str, command: &[&str]) -> Result<(i32, String)> {
        self.exec_in(namespace, "deployment/payment-service", command)
    }

    /// The same in another pod.
    ///
    /// # Errors
    ///
    /// Where kubectl cannot be run.
    pub(super) fn exec_in(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<(i32, String)> {
        let output = self
            .command()?
            .args(["exec", pod, "--namespace", namespace, "--"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .context("cannot run kubectl")?;
        let status = output.status.code().context("kubectl was killed")?;
        if status != 0 && status != 137 {
            bail!("kubectl exec: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok((status, String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

fn answered(mut command: Command, input: &str) -> Result<(bool, String)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that reads nothing says why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().context("cannot wait for kubectl")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.success(),
        format!("{}{}", text(&output.stdout), text(&output.stderr)),
    ))
}
