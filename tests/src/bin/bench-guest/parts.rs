//! What is measured, one VM a part.

mod flip;
mod footprint;
mod native;
mod per_exec;
mod scale;
mod throughput;

use anyhow::Result;

use crate::stage::Stage;

/// One part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// P1: BPF instructions and agent CPU for one exec, by kind of exec
    PerExec,
    /// P1: the same as entries and containers grow
    Scale,
    /// P2: cycles without an agent, in monitor and in enforce
    Throughput,
    /// P3: memory, CPU at rest, time to protection
    Footprint,
    /// P3: time to protection alone, for a VM whose clock is a real one
    Start,
    /// P1: time of one exec on this machine's own kernel
    Native,
    /// N6: from a mode's change at central to the kernel, on this machine's own kernel
    Flip,
}

/// Measures a part.
///
/// # Errors
///
/// Where anything does not happen as the measurement presumes.
pub(crate) fn run(part: Part, quick: bool) -> Result<()> {
    let mut stage = Stage::build()?;
    match part {
        Part::PerExec => per_exec::run(&stage, quick),
        Part::Scale => scale::run(&stage, quick),
        Part::Throughput => throughput::run(&stage, quick),
        Part::Footprint => footprint::run(&stage, quick),
        Part::Start => footprint::start(&stage),
        Part::Native => native::run(&stage, quick),
        Part::Flip => flip::run(&mut stage, quick),
    }
}
