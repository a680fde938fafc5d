//! P1 in nanoseconds, on the kernel and the processor of this machine, by the kernel's own statistics of BPF programs.
//!
//! Unlike instructions they depend on what else the machine does, so each case is measured in several rounds, interleaved, and
//! the median is told with the spread.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::{
    agent::{Agent, BPF_FILE_SYSTEM},
    count_bpf,
    cycle::{Cost, Place, measure},
    measurement::Measurement,
    stage::{Program, Stage},
    statistics::{self, Programs},
    tell,
};

const ENTRIES: u32 = 20;

/// What both tiers judge alike.
const CASES: [(&str, Program, Place, bool); 4] = [
    (
        "natively: allowed, static program, digest kept",
        Program::Static,
        Place::Container(0),
        true,
    ),
    (
        "natively: allowed, with an ELF interpreter, both kept",
        Program::Dynamic,
        Place::Container(0),
        true,
    ),
    ("natively: process of the host", Program::Static, Place::Host, true),
    (
        "natively: refused by its digest",
        Program::Unlisted,
        Place::Container(0),
        false,
    ),
];

pub(super) fn run(stage: &Stage, quick: bool) -> Result<()> {
    // Another agent's programs would run at each exec too, and count as ours.
    ensure!(
        !statistics::any_loaded()?,
        "programs of an agent are loaded on this machine; end it and run `lattice-agent uninstall`"
    );
    let (rounds, cycles) = if quick { (3, 500) } else { (7, 3000) };
    stage.write_policy(0, "enforce", ENTRIES, ENTRIES)?;
    let agent = Agent::start(stage, 1)?;
    let programs = Programs::open(Path::new(BPF_FILE_SYSTEM))?;
    count_bpf(true)?;
    let result = measure_all(&programs, &agent, rounds, cycles);
    // The statistics cost every program of the machine, so they never stay on.
    count_bpf(false)?;
    drop(programs);
    agent.remove()?;
    result
}

fn measure_all(programs: &Programs, agent: &Agent, rounds: u32, cycles: u64) -> Result<()> {
    let mut costs: [Vec<Cost>; CASES.len()] = Default::default();
    for _ in 0..rounds {
        for ((_, program, place, allowed), costs) in CASES.iter().zip(&mut costs) {
            costs.push(measure(
                *program,
                *place,
                cycles,
                *allowed,
                Some(programs),
                Some(agent),
            )?);
        }
    }
    for ((case, ..), mut costs) in CASES.iter().zip(costs) {
        costs.sort_by(|left, right| bpf_nanos(left).total_cmp(&bpf_nanos(right)));
        let (least, most) = (costs.first().map(bpf_nanos), costs.last().map(bpf_nanos));
        let median = costs.swap_remove(costs.len() / 2);
        ensure!(bpf_nanos(&median) > 0.0, "{case}: the programs took no time");
        let values = [
            ("bpf_nanoseconds", bpf_nanos(&median)),
            ("bpf_nanoseconds_least", least.unwrap_or_default()),
            ("bpf_nanoseconds_most", most.unwrap_or_default()),
            ("cycle_nanoseconds", median.cycle_nanos),
            ("agent_nanoseconds", median.agent_nanos),
        ];
        tell(&Measurement {
            requirement: "P1".to_owned(),
            case: (*case).to_owned(),
            entries: ENTRIES,
            containers: 1,
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
            programs: median.programs,
            note: String::new(),
        })?;
    }
    Ok(())
}

fn bpf_nanos(cost: &Cost) -> f64 {
    cost.programs.values().map(|program| program.instructions).sum()
}
