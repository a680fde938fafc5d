//! What events say, and that none is missing however many there are.

use std::{
    fs,
    os::unix::ffi::OsStringExt as _,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lattice_policy::{FailAction, Mode, to_yaml};
use nix::sys::signal::Signal;

use super::content::{MODIFIED, NOT_IN_IMAGE};
use crate::guest::{
    actor::Way,
    agent, canaries, events, golden,
    overlay::Overlay,
    policy::{Policy, folder, write_text},
    trial::{Case, Cause, Expected, Trial, cause, path_word},
};

const IN_IMAGE: Cause = cause("unlisted", "target", "unlisted-in-image");
const MEMFD: Cause = cause("unlisted", "target", "memfd");
const DELETED: Cause = cause("unlisted", "target", "deleted");
const UNRESOLVED: Cause = cause("unresolved", "target", "unresolved");
const MISSING: Cause = cause("missing", "target", "");

pub(super) const CASES: &[Case] = &[
    Case {
        name: "each_class_of_drift_has_its_golden_event",
        prepare: |place| {
            let policy = Policy::enforce().allow(&place.canary("listed", "good")?)?;
            place.canary("listed", "bad")?;
            place.canary("unlisted", "bad")?;
            place.canary("deleted", "bad")?;
            let overlay = Overlay::at(place.path("overlay"));
            canaries::write_static(&overlay.lower().join("tool"), "bad")?;
            overlay.mount()?;
            Ok(policy)
        },
        run: drift,
    },
    Case {
        name: "an_event_has_arguments_and_ancestors_from_the_kernel",
        prepare: |place| {
            place.canary("bad", "bad")?;
            Ok(Policy::enforce())
        },
        run: whole,
    },
    Case {
        name: "a_container_without_a_policy_has_the_word_of_its_namespace",
        prepare: |place| {
            place.canary("any", "any")?;
            Ok(Policy::enforce())
        },
        run: missing,
    },
    Case {
        name: "bytes_of_a_path_arrive_as_they_were",
        prepare: |place| {
            let name = std::ffi::OsString::from_vec(HOSTILE.to_vec());
            canaries::write_static(&place.folder.join(name), "bad")?;
            fs::copy("/usr/bin/busybox", place.path("sh"))?;
            Policy::enforce().allow(&place.path("sh"))
        },
        run: hostile_name,
    },
    Case {
        name: "a_flood_is_counted_exactly_through_a_kill_of_the_agent",
        prepare: |place| {
            let shell = place.path("sh");
            fs::copy("/usr/bin/busybox", &shell)?;
            place.canary("bad", "bad")?;
            for number in 0..FILES {
                place.canary(&format!("f{number}"), "bad")?;
            }
            Policy::new(Mode::Deny).allow(&shell)
        },
        run: flood,
    },
];

/// A name that is no text, and that a terminal would obey.
const HOSTILE: &[u8] = b"b\x1b[2J\xff\n\\x";

fn document(trial: &Trial<'_>) -> Result<serde_json::Value> {
    let all = events::all(&trial.node.told);
    let last = all
        .into_iter()
        .rev()
        .find(|event| {
            let container = event
                .violation
                .as_ref()
                .and_then(|violation| violation.container.as_ref());
            container.is_some_and(|container| container.workload == trial.place.workload())
        })
        .context("no event")?;
    Ok(last.document)
}

fn drift(trial: &mut Trial<'_>) -> Result<()> {
    let tool = Overlay::at(trial.path("overlay")).merged().join("tool");
    let attempts = [
        (
            "not-in-image",
            Way::Exec,
            trial.path("unlisted"),
            Expected::Killed(NOT_IN_IMAGE),
        ),
        ("modified", Way::Exec, trial.path("listed"), Expected::Killed(MODIFIED)),
        (
            "memfd",
            Way::SealedMemory,
            trial.path("unlisted"),
            Expected::Killed(MEMFD),
        ),
        (
            "unresolved",
            Way::Memory,
            trial.path("unlisted"),
            Expected::Denied(UNRESOLVED),
        ),
        (
            "deleted",
            Way::Deleted,
            trial.path("deleted"),
            Expected::Killed(DELETED),
        ),
        ("unlisted-in-image", Way::Exec, tool, Expected::Killed(IN_IMAGE)),
    ];
    for (name, way, path, expected) in attempts {
        trial.start(way, &[path_word(&path), "an argument".into()], expected)?;
        trial.golden(name)?;
    }
    Ok(())
}

fn missing(trial: &mut Trial<'_>) -> Result<()> {
    let any = trial.path("any");
    if trial.is_control() {
        return trial.exec(&any, Expected::Runs);
    }
    // A namespace of its own: there one policy is enough for its word to hold for all containers without one.
    let mut policy = Policy::enforce().0;
    policy.namespace = "strict".into();
    policy.name = "for-others".into();
    policy.target.workload = Some("others".into());
    for (action, word, expected) in [
        (FailAction::Closed, "missing", Expected::Denied(MISSING)),
        (FailAction::Kill, "missing-kill", Expected::Killed(MISSING)),
    ] {
        policy.fail.missing = action;
        write_text("strict", &to_yaml(&policy))?;
        let cgroup = trial.place.cgroup.with_file_name(format!("strict-{word}"));
        fs::create_dir_all(&cgroup)?;
        let container = format!("{}=strict/{}/c", path_word(&cgroup), trial.place.workload());
        trial.node.more_arguments = vec!["--cgroup".into(), container];
        trial.node.restart(Signal::SIGTERM)?;
        trial.attempt(&cgroup, Way::Exec, &[path_word(&any)], expected)?;
        trial.golden(word)?;
    }
    fs::remove_file(folder().join("strict.yaml"))?;
    trial.node.more_arguments.clear();
    trial.node.restart(Signal::SIGTERM)
}

fn whole(trial: &mut Trial<'_>) -> Result<()> {
    let bad = path_word(&trial.path("bad"));
    let long = "x".repeat(300);
    let mut words = vec![bad.clone(), "one".into(), String::new(), long];
    trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))?;
    if trial.is_control() {
        return Ok(());
    }
    let event = document(trial)?;
    let violation = &event["violation"];
    ensure!(
        violation["argv"] == serde_json::json!([bad, "one", "", "x".repeat(127)]),
        "argv is {}",
        violation["argv"]
    );
    ensure!(violation["argvTruncated"] == true, "a cut argument is not marked");
    ensure!(
        violation["argvSource"] == "caller",
        "argv is from {}",
        violation["argvSource"]
    );
    ensure!(violation["uid"] == 0 && violation["gid"] == 0, "{violation}");
    ensure!(
        violation["startBootNanos"].as_u64().is_some_and(|start| start > 0),
        "{violation}"
    );
    // The suite is older than the agent; its ancestors go up to process 1.
    let ancestors = violation["ancestors"].as_array().context("no ancestors")?;
    let suite = ancestors.first().context("no parent")?;
    ensure!(
        suite["pid"] == std::process::id() && suite["name"] == "lattice-vm-suite",
        "the parent is {suite}"
    );
    ensure!(ancestors.last().is_some_and(|last| last["pid"] == 1), "{ancestors:?}");
    // More than there is room for.
    words.extend((0..40).map(|number| number.to_string()));
    trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))?;
    let event = document(trial)?;
    let argv = event["violation"]["argv"].as_array().context("no argv")?;
    ensure!(
        argv.len() == 16 && event["violation"]["argvTruncated"] == true,
        "{argv:?}"
    );
    Ok(())
}

