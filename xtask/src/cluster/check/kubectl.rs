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

    /// Runs a command in the service's pod: its exit status and its output.
    ///
    /// # Errors
    ///
    /// Where kubectl cannot be run.
    pub(super) fn exec(&self, namespace: &str, command: &[&str]) -> Result<(i32, String)> {
        let output = self
            .command()?
            .args(["exec", "deployment/payment-service", "--namespace", namespace, "--"])
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
