//! P2: how many execs a second are lost. Rounds are interleaved: without the agent, monitor, enforce, without.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    agent::Agent,
    count_bpf,
    cycle::{Place, measure},
    measurement::Measurement,
    stage::{Program, Stage},
    tell,
};

const ENTRIES: u32 = 20;
const WITHOUT: &str = "without the agent";
const MODES: [&str; 2] = ["monitor", "enforce"];
/// What an exec in a container is compared by, and what else may matter to a node.
const EXECS: [(&str, Program, Place); 3] = [
    ("static program in a container", Program::Static, Place::Container(0)),
    (
        "program with an ELF interpreter in a container",
        Program::Dynamic,
        Place::Container(0),
    ),
    ("static program on the host", Program::Static, Place::Host),
];

/// Before each state is measured.
const SETTLE: Duration = Duration::from_secs(2);

type Samples = BTreeMap<(&'static str, &'static str), Vec<f64>>;

pub(super) fn run(stage: &Stage, quick: bool) -> Result<()> {
    let (rounds, cycles) = if quick { (1, 1000) } else { (3, 1500) };
    count_bpf(false)?;
    stage.write_policy(0, MODES[0], ENTRIES, ENTRIES)?;
    std::fs::create_dir_all(crate::agent::cgroup(0))?;
    let mut samples = Samples::new();
    sample(&mut samples, WITHOUT, cycles)?;
    for _ in 0..rounds {
        stage.write_policy(0, MODES[0], ENTRIES, ENTRIES)?;
        let mut agent = Agent::start(stage, 1)?;
        agent.wait_until_quiet()?;
        sample(&mut samples, MODES[0], cycles)?;
        agent.change_policies(|| stage.write_policy(0, MODES[1], ENTRIES, ENTRIES))?;
        agent.wait_until_quiet()?;
        sample(&mut samples, MODES[1], cycles)?;
        agent.remove()?;
        sample(&mut samples, WITHOUT, cycles)?;
    }
    for (exec, ..) in EXECS {
        let without = median(&samples, exec, WITHOUT);
        let spread = spread(&samples, exec, WITHOUT);
        ensure!(without > 0.0, "a cycle took no time");
        let mut values = BTreeMap::from([
            ("without_instructions".to_owned(), without),
            ("without_cycles_per_second".to_owned(), per_second(without)),
            ("without_spread_percent".to_owned(), 100.0 * spread),
        ]);
        for mode in MODES {
            let with = median(&samples, exec, mode);
            values.insert(format!("{mode}_instructions"), with);
            values.insert(format!("{mode}_cycles_per_second"), per_second(with));
            values.insert(format!("{mode}_loss_percent"), 100.0 * (1.0 - without / with));
        }
        tell(&Measurement {
            requirement: "P2".to_owned(),
            case: exec.to_owned(),
            entries: ENTRIES,
            containers: 1,
            values,
            ..Measurement::default()
        })?;
    }
    Ok(())
}

/// In a second of the guest's clock, which is a thousand million instructions.
fn per_second(cycle_nanos: f64) -> f64 {
    1e9 / cycle_nanos
}

fn sample(samples: &mut Samples, state: &'static str, cycles: u64) -> Result<()> {
    // What was freed or attached just now is still being worked on behind our back.
    thread::sleep(SETTLE);
    let (_, first, place) = EXECS[0];
    measure(first, place, cycles, true, None, None)?;
    for (exec, program, place) in EXECS {
        let cost = measure(program, place, cycles, true, None, None)?;
        println!("{exec}, {state}: {:.0} a cycle", cost.cycle_nanos);
        samples.entry((exec, state)).or_default().push(cost.cycle_nanos);
    }
    Ok(())
}

fn sorted(samples: &Samples, exec: &'static str, state: &'static str) -> Vec<f64> {
    let mut found = samples.get(&(exec, state)).cloned().unwrap_or_default();
    found.sort_by(f64::total_cmp);
    found
}

fn median(samples: &Samples, exec: &'static str, state: &'static str) -> f64 {
    let found = sorted(samples, exec, state);
    let middle = found.len() / 2;
    match found.len() {
        0 => 0.0,
        count if count % 2 == 0 => (found[middle - 1] + found[middle]) / 2.0,
        _ => found[middle],
    }
}

/// By how much the largest sample is above the smallest, as a share of the smallest.
fn spread(samples: &Samples, exec: &'static str, state: &'static str) -> f64 {
    let found = sorted(samples, exec, state);
    match (found.first(), found.last()) {
        (Some(least), Some(most)) if *least > 0.0 => most / least - 1.0,
        _ => 0.0,
    }
}
