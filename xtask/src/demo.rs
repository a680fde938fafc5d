//! `cargo xtask demo`: the whole chain on real parts, from a signed image to a refused exec.
//!
//! ```text
//!  registry ◄── image, signed ──► containerd ──► containers ◄── attacks
//!     │                                              │
//!  lattice-central ◄── objects      lattice-agent ◄──┴── events ──► latticectl ──► seen = expected?
//! ```
//!
//! Everything runs on the loopback and in one folder below target; all of it is ended when the demo ends, also by
//! Ctrl-C. Of the machine nothing is used but its kernel and its programs. `steps` plays, `expectations` says what is
//! right, `report` compares.

mod agent;
mod attacker;
mod central;
mod cgroups;
mod containerd;
mod daemon;
mod events;
mod expectations;
mod http;
pub(crate) mod image;
mod interrupt;
mod place;
pub(crate) mod programs;
mod progress;
pub(crate) mod registry;
mod report;
pub(crate) mod sign;
mod steps;
mod world;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail};

use crate::{build, process};
use agent::Agent;
use attacker::Attacker;
use central::{Central, NODE};
use containerd::Containerd;
use events::Events;
use place::Place;
use progress::{Task, heading, say};
use registry::Registry;
use report::{Report, Stage};
use sign::Signer;
use steps::Play;
use world::World;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write what was seen to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Take the programs as they were built last
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if process::capture(std::process::Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("containers and BPF programs need root: run `cargo xtask demo` as root");
    }
    if !arguments.no_build {
        heading(0, "Set-up and build");
        build::run(&build::Arguments {})?;
    }
    interrupt::watch()?;
    let mut world = None;
    let mut report = Report::default();
    let result = raise_curtain(&mut report).and_then(|(stage, play)| {
        let world = world.insert(stage);
        world.report.stage = report.stage.clone();
        play.play(world)
    });
    if let Some(mut world) = world {
        report = std::mem::take(&mut world.report);
        let task = Task::begin("end everything");
        drop(world);
        task.done("done");
    }
    if let Err(error) = &result {
        eprintln!("demo: {error:#}");
    }
    let passed = report.close(arguments.report.as_deref(), result.as_ref().err())?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Step 1, and all that has to run before the others.
fn raise_curtain(report: &mut Report) -> Result<(World, Play)> {
    let place = Place::prepare()?;
    say(&format!("logs: {}", place.logs().display()));
    heading(1, "A private registry, a private containerd, and a signed image");
    let task = Task::begin("build the server and the canaries");
    let (server, backdoor, loader) = (
        programs::server()?,
        programs::canary(steps::BACKDOOR_MARK)?,
        programs::canary(steps::LOADER_MARK)?,
    );
    task.done("built");
    let task = Task::begin("build the image");
    let image = image::build(&server)?;
    task.done(&format!("{} layers", image.blobs.len() - 1));
    let registry = Registry::start(&place)?;
    let keys = place.folder("keys")?;
    let (signer, other) = (Signer::generate(&keys, "ours")?, Signer::generate(&keys, "another")?);
    steps::publish(&registry, &image, &signer, &other)?;
    let task = Task::begin("start containerd, central and the agent");
    let containerd = Containerd::start(&place)?;
    let central = Central::start(&place, &registry.name(), &signer.public_key()?)?;
    let agent = Agent::start(&place, &central, &containerd)?;
    let events = Events::follow(&place, &central)?;
    task.done("they run");
    let node = central.node()?.ok_or_else(|| anyhow!("the agent has gone"))?;
    report.stage = Stage {
        node: NODE.to_owned(),
        tier: node["tier"].as_u64().unwrap_or_default(),
        kernel: node["kernelRelease"].as_str().unwrap_or_default().to_owned(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot read the boot id")?
            .trim()
            .to_owned(),
        signed_by: signer.description(),
    };
    let play = Play {
        digest: image.digest(),
        listen: [
            format!("127.0.0.1:{}", daemon::free_port()?),
            format!("127.0.0.1:{}", daemon::free_port()?),
        ],
        loader_canary: fs::read(&loader).context("cannot read a canary")?,
    };
    let world = World {
        events,
        agent,
        containerd,
        central,
        registry,
        attacker: Attacker::start(fs::read(&backdoor).context("cannot read a canary")?)?,
        place,
        report: Report::default(),
    };
    Ok((world, play))
}