fn hostile_name(trial: &mut Trial<'_>) -> Result<()> {
    let words = [
        path_word(&trial.path("sh")),
        "-c".into(),
        format!("cd {}; exec ./b*", path_word(&trial.place.folder)),
    ];
    trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))?;
    if trial.is_control() {
        return Ok(());
    }
    let event = document(trial)?;
    let escaped = "b\\x1b[2J\\xff\\x0a\\\\x";
    let path = event["violation"]["path"].as_str().context("no path")?;
    ensure!(path.ends_with(escaped), "path is {path}");
    ensure!(
        event["violation"]["argv"] == serde_json::json!([format!("./{escaped}")]),
        "argv is {}",
        event["violation"]["argv"]
    );
    // The table, as a terminal gets it.
    let table = agent::latticectl().args(["events", "--limit", "0"]).output()?;
    let obeyed = |byte: &u8| *byte < b' ' && *byte != b'\n';
    ensure!(
        table.status.success() && !table.stdout.iter().any(obeyed),
        "a control character is shown"
    );
    let shown = String::from_utf8(table.stdout).context("what is no text is shown")?;
    ensure!(shown.contains(escaped), "the table does not have the name");
    Ok(())
}

/// Refused execs of one file, in each of two bursts.
const BURST: u64 = 1000;
/// Different files besides.
const FILES: u64 = 100;

