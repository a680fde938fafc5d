//! P1: no dependence on the list's length nor on the number of containers and policies.

use std::path::Path;

use anyhow::Result;

use crate::{
    agent::{Agent, BPF_FILE_SYSTEM},
    count_bpf,
    cycle::{Place, measure},
    measurement::Measurement,
    stage::{Program, Stage},
    statistics::Programs,
    tell,
};

const ENTRIES: [u32; 4] = [10, 100, 1000, 4096];
const CONTAINERS: [u32; 4] = [1, 10, 100, 1000];
/// Of each policy while containers grow.
const ENTRIES_EACH: u32 = 10;

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
    Ok(())
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
