//! One cycle is vfork, exec, exit and wait. Costs come from the difference of a long and a short run of the same loop, so
//! that the loop's own start is in neither.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent, elf,
    measurement::ProgramCost,
    stage::Program,
    statistics::{Programs, Work},
};

/// Cycles of the short run.
const SHORT: u64 = 10;
/// Cycles before anything is measured, at most: the kernel's caches fill meanwhile, and what it puts off until later (the
/// memory of ended tasks, above all) comes to cost in each cycle what it costs in the long run.
const WARM_UP: u64 = 1000;

/// Where the loop runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// As a member of this container.
    Container(u32),
    /// As a process of the host.
    Host,
}

/// What one exec cost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost {
    /// Nanoseconds of the whole cycle: instructions, under instruction counting.
    pub(crate) cycle_nanos: f64,
    /// Nanoseconds of the agent's CPU, with what it did within the wait for it.
    pub(crate) agent_nanos: f64,
    /// By program.
    pub(crate) programs: BTreeMap<String, ProgramCost>,
}

struct Sample {
    elapsed: Duration,
    agent: Duration,
    wall: Duration,
    work: BTreeMap<String, Work>,
}

/// Measures `cycles` execs of `program`. With `programs`, by BPF program; with `settle`, with the agent's CPU until it has
/// nothing left to do.
///
/// # Errors
///
/// Where an exec does not end as `allowed` says: then nothing was measured.
pub(crate) fn measure(
    program: Program,
    place: Place,
    cycles: u64,
    allowed: bool,
    programs: Option<&Programs>,
    settle: Option<&agent::Agent>,
) -> Result<Cost> {
    let sample = |count| run(program, place, count, allowed, programs, settle);
    run(program, place, WARM_UP.min(cycles), allowed, None, settle)?;
    let short = sample(SHORT)?;
    let long = sample(SHORT + cycles)?;
    let per_cycle =
        |long: Duration, short: Duration| (long.as_nanos() as f64 - short.as_nanos() as f64) / cycles as f64;
    let mut cost = Cost {
        cycle_nanos: per_cycle(long.elapsed, short.elapsed),
        agent_nanos: per_cycle(long.agent, short.agent),
        programs: BTreeMap::new(),
    };
    if settle.is_some() {
        // What the agent does anyway, for the time by which the long run was longer.
        let idle = idle_rate(Duration::from_secs(2))?;
        let longer = long.wall.as_nanos() as f64 - short.wall.as_nanos() as f64;
        cost.agent_nanos -= idle * longer / cycles as f64;
    }
    for (name, work) in &long.work {
        let before = short.work.get(name).copied().unwrap_or_default();
        cost.programs.insert(
            name.clone(),
            ProgramCost {
                runs: (work.runs as f64 - before.runs as f64) / cycles as f64,
                instructions: (work.nanos as f64 - before.nanos as f64) / cycles as f64,
            },
        );
    }
    cost.programs.retain(|_, cost| cost.runs > 0.0);
    Ok(cost)
}

/// The share of a CPU that the agent takes when nothing happens.
///
/// # Errors
///
/// Where its account cannot be read.
pub(crate) fn idle_rate(span: Duration) -> Result<f64> {
    let (cpu, started) = (agent::cpu()?, Instant::now());
    std::thread::sleep(span);
    Ok(agent::cpu()?.saturating_sub(cpu).as_secs_f64() / started.elapsed().as_secs_f64())
}

fn run(
    program: Program,
    place: Place,
    count: u64,
    allowed: bool,
    programs: Option<&Programs>,
    settle: Option<&agent::Agent>,
) -> Result<Sample> {
    if let Some(agent) = settle {
        agent.wait_until_quiet()?;
    }
    let work_before = programs.map(Programs::read).transpose()?.unwrap_or_default();
    let agent_before = settle.map(|_| agent::cpu()).transpose()?.unwrap_or_default();
    let mut command = match place {
        Place::Container(container) => {
            let mut shell = Command::new("sh");
            let enter = format!(
                "echo 0 >{}/cgroup.procs; exec \"$@\"",
                agent::cgroup(container).display()
            );
            shell.args(["-c", &enter, "sh"]).arg(Program::Spin.path());
            shell
        }
        Place::Host => Command::new(Program::Spin.path()),
    };
    command.arg(count.to_string()).arg(program.path());
    let started = Instant::now();
    let output = command.output().context("cannot start the loop")?;
    let elapsed = started.elapsed();
    if let Some(agent) = settle {
        agent.wait_until_quiet()?;
    }
    let wall = started.elapsed();
    let good = elf::good_ones(&output.stdout)
        .with_context(|| format!("the loop around {program:?} ended with {}", output.status))?;
    let expected = if allowed { count } else { 0 };
    ensure!(
        good == expected,
        "{program:?} in {place:?}: {good} of {count} execs ran instead of {expected}"
    );
    let mut work = programs.map(Programs::read).transpose()?.unwrap_or_default();
    for (name, work) in &mut work {
        let before = work_before.get(name).copied().unwrap_or_default();
        work.runs -= before.runs;
        work.nanos -= before.nanos;
    }
    let agent = settle
        .map(|_| agent::cpu())
        .transpose()?
        .unwrap_or_default()
        .saturating_sub(agent_before);
    Ok(Sample {
        elapsed,
        agent,
        wall,
        work,
    })
}
