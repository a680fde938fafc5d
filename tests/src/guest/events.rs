//! The agent's events, as `latticectl events --follow -o json` tells them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// An event.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// Its number.
    pub sequence: u64,
    /// The sentence.
    pub message: String,
    /// A judged file.
    pub violation: Option<Violation>,
    /// Numbers that were lost.
    pub gap: Option<Gap>,
    /// All of it, as it came.
    #[serde(skip)]
    pub document: serde_json::Value,
}

/// What was judged; the fields that cases look at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct Violation {
    pub hook: String,
    pub mode: String,
    pub effective_action: String,
    pub signal_return_code: Option<i32>,
    pub reason: String,
    #[serde(default)]
    pub drift: String,
    pub path: String,
    #[serde(default)]
    pub path_as_passed: String,
    #[serde(default)]
    pub sha256: String,
    pub role: String,
    pub origin: String,
    pub pid: u32,
    #[serde(default)]
    pub argv: Vec<String>,
    #[serde(default)]
    pub argv_truncated: bool,
    #[serde(default)]
    pub argv_source: String,
    /// Refusals that the event stands for.
    pub count: u64,
    pub container: Option<Container>,
}

/// Whose.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct Container {
    #[serde(default)]
    pub workload: String,
    pub cgroup_id: u64,
}

/// A span of lost numbers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct Gap {
    pub first_sequence: u64,
    pub last_sequence: u64,
}

/// All events that were ever told, by number; outlives agents.
pub type Told = Arc<Mutex<BTreeMap<u64, Event>>>;

/// Every event so far, in order.
pub fn all(told: &Told) -> Vec<Event> {
    told.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
        .cloned()
        .collect()
}

/// Events of a workload so far, in order.
///
/// What was noted when it started, and then seen running by a look that came late, is told a second time under the same policy. Whether a
/// look is late is the machine's business, so the second time is left out.
fn events_of_workload(told: &Told, workload: &str) -> Vec<Event> {
    let mut noted = BTreeSet::new();
    let mut events = all(told);
    events.retain(|event| {
        let Some(violation) = &event.violation else {
            return false;
        };
        if violation
            .container
            .as_ref()
            .is_none_or(|container| container.workload != workload)
        {
            return false;
        }
        if violation.effective_action != "none" {
            return true;
        }
        let generation = event.document["violation"]["policy"]["generation"].to_string();
        // Not by the path: the floor's events have it as it was passed.
        let start = (violation.pid, violation.mode.clone(), generation);
        if violation.hook == "running" {
            return !noted.contains(&start);
        }
        noted.insert(start);
        true
    });
    events
}

/// Violations of a workload so far, in order.
pub fn of_workload(told: &Told, workload: &str) -> Vec<Violation> {
    let events = events_of_workload(told, workload).into_iter();
    events.filter_map(|event| event.violation).collect()
}

/// Violations of a workload so far, in order, as they came.
pub fn documents_of_workload(told: &Told, workload: &str) -> Vec<serde_json::Value> {
    let events = events_of_workload(told, workload).into_iter();
    events.map(|event| event.document).collect()
}

/// Notices of a workload's containers so far, in order, as they came.
pub fn notices_of_workload(told: &Told, workload: &str) -> Vec<serde_json::Value> {
    let of_workload = |document: &serde_json::Value| document["notice"]["container"]["workload"] == workload;
    let all = all(told).into_iter().map(|event| event.document);
    all.filter(of_workload).collect()
}

/// Follows one agent's events.
pub struct Follower {
    child: Child,
}

impl Follower {
    /// Asks for what the agent still knows and for what comes.
    ///
    /// # Errors
    /// When latticectl cannot be started.
    pub fn start(told: &Told) -> Result<Self> {
        let mut child = super::agent::latticectl()
            .args(["events", "--follow", "--limit", "0", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start latticectl events")?;
        let stdout = child.stdout.take().context("latticectl has no pipe")?;
        let telling = Arc::clone(told);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str::<serde_json::Value>(&line).and_then(|document| {
                    let event = Event::deserialize(&document)?;
                    Ok(Event { document, ..event })
                });
                match event {
                    Ok(event) => {
                        telling
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(event.sequence, event);
                    }
                    Err(error) => println!("note: latticectl events said {line}: {error}"),
                }
            }
        });
        Ok(Self { child })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It ends by itself when the agent does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
