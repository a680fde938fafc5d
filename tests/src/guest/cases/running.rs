//! What runs already when its policy tightens: told, and killed where its namespace is so configured.

use std::{
    collections::BTreeSet,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lattice_policy::{Mode, Origin, Role};
use nix::sys::signal::Signal;

use super::container::{UNLISTED, listing, replace};
use crate::guest::{
    actor::{HERE, VERB},
    container::{Container, prepare},
    events, golden,
    host::is_tier_1,
    policy::{NAMESPACE, Policy},
    trial::{Case, Expected, Trial, cause},
};

/// Of a listed file nobody says anything; the others are a file of the image, one in memory, and one that is deleted.
const LISTED: &str = "/usr/bin/good wait >/dev/null 2>&1 &";
const OF_THE_IMAGE: &str = "/usr/bin/worker wait >/dev/null 2>&1 &";
const DELETED: &str = "cp /usr/bin/worker /tmp/gone && { /tmp/gone wait >/dev/null 2>&1 & } && while ! [ -s $LATTICE_MARK ]; do :; done; busybox rm /tmp/gone";

/// Without the worker.
fn policy(mode: Mode) -> Result<Policy> {
    let mut policy = listing(mode)?.allow_image("/usr/bin/actor", &[Role::Target], Origin::Any)?;
    policy
        .0
        .entries
        .retain(|entry| entry.path.as_bytes() != b"/usr/bin/worker");
    Ok(policy)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "in_a_container_what_runs_unlisted_is_killed_where_so_configured",
        prepare: |place| prepare(place).and_then(|()| policy(Mode::Monitor)),
        run: |trial| {
            if !trial.is_control() {
                configure(trial, &["--kill-running", NAMESPACE])?;
            }
            let container = Container::start(trial)?;
            let result = killed(&container, trial);
            container.end()?;
            if !trial.is_control() {
                configure(trial, &[])?;
            }
            result
        },
    },
    Case {
        name: "in_a_container_what_runs_unlisted_is_told_where_nobody_asked_to_kill",
        prepare: |place| prepare(place).and_then(|()| policy(Mode::Monitor)),
        run: |trial| {
            if !trial.is_control() {
                configure(trial, &["--kill-running", "another-namespace"])?;
            }
            let container = Container::start(trial)?;
            let result = told(&container, trial);
            container.end()?;
            if !trial.is_control() {
                configure(trial, &[])?;
            }
            result
        },
    },
];

fn configure(trial: &mut Trial<'_>, arguments: &[&str]) -> Result<()> {
    trial.node.more_arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    trial.node.restart(Signal::SIGTERM)
}

fn in_memory() -> String {
    format!("/usr/bin/actor {VERB} {HERE} sealed-memory /usr/bin/worker wait >/dev/null 2>&1 &")
}

/// Ends of the paths of what runs in the container.
fn running(trial: &Trial<'_>) -> BTreeSet<String> {
    let processes = fs::read_to_string(trial.place.cgroup.join("cgroup.procs")).unwrap_or_default();
    processes
        .lines()
        .filter_map(|process| fs::read_link(format!("/proc/{process}/exe")).ok())
        .map(|path| path.to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned())
        .collect()
}

fn wait_until(trial: &Trial<'_>, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    let started = Instant::now();
    loop {
        let found = running(trial);
        if found == expected {
            return Ok(());
        }
        ensure!(
            started.elapsed() < Duration::from_secs(60),
            "{found:?} run in the container, expected {expected:?}"
        );
        sleep(Duration::from_millis(20));
    }
}

const SERVER: &str = "server";
const MEMORY: &str = "memfd:copy (deleted)";
const GONE: &str = "gone (deleted)";

/// How long after a container's start the agent has looked at what runs in it. What that look tells is not told again.
const LOOKED_AFTER: Duration = Duration::from_secs(3);

