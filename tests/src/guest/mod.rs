//! The guest side: prepares every case, runs all without an agent, then all with it.

pub mod actor;
pub mod agent;
pub mod canaries;
pub mod cases;
pub mod container;
pub mod corpus;
pub mod events;
pub mod flood;
pub mod fuse;
pub mod golden;
pub mod host;
pub mod node;
pub mod overlay;
pub mod policy;
pub mod trial;

use std::{
    collections::BTreeMap,
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::{
    cases::Listed,
    host::{Runtime, host},
    node::Node,
    trial::{Case, Phase, Place, Trial},
};
use crate::report::Report;

/// Cases whose duration without the agent is told.
const SLOWEST: usize = 6;

/// Runs the cases whose name holds one of the words; all where there is none.
pub fn run(listed: Vec<Listed>, only: &[String]) -> ExitCode {
    let mut report = Report::default();
    let is_chosen = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(word.as_str()));
    let mut cases = Vec::new();
    for listed in listed {
        match listed {
            Listed::Case(case) if is_chosen(case.name) => cases.push(case),
            Listed::Skipped { name, reason } if is_chosen(name) => match reason() {
                Some(reason) => report.skip(name, &reason),
                None => report.case(
                    name,
                    &Err(anyhow::anyhow!("it could run here, and no case does")),
                    Duration::ZERO,
                ),
            },
            _ => {}
        }
    }
    let mut node = Node::default();
    let mut broken = BTreeMap::new();
    let mut durations = Vec::new();
    for case in &cases {
        let started = Instant::now();
        if let Err(error) = control(case, &mut node) {
            broken.insert(case.name, error);
        }
        durations.push((started.elapsed(), case.name));
    }
    note_durations(durations);
    // What one case told late would be taken for nothing, so all are counted again at the end.
    let mut told = BTreeMap::new();
    let started = Instant::now();
    match begin(&cases, &mut node) {
        Err(error) => report.case("the agent starts", &Err(error), started.elapsed()),
        Ok(()) => {
            report.case("the agent starts", &Ok(()), started.elapsed());
            for case in &cases {
                let started = Instant::now();
                let result = match broken.remove(case.name) {
                    Some(error) => Err(error.context("control")),
                    None => judged(case, &mut node).map(|count| {
                        told.insert(case.name, count);
                    }),
                };
                report.case(case.name, &result, started.elapsed());
            }
        }
    }
    if only.is_empty() {
        report.case(
            "every refusal made one event",
            &count_again(&node, &told),
            Duration::ZERO,
        );
        // Natively none is compared: tier 2 is another, and the machine's containers too.
        if host().runtime == Runtime::Runc {
            report.case(
                "every golden event was compared",
                &golden::all_were_compared(),
                Duration::ZERO,
            );
        }
    }
    node.corpus.print();
    if report.has_failures() {
        agent::print_troubles();
    }
    report.finish()
}

/// How long the tricks took without the agent, of which no line of their own tells.
fn note_durations(mut durations: Vec<(Duration, &str)>) {
    let all: Duration = durations.iter().map(|(duration, _)| *duration).sum();
    durations.sort_unstable_by(|one, other| other.cmp(one));
    let slowest: Vec<String> = durations
        .iter()
        .take(SLOWEST)
        .map(|(duration, name)| format!("{name} {:.1} s", duration.as_secs_f32()))
        .collect();
    println!(
        "note: {} cases without the agent took {:.0} s, most of it {}",
        durations.len(),
        all.as_secs_f32(),
        slowest.join(", ")
    );
}

fn control(case: &Case, node: &mut Node) -> Result<()> {
    let place = fresh(case)?;
    (case.prepare)(&place).context("prepare")?;
    let mut trial = Trial::new(node, place, Phase::Control);
    (case.run)(&mut trial)
}

/// Everything is made anew, so that the agent meets inodes that nobody has hashed, and cgroups that nothing has run in.
fn begin(cases: &[Case], node: &mut Node) -> Result<()> {
    for case in cases {
        let place = fresh(case)?;
        (case.prepare)(&place)
            .with_context(|| format!("{}: prepare", case.name))?
            .write(&place.workload())?;
        node.add(&place)?;
    }
    node.start()
}

fn fresh(case: &Case) -> Result<Place> {
    let place = Place::of(case.name);
    overlay::unmount_below(&place.folder)?;
    if place.folder.exists() {
        fs::remove_dir_all(&place.folder)?;
    }
    fs::create_dir_all(&place.folder)?;
    if host().runtime == Runtime::Runc {
        // containerd's runtime makes the cgroup by itself, and its containers need nothing of the host's.
        fs::create_dir_all(&place.cgroup)?;
        fs::create_dir_all("/t")?;
    }
    Ok(place)
}

fn judged(case: &Case, node: &mut Node) -> Result<usize> {
    let mut trial = Trial::new(node, Place::of(case.name), Phase::Judged);
    let result = (case.run)(&mut trial);
    // Also after another failure: what differs is told of the case that made it.
    let golden = golden::none_differed();
    result?;
    golden?;
    trial.finish()
}

fn count_again(node: &Node, told: &BTreeMap<&'static str, usize>) -> Result<()> {
    for (name, count) in told {
        let now = events::of_workload(&node.told, &Place::of(name).workload()).len();
        anyhow::ensure!(now == *count, "{name}: {now} events at the end, {count} when it ended");
    }
    Ok(())
}
