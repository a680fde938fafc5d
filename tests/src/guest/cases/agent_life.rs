//! The agent dies, comes back, stands still: what is enforced stays so, and what happened is told.

use std::{
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lattice_policy::{Mode, Origin, Role};
use nix::sys::signal::Signal;

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    actor::Way,
    agent::{self, log_after, log_length},
    events, golden,
    policy::Policy,
    trial::{Case, Expected, Place, Trial, cause, path_word},
};

fn good_and_bad(place: &Place) -> Result<Policy> {
    place.canary("bad", "bad")?;
    Policy::enforce().allow(&place.canary("good", "good")?)
}

/// Tries while no agent runs, and leaves the events for later.
fn unheard(trial: &mut Trial<'_>, name: &str, tries: u32) -> Result<()> {
    let cgroup = trial.place.cgroup.clone();
    let words = [path_word(&trial.path(name))];
    for _ in 0..tries {
        let outcome = trial.act(&cgroup, Way::Exec, &words)?;
        ensure!(outcome.was_killed(), "it was not killed while the agent was down");
    }
    Ok(())
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "kill_9_of_the_agent_changes_no_verdict_and_loses_no_event",
        prepare: good_and_bad,
        run: |trial| {
            trial.exec(&trial.path("good"), Expected::Runs)?;
            trial.exec(&trial.path("bad"), Expected::Killed(NOT_IN_IMAGE))?;
            if trial.is_control() {
                return Ok(());
            }
            let log = log_length()?;
            let before = last_sequence(trial);
            trial.node.end(Signal::SIGKILL)?;
            unheard(trial, "bad", 5)?;
            let cgroup = trial.place.cgroup.clone();
            let good = trial.act(&cgroup, Way::Exec, &[path_word(&trial.path("good"))])?;
            ensure!(good.ran(), "what is listed did not run while the agent was down");
            trial.node.start()?;
            ensure!(
                log_after(log)?.contains("found_pinned=true"),
                "the programs were loaded anew"
            );
            for _ in 0..5 {
                trial.owed(Expected::Killed(NOT_IN_IMAGE))?;
            }
            trial.exec(&trial.path("bad"), Expected::Killed(NOT_IN_IMAGE))?;
            let told = events::all(&trial.node.told);
            let new: Vec<_> = told.iter().filter(|event| event.sequence > before).collect();
            let numbers: Vec<u64> = new.iter().map(|event| event.sequence).collect();
            ensure!(
                numbers.iter().copied().eq((before + 1..).take(numbers.len())),
                "after {before} came {numbers:?}"
            );
            // An agent that starts gives notice of what it finds, too.
            let violations = new.iter().filter(|event| event.violation.is_some()).count();
            ensure!(violations == 6, "{violations} of the events {numbers:?} are violations");
            ensure!(
                told.iter().all(|event| event.gap.is_none()),
                "a gap is told where nothing was lost"
            );
            Ok(())
        },
    },
    Case {
        name: "origins_and_marks_outlive_the_agent",
        prepare: |place| {
            let shell = place.path("sh");
            fs::copy("/usr/bin/busybox", &shell)?;
            place.canary("bad", "bad")?;
            Policy::enforce().allow(&shell)?.allow_as(
                &place.canary("probe", "probe")?,
                &[Role::Target],
                Origin::ExecSession,
            )
        },
        run: |trial| {
            // The application: waits for a file outside of its cgroup, then starts the probe's program and an unlisted one.
            let folder = path_word(&trial.place.folder);
            let mark = trial.new_mark()?;
            let line = format!(
                "echo 0 > /sys/fs/cgroup/cgroup.procs; while ! [ -e {folder}/go ]; do :; done; {folder}/probe; echo $? > {folder}/first; \
                 {folder}/bad; echo $? > {folder}/second"
            );
            for name in ["go", "first", "second"] {
                let _ = fs::remove_file(trial.path(name));
            }
            let mut application = Command::new("lattice-vm-suite")
                .args([
                    "act",
                    &path_word(&trial.place.cgroup),
                    "exec",
                    &path_word(&trial.path("sh")),
                    "-c",
                    &line,
                ])
                .env("LATTICE_MARK", &mark)
                .spawn()
                .context("cannot start the application")?;
            sleep(Duration::from_millis(300));
            if !trial.is_control() {
                trial.node.restart(Signal::SIGKILL)?;
            }
            fs::write(trial.path("go"), "")?;
            crate::guest::trial::wait(&mut application)?;
            let told = [
                fs::read_to_string(trial.path("first"))?,
                fs::read_to_string(trial.path("second"))?,
            ];
            let marks = fs::read_to_string(&mark).unwrap_or_default();
            if trial.is_control() {
                ensure!(
                    told == ["0\n", "0\n"] && !marks.is_empty(),
                    "without the agent: {told:?}"
                );
            } else {
                ensure!(
                    told == ["137\n", "137\n"] && marks.is_empty(),
                    "the application's children ended with {told:?}"
                );
            }
            trial.owed(Expected::Killed(cause("origin", "target", "unlisted-in-image")))?;
            trial.owed(Expected::Killed(NOT_IN_IMAGE))?;
            // From outside it still runs.
            trial.exec(&trial.path("probe"), Expected::Runs)
        },
    },
    Case {
        name: "unknown_cgroups_below_the_managed_root_have_the_nodes_word",
        prepare: |place| {
            place.canary("any", "any")?;
            Ok(Policy::enforce())
        },
        run: managed_root,
    },
    Case {
        name: "a_full_ring_buffer_changes_no_verdict_and_every_loss_is_counted",
        prepare: |place| {
            let shell = place.path("sh");
            fs::copy("/usr/bin/busybox", &shell)?;
            for number in 0..FILES {
                place.canary(&format!("f{number}"), "bad")?;
            }
            Policy::new(Mode::Deny).allow(&shell)
        },
        run: flood,
    },
    Case {
        name: "uninstall_leaves_nothing",
        prepare: good_and_bad,
        run: |trial| {
            let bad = trial.path("bad");
            trial.exec(&bad, Expected::Killed(NOT_IN_IMAGE))?;
            if trial.is_control() {
                return Ok(());
            }
            trial.node.end(Signal::SIGTERM)?;
            unheard(trial, "bad", 1)?;
            let said = agent::uninstall()?;
            ensure!(said.contains("removed"), "uninstall says {said}");
            ensure!(!agent::pins().exists(), "{} is still there", agent::pins().display());
            ensure!(
                fs::read_dir("/sys/fs/bpf")?.next().is_none(),
                "the BPF file system is not empty"
            );
            // The kernel lets go of programs some time after the last name of a link is gone.
            let cgroup = trial.place.cgroup.clone();
            let started = Instant::now();
            loop {
                let outcome = trial.act(&cgroup, Way::Exec, &[path_word(&bad)])?;
                if outcome.ran() {
                    return Ok(());
                }
                ensure!(
                    started.elapsed() < Duration::from_secs(30),
                    "after uninstall: {outcome:?}"
                );
                sleep(Duration::from_millis(100));
            }
        },
    },
];

