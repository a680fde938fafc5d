//! Refused execs in a row under load on both processors: none leaves a mark, and each is counted and told.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::guest::{
    agent,
    canaries::MARK_BYTES,
    events,
    flood::{Orders, Tally},
    host::host,
    policy::Policy,
    trial::{Case, Trial, path_word},
};

/// A listed program is started for so many refused ones, by other workers at the same time.
const REFUSED_PER_LISTED: u64 = 5;
/// Of either kind, without the agent.
const CONTROL_TRIES: u64 = 20;
const CPUS: [usize; 2] = [0, 1];
/// How long the events of the last refusals may take.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

pub(super) const CASES: &[Case] = &[Case {
    name: "so_many_refused_execs_under_load_leave_no_mark",
    prepare: |place| {
        place.canary("bad", "bad")?;
        fs::create_dir_all(place.path("fresh"))?;
        Policy::enforce().allow(&place.canary("good", "good")?)
    },
    run,
}];

/// Refused and listed ones at the same time, on each processor.
fn start(trial: &mut Trial<'_>, tries: u64) -> Result<([Tally; 2], [u64; 2])> {
    let marks = [trial.new_mark()?, trial.new_mark()?];
    let each = tries / CPUS.len() as u64;
    let mut workers = Vec::new();
    for (program, mark, count) in [("bad", &marks[0], each), ("good", &marks[1], each / REFUSED_PER_LISTED)] {
        for cpu in CPUS {
            let orders = Orders {
                cpu,
                cgroup: trial.place.cgroup.clone(),
                count,
                program: trial.path(program),
                fresh: (program == "bad").then(|| trial.path("fresh")),
            };
            workers.push((program, orders.start(mark)?));
        }
    }
    let mut tallies = [Tally::default(); 2];
    for (program, worker) in workers {
        let tally = Tally::of(worker).with_context(|| format!("starting {program}"))?;
        let of = &mut tallies[usize::from(program == "good")];
        *of = *of + tally;
    }
    let left = marks.map(|mark| fs::metadata(&mark).map_or(0, |mark| mark.len()) / MARK_BYTES as u64);
    Ok((tallies, left))
}

fn run(trial: &mut Trial<'_>) -> Result<()> {
    if trial.is_control() {
        let ([bad, good], marks) = start(trial, CONTROL_TRIES * REFUSED_PER_LISTED)?;
        ensure!(
            bad.ran == CONTROL_TRIES * REFUSED_PER_LISTED && good.ran == CONTROL_TRIES && marks == [bad.ran, good.ran],
            "without the agent: {bad:?} {good:?}, {marks:?} marks"
        );
        return Ok(());
    }
    let tries = host().refused_execs;
    let unlisted = || agent::counter("lattice_verdicts_total{reason=\"unlisted\"}");
    let full = || agent::counter("lattice_ring_buffer_full_total");
    let unmarked = || agent::counter("lattice_mark_failures_total");
    let (before, full_before, unmarked_before) = (unlisted()?, full()?, unmarked()?);
    let started = Instant::now();
    let ([bad, good], [marks, listed_marks]) = start(trial, tries)?;
    let took = started.elapsed();
    ensure!(
        marks == 0,
        "{marks} of {tries} refused programs left their mark: {bad:?}"
    );
    // Before 6.2 the kernel has no mark for a task that is preempted by another one while it looks for its own: that one's exec is
    // unresolved, which is an error and no signal. Forks are counted there too.
    let unmarked = unmarked()? - unmarked_before;
    let denied = bad.denied + good.denied;
    ensure!(
        bad.killed + bad.denied == tries && denied <= unmarked,
        "of {tries}: {bad:?}, {unmarked} tasks could not be marked"
    );
    let listed = tries / REFUSED_PER_LISTED;
    ensure!(
        good.ran + good.denied == listed && listed_marks == good.ran,
        "of {listed} listed programs: {good:?}, {listed_marks} marks, {unmarked} tasks could not be marked"
    );
    let judged = unlisted()? - before;
    ensure!(judged == bad.killed, "{judged} verdicts for {bad:?}");
    let workload = trial.place.workload();
    let told = || -> (u64, usize) {
        let events = events::of_workload(&trial.node.told, &workload);
        (events.iter().map(|event| event.count).sum(), events.len())
    };
    let waiting = Instant::now();
    while told().0 < tries + good.denied && waiting.elapsed() < TOLD_WITHIN {
        sleep(Duration::from_millis(100));
    }
    // Whatever else would come must have come.
    sleep(Duration::from_secs(3));
    let (refusals, events) = told();
    let lost = full()? - full_before;
    ensure!(
        refusals == tries + good.denied && lost == 0,
        "{refusals} refusals are told of {tries} and {good:?}, in {events} events, and {lost} records found no room"
    );
    println!(
        "note: {tries} refused execs of {} and of fresh files on {} processors in {took:.1?}, beside {listed} listed ones: 0 marks, \
         {denied} refused as unresolved, {events} events",
        path_word(&trial.path("bad")),
        CPUS.len()
    );
    trial.count_events();
    Ok(())
}
