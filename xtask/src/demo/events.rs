//! What `latticectl events --follow` shows, as the demo reads along.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{central::Central, daemon::Daemon, interrupt, place::Place};

/// How long an event may take from the kernel to the operator.
const EVENT_LIMIT: Duration = Duration::from_secs(15);
/// How long to wait before it counts that there is no event.
const QUIET: Duration = Duration::from_secs(2);

/// A running `latticectl events --follow -o json`.
pub(super) struct Events {
    output: PathBuf,
    _daemon: Daemon,
}

/// How many events there were at some moment; only later ones count.
#[derive(Clone, Copy)]
pub(super) struct Since(usize);

impl Events {
    /// # Errors
    ///
    /// Where it cannot be started.
    pub(super) fn follow(place: &Place, central: &Central) -> Result<Self> {
        let output = place.logs().join("events.jsonl");
        let file = File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
        let command = central.latticectl(&["events", "--follow", "--namespace", "payments", "-o", "json"]);
        let daemon = Daemon::start(
            "latticectl events",
            &command,
            Some(&place.cgroups),
            &place.log("events"),
            Some(file),
        )?;
        Ok(Self {
            output,
            _daemon: daemon,
        })
    }

    /// # Errors
    ///
    /// Where the events cannot be read.
    pub(super) fn now(&self) -> Result<Since> {
        Ok(Since(self.all()?.len()))
    }

    /// Waits for the first event after `since` that `accept` accepts.
    ///
    /// # Errors
    ///
    /// Where the events cannot be read.
    pub(super) fn find(&self, since: Since, accept: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        interrupt::wait_for(EVENT_LIMIT, || Ok(self.after(since)?.into_iter().find(&accept)))
    }

    /// The first event after `since` that `accept` accepts, after the time in which it would have come.
    ///
    /// # Errors
    ///
    /// Where the events cannot be read.
    pub(super) fn find_unwanted(&self, since: Since, accept: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        interrupt::wait_for(QUIET, || Ok(self.after(since)?.into_iter().find(&accept)))
    }

    /// The first event after `since` that `accept` accepts, where it is there already.
    ///
    /// # Errors
    ///
    /// Where the events cannot be read.
    pub(super) fn find_now(&self, since: Since, accept: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        Ok(self.after(since)?.into_iter().find(accept))
    }

    fn after(&self, since: Since) -> Result<Vec<Value>> {
        Ok(self.all()?.split_off(since.0))
    }

    /// A line that is not whole yet is not one.
    fn all(&self) -> Result<Vec<Value>> {
        let text =
            fs::read_to_string(&self.output).with_context(|| format!("cannot read {}", self.output.display()))?;
        Ok(text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}
