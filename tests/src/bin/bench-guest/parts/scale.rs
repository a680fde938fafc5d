//! P1: no dependence on the list's length nor on the number of containers and policies. N8: what a policy takes of the kernel's memory.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::{
    agent::{Agent, BPF_FILE_SYSTEM, logged_errors},
    count_bpf,
    cycle::{Place, measure},
    measurement::Measurement,
    stage::{Program, Stage},
    statistics::{self, Programs},
    tell,
};

const ENTRIES: [u32; 4] = [10, 100, 1000, 4096];
const CONTAINERS: [u32; 4] = [1, 10, 100, 1000];
/// Of each policy while containers grow.
const ENTRIES_EACH: u32 = 10;
/// Policies of a node that has one container, all with the same entries.
const POLICIES: [u32; 4] = [1, 100, 1000, 10_000];

pub(super) fn run(stage: &Stage, quick: bool) -> Result<()> {
    let cycles = if quick { 50 } else { 200 };
    let steps = if quick { vec![1, 1000] } else { CONTAINERS.to_vec() };
    for containers in steps {
        stage.clear_policies()?;
        for container in 0..containers {
            stage.write_policy(container, "enforce", ENTRIES_EACH, ENTRIES_EACH)?;
        }
        let mut agent = Agent::start(stage, containers)?;
        let programs = Programs::open(Path::new(BPF_FILE_SYSTEM))?;
        count_bpf(true)?;
        one(&programs, cycles, ENTRIES_EACH, containers)?;
        if containers == 1 {
            for entries in &ENTRIES[1..] {
                agent.change_policies(|| stage.write_policy(0, "enforce", *entries, *entries))?;
                one(&programs, cycles, *entries, containers)?;
            }
        }
        drop(programs);
        agent.remove()?;
    }
    let steps = if quick { vec![1, 1000] } else { POLICIES.to_vec() };
    for policies in steps {
        with_policies(stage, policies, cycles)?;
    }
    Ok(())
}

/// As the policies grow that share one set. The container's own is the last of them.
fn with_policies(stage: &Stage, policies: u32, cycles: u64) -> Result<()> {
    stage.clear_policies()?;
    let entries = stage.own_entries();
    for policy in (0..policies).rev() {
        stage.write_policy(policy, "enforce", entries, entries)?;
    }
    let agent = Agent::start(stage, 1)?;
    ensure!(
        logged_errors().is_empty(),
        "not all policies were taken: {:?}",
        logged_errors()
    );
    let programs = Programs::open(Path::new(BPF_FILE_SYSTEM))?;
    count_bpf(true)?;
    let cost = measure(
        Program::Static,
        Place::Container(0),
        cycles,
        true,
        Some(&programs),
        None,
    )?;
    drop(programs);
    agent.wait_until_quiet()?;
    let kernel_bytes: u64 = statistics::map_bytes()?.values().sum();
    let values = [
        (
            "bpf_instructions",
            cost.programs.values().map(|program| program.instructions).sum(),
        ),
        ("maps_mib", kernel_bytes as f64 / f64::from(1 << 20)),
        ("rss_mib", agent.status_kib("VmRSS")? as f64 / 1024.0),
        ("start_seconds", agent.start_duration.as_secs_f64()),
    ];
    tell(&Measurement {
        requirement: "P1".to_owned(),
        case: format!("allowed, static program, as the node grows: {policies} policies of one set"),
        entries,
        containers: 1,
        values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        programs: cost.programs,
        note: String::new(),
    })?;
    agent.remove()
}

/// Of the container that the agent was told last.
fn one(programs: &Programs, cycles: u64, entries: u32, containers: u32) -> Result<()> {
    let place = Place::Container(containers - 1);
    let cost = measure(Program::Static, place, cycles, true, Some(programs), None)?;
    let instructions = cost.programs.values().map(|program| program.instructions).sum();
    tell(&Measurement {
        requirement: "P1".to_owned(),
        case: "allowed, static program, as the node grows".to_owned(),
        entries,
        containers,
        values: [("bpf_instructions".to_owned(), instructions)].into(),
        programs: cost.programs,
        note: String::new(),
    })
}