fn flood(trial: &mut Trial<'_>) -> Result<()> {
    let folder = path_word(&trial.place.folder);
    let tries = if trial.is_control() { 20 } else { BURST };
    let line = |tries: u64, files: u64| {
        format!(
            "i=0; while [ $i -lt {tries} ]; do {folder}/bad 2>/dev/null; i=$((i+1)); done; i=0; while [ $i -lt {files} ]; do {folder}/f$i 2>/dev/null; i=$((i+1)); done"
        )
    };
    let shell = path_word(&trial.path("sh"));
    let words = |tries, files| [shell.clone(), "-c".to_owned(), line(tries, files)];
    let cgroup = trial.place.cgroup.clone();
    let limit = Duration::from_secs(90);
    if trial.is_control() {
        let outcome = trial.act_for(&cgroup, Way::Exec, &words(tries, 0), limit)?;
        ensure!(
            outcome.marks.len() / canaries::MARK_BYTES == 20,
            "without the agent not every try ran"
        );
        return Ok(());
    }
    let workload = trial.place.workload();
    let unlisted = || agent::counter("lattice_verdicts_total{reason=\"unlisted\"}");
    let before = unlisted()?;
    // With the agent, then without one: a kill -9 in the middle of counting, and a window that lasts until the next start.
    ensure!(
        trial
            .act_for(&cgroup, Way::Exec, &words(BURST, FILES), limit)?
            .marks
            .is_empty(),
        "something ran"
    );
    trial.node.end(Signal::SIGKILL)?;
    ensure!(
        trial
            .act_for(&cgroup, Way::Exec, &words(BURST, FILES), limit)?
            .marks
            .is_empty(),
        "something ran"
    );
    trial.node.start()?;
    let expected = 2 * (BURST + FILES);
    let started = Instant::now();
    let told = loop {
        let told: u64 = events::of_workload(&trial.node.told, &workload)
            .iter()
            .map(|violation| violation.count)
            .sum();
        if told >= expected || started.elapsed() > Duration::from_secs(60) {
            break told;
        }
        sleep(Duration::from_millis(100));
    };
    let gaps: Vec<String> = events::all(&trial.node.told)
        .into_iter()
        .filter(|event| event.gap.is_some())
        .map(|event| event.message)
        .collect();
    // Whatever else would come must have come.
    sleep(Duration::from_secs(4));
    let later: u64 = events::of_workload(&trial.node.told, &workload)
        .iter()
        .map(|violation| violation.count)
        .sum();
    let events = events::of_workload(&trial.node.told, &workload).len() as u64;
    let documents = events::documents_of_workload(&trial.node.told, &workload);
    let counting = |document: &&serde_json::Value| document["violation"]["lastTime"].is_string();
    let of_one_file = documents
        .iter()
        .filter(counting)
        .find(|document| document["violation"]["repeatsOf"].is_u64());
    golden::check("counted", of_one_file.context("no event counts one file's refusals")?)?;
    // Of the second burst, whose shell came from outside: while no agent runs there is one window, in which a container's files are too
    // many. Of the first one it may have been several, the last of which are told together with the second's, in any order.
    let of_many = documents
        .iter()
        .rev()
        .filter(counting)
        .filter(|document| document["violation"]["origin"] == "exec-session")
        .find(|document| !document["violation"]["repeatsOf"].is_u64());
    golden::check(
        "counted-of-many-files",
        of_many.context("no event counts those of many files")?,
    )?;
    ensure!(
        told == expected && later == expected,
        "{told}, later {later} refusals told of {expected}, in {events} events; gaps: {gaps:?}"
    );
    let judged = unlisted()? - before;
    ensure!(judged == expected, "{judged} verdicts for {expected} refusals");
    ensure!(events < expected / 4, "{events} events for {expected} refusals");
    println!("note: flood: {expected} refusals in {events} events");
    trial.count_events();
    Ok(())
}