/// Starts the four, each in the background of a shell of the application's.
fn start_all(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    if !trial.is_control() {
        sleep(LOOKED_AFTER);
    }
    for line in [LISTED, OF_THE_IMAGE, &in_memory(), DELETED] {
        let output = container.by_application(trial, line)?;
        ensure!(output.code == 0, "{line}: {output:?}");
    }
    wait_until(trial, &[SERVER, "good", "worker", MEMORY, GONE])?;
    if trial.is_control() {
        return Ok(());
    }
    // The starts themselves, in monitor.
    let memfd = cause("unlisted", "target", "memfd").in_tier_2(cause("unlisted", "target", "deleted"));
    for noted in [unlisted_worker(), memfd, cause("unlisted", "target", "not-in-image")] {
        trial.event(noted, "none")?;
    }
    Ok(())
}

/// As long as a listed one.
fn unlisted_worker() -> crate::guest::trial::Cause {
    super::container::equally_long()
}

/// The next events, which are of what ran: their drift and what was done.
fn next_running(trial: &mut Trial<'_>, count: usize) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for _ in 0..count {
        let event = trial.next_event()?;
        ensure!(
            event.reason == "running-unlisted" && event.hook == "running",
            "the event says {} at {}",
            event.reason,
            event.hook
        );
        let signalled = event.effective_action == "kill";
        ensure!(
            event.signal_return_code == signalled.then_some(0),
            "{} with {:?}",
            event.effective_action,
            event.signal_return_code
        );
        found.insert((event.drift, event.effective_action));
    }
    Ok(found)
}

fn all(action: &str) -> BTreeSet<(String, String)> {
    ["not-in-image", "memfd", "deleted"]
        .into_iter()
        .map(|drift| (drift.to_owned(), action.to_owned()))
        .collect()
}

fn killed(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    start_all(container, trial)?;
    if trial.is_control() {
        return Ok(());
    }
    // In monitor it is told, whatever is configured.
    let mut other = policy(Mode::Monitor)?;
    other.0.generation += 1;
    replace(trial, &other)?;
    let found = next_running(trial, 3)?;
    ensure!(found == all("none"), "in monitor: {found:?}");
    wait_until(trial, &[SERVER, "good", "worker", MEMORY, GONE])?;
    // Deny sends no signal.
    replace(trial, &policy(Mode::Deny)?)?;
    sleep(Duration::from_secs(1));
    wait_until(trial, &[SERVER, "good", "worker", MEMORY, GONE])?;
    replace(trial, &policy(Mode::Enforce)?)?;
    let found = next_running(trial, 3)?;
    ensure!(found == all("kill"), "in enforce: {found:?}");
    let documents = events::documents_of_workload(&trial.node.told, &trial.place.workload());
    let of_the_image = documents.iter().rev().find(|document| {
        document["violation"]["effectiveAction"] == "kill" && document["violation"]["drift"] == "not-in-image"
    });
    if is_tier_1() {
        golden::check("running-unlisted-killed", of_the_image.context("no such event")?)?;
    }
    wait_until(trial, &[SERVER, "good"])?;
    container.healthz()?;
    // Nobody starts it again.
    container.application(trial, "exec /bin/worker", Expected::Killed(unlisted_worker()))?;
    container.application(trial, "exec /bin/longer", Expected::Killed(UNLISTED))
}

fn told(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    start_all(container, trial)?;
    if trial.is_control() {
        return Ok(());
    }
    replace(trial, &policy(Mode::Enforce)?)?;
    let found = next_running(trial, 3)?;
    ensure!(found == all("none"), "{found:?}");
    wait_until(trial, &[SERVER, "good", "worker", MEMORY, GONE])?;
    // Told once; configured now, at the start of an agent they are met with a policy that does not list them.
    configure(trial, &["--kill-running", "*"])?;
    let found = next_running(trial, 3)?;
    ensure!(found == all("kill"), "at adoption: {found:?}");
    wait_until(trial, &[SERVER, "good"])
}