pub(super) fn last_sequence(trial: &Trial<'_>) -> u64 {
    events::all(&trial.node.told).last().map_or(0, |event| event.sequence)
}

fn managed_root(trial: &mut Trial<'_>) -> Result<()> {
    let any = trial.path("any");
    if trial.is_control() {
        return trial.exec(&any, Expected::Runs);
    }
    // Outside of what the other cases use.
    let root = std::path::Path::new("/sys/fs/cgroup/lattice-managed");
    let unknown = root.join("pod/container");
    fs::create_dir_all(&unknown)?;
    let words = [path_word(&any)];
    let before = trial.act(&unknown, Way::Exec, &words)?;
    ensure!(before.ran(), "a cgroup that is nobody's business was judged");
    for (word, action) in [("closed", "deny"), ("kill", "deny+kill"), ("open", "none")] {
        trial.node.more_arguments = ["--managed-root", &path_word(root), "--unknown", word]
            .map(String::from)
            .to_vec();
        let earlier = last_sequence(trial);
        trial.node.restart(Signal::SIGTERM)?;
        let outcome = trial.act(&unknown, Way::Exec, &words)?;
        let is_right = match word {
            "closed" => outcome.was_denied(),
            "kill" => outcome.was_killed(),
            _ => outcome.ran(),
        };
        ensure!(is_right, "--unknown {word}: {outcome:?}");
        let started = Instant::now();
        let event = loop {
            if let Some(event) = events::all(&trial.node.told)
                .into_iter()
                .find(|event| event.sequence > earlier && event.violation.is_some())
            {
                break event;
            }
            ensure!(
                started.elapsed() < Duration::from_secs(30),
                "--unknown {word}: no event"
            );
            sleep(Duration::from_millis(10));
        };
        golden::check(&format!("unknown-{word}"), &event.document)?;
        let violation = event.violation.context("the event is no violation")?;
        let reason = if word == "open" { "unknown-open" } else { "unknown" };
        ensure!(
            (violation.reason.as_str(), violation.effective_action.as_str()) == (reason, action),
            "--unknown {word}: the event says {} {}",
            violation.reason,
            violation.effective_action
        );
    }
    // Registered later, it is a container like any other.
    trial.node.add_cgroup(&unknown, &trial.place.workload());
    trial.node.more_arguments = ["--managed-root", &path_word(root), "--unknown", "closed"]
        .map(String::from)
        .to_vec();
    trial.node.restart(Signal::SIGTERM)?;
    trial.attempt(&unknown, Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))?;
    trial.node.more_arguments.clear();
    trial.node.restart(Signal::SIGTERM)
}

/// Containers and files of each: refused once each while nobody reads, more than the ring buffer holds. Equal ones would be counted.
const CONTAINERS: u64 = 8;
const FILES: u64 = 64;
const FLOOD: u64 = CONTAINERS * FILES;

fn flood(trial: &mut Trial<'_>) -> Result<()> {
    let folder = path_word(&trial.place.folder);
    let line = format!(
        "i=0; ran=0; while [ $i -lt {FILES} ]; do {folder}/f$i 2>/dev/null && ran=$((ran+1)); i=$((i+1)); done; echo $ran > {folder}/ran"
    );
    let words = [path_word(&trial.path("sh")), "-c".to_owned(), line];
    let cgroup = trial.place.cgroup.clone();
    if trial.is_control() {
        let outcome = trial.act_for(&cgroup, Way::Exec, &words, Duration::from_secs(60))?;
        ensure!(
            (outcome.marks.len() / crate::guest::canaries::MARK_BYTES) as u64 == FILES,
            "without the agent not every try ran"
        );
        return Ok(());
    }
    let cgroups: Vec<_> = (0..CONTAINERS)
        .map(|number| std::path::Path::new("/sys/fs/cgroup/lattice-flood").join(number.to_string()))
        .collect();
    for cgroup in &cgroups {
        fs::create_dir_all(cgroup)?;
        trial.node.add_cgroup(cgroup, &trial.place.workload());
    }
    trial.node.restart(Signal::SIGTERM)?;
    let before = last_sequence(trial);
    let full_before = agent::counter("lattice_ring_buffer_full_total")?;
    let unlisted_before = agent::counter("lattice_verdicts_total{reason=\"unlisted\"}")?;
    trial.node.agent()?.signal(Signal::SIGSTOP)?;
    let mut outcomes = Vec::new();
    for cgroup in &cgroups {
        outcomes.push(trial.act_for(cgroup, Way::Exec, &words, Duration::from_secs(60)));
    }
    trial.node.agent()?.signal(Signal::SIGCONT)?;
    for outcome in outcomes {
        ensure!(outcome?.marks.is_empty(), "something ran");
    }
    ensure!(
        fs::read_to_string(trial.path("ran"))?.trim() == "0",
        "the shell says that something ran"
    );
    // Every number is an event or in a gap.
    let started = Instant::now();
    let (heard, lost) = loop {
        let (mut heard, mut lost) = (0, 0);
        for event in events::all(&trial.node.told)
            .into_iter()
            .filter(|event| event.sequence > before)
        {
            match event.gap {
                Some(gap) => lost += gap.last_sequence - gap.first_sequence + 1,
                None => heard += u64::from(event.violation.is_some()),
            }
        }
        if heard + lost >= FLOOD || started.elapsed() > Duration::from_secs(60) {
            break (heard, lost);
        }
        sleep(Duration::from_millis(50));
    };
    ensure!(
        heard + lost == FLOOD,
        "{heard} events and {lost} lost numbers for {FLOOD} refusals"
    );
    ensure!(lost > 0, "the ring buffer was never full");
    let full = agent::counter("lattice_ring_buffer_full_total")? - full_before;
    ensure!(
        full == lost,
        "the kernel counted {full} full reserves, the agent {lost} lost numbers"
    );
    let unlisted = agent::counter("lattice_verdicts_total{reason=\"unlisted\"}")? - unlisted_before;
    ensure!(unlisted == FLOOD, "{unlisted} verdicts for {FLOOD} refusals");
    println!("note: flood: {heard} events, {lost} numbers in gaps");
    let gap = events::all(&trial.node.told)
        .into_iter()
        .find(|event| event.sequence > before && event.gap.is_some());
    golden::check("gap-ring-buffer-full", &gap.context("no gap")?.document)?;
    trial.count_events();
    Ok(())
}
