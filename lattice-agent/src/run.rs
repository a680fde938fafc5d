//! The three commands. Parse everything, then touch the kernel, then run, then stop; what is pinned stays.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lattice_agent::{
    containers::{ContainerInfo, Sink as _, by_hand::ByHand, cgroup_tree::CgroupTree},
    enforcement::Enforcement,
    events::{EventSink, clock, explain::Node, reader::Reader},
    kernel::{
        maps::Maps,
        object::{MapSizes, ObjectError, Tier, activate, try_tier_one},
        pins::PinDirectory,
    },
    policy_files::PolicyFiles,
    runtime_programs,
    state::Shared,
};
use lattice_api::v1::{Event, event::Kind};
use lattice_common::abi::maps as map_names;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::cli::{Pins, Settings};

/// How often the policy folder is looked at.
const POLICY_FILES_INTERVAL: Duration = Duration::from_millis(500);

/// `lattice-agent probe`.
pub(crate) fn probe() -> Result<ExitCode> {
    match try_tier_one() {
        Ok(()) => println!("tier 1: this kernel loads and attaches BPF LSM programs"),
        Err(error) => {
            println!("tier 2: this kernel refuses BPF LSM");
            println!("reason: {:#}", anyhow::Error::from(error));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `lattice-agent uninstall`.
pub(crate) fn uninstall(pins: &Pins) -> Result<ExitCode> {
    let removed = PinDirectory::new(&pins.bpf_file_system).remove_all()?;
    println!("removed {removed} pins: nothing is enforced on this node now");
    Ok(ExitCode::SUCCESS)
}

/// `lattice-agent run`.
pub(crate) fn run(settings: Box<Settings>) -> Result<ExitCode> {
    let tree = CgroupTree::find()?;
    let containers =
        settings.cgroup.iter().map(|text| Ok(text.parse::<ByHand>()?.resolve(&tree)?)).collect::<Result<Vec<_>>>()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?
        .block_on(serve(settings, containers))
}

async fn serve(settings: Box<Settings>, containers: Vec<ContainerInfo>) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pins = PinDirectory::new(&settings.pins.bpf_file_system);
    let sizes = MapSizes(vec![(map_names::ENTRIES, settings.max_entries)]);
    let active = match settings.tier {
        Some(1) => activate(Tier::One, &pins, &sizes)?,
        Some(_) => activate(Tier::Two, &pins, &sizes)?,
        None => match activate(Tier::One, &pins, &sizes) {
            Ok(active) => active,
            Err(error @ (ObjectError::Load { .. } | ObjectError::Program { .. })) => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "BPF LSM is refused here: tier 2");
                activate(Tier::Two, &pins, &sizes)?
            }
            Err(error) => return Err(error.into()),
        },
    };
    let tier = active.tier;
    tracing::info!(tier = %active.tier, found_pinned = active.found_pinned, "BPF programs are active");
    let last_sequence = if active.found_pinned { 0 } else { active.maps.last_sequence()? };
    let state = Arc::new(Shared::new(Enforcement::adopt(active.maps)?));

    let runtime_programs = if settings.runtime_program.is_empty() {
        runtime_programs::find(&std::env::var("PATH").unwrap_or_default())
    } else {
        settings.runtime_program.clone()
    };
    state.enforcement().set_runtime_programs(&runtime_programs::entry_set(&runtime_programs)?)?;
    tracing::info!(programs = ?runtime_programs, "container runtime programs pass by their content");

    let mut policy_files = settings.policies.clone().map(PolicyFiles::new);
    if let Some(files) = &mut policy_files {
        refresh(files, &state)?;
    }
    if let Some(root) = &settings.managed_root {
        let cgroup_id = std::fs::metadata(root).with_context(|| format!("--managed-root {}", root.display()))?.ino();
        state.enforcement().set_managed_root(cgroup_id, settings.unknown.into())?;
    }
    for container in containers {
        state.started(container).map_err(anyhow::Error::msg)?;
    }
    state.enforcement().settle()?;

    let (cgroups, mut made) = mpsc::unbounded_channel();
    tokio::spawn(async move { while made.recv().await.is_some() {} });
    let node = Node {
        name: settings.node.clone().unwrap_or_else(host_name),
        boot_id: clock::boot_id()?,
        tier: tier.number(),
    };
    let reader =
        Reader { ring: Maps::events(&pins)?, state: Arc::clone(&state), sink: Arc::new(Log), cgroups, node, last_sequence };
    let reader = tokio::spawn(reader.run());
    tracing::info!("ready");
    let mut look = tokio::time::interval(POLICY_FILES_INTERVAL);
    tokio::pin!(reader);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = &mut reader => {
                ended.context("the event reader was ended")?.context("the ring buffer cannot be read")?;
                bail!("the event reader ended");
            }
            _ = look.tick() => {
                if let Some(files) = &mut policy_files
                    && let Err(error) = refresh(files, &state)
                {
                    tracing::error!(error = format!("{error:#}"), "the policy folder cannot be read; what is in force stays");
                }
            }
        }
    }
    tracing::info!("stopping; what is enforced stays in force until `lattice-agent uninstall`");
    Ok(ExitCode::SUCCESS)
}

fn refresh(files: &mut PolicyFiles, state: &Shared) -> Result<()> {
    let changes = files.refresh()?;
    for problem in &changes.problems {
        tracing::error!("{problem}");
    }
    if changes.is_changed {
        let policies = files.policies();
        let count = policies.len();
        match state.apply(policies, BTreeMap::new()) {
            Ok(()) => tracing::info!(policies = count, "policies are in force"),
            Err(error) => tracing::error!(error, "not all policies are in force"),
        }
    }
    Ok(())
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

struct Log;

impl EventSink for Log {
    fn accept(&self, event: &Event) -> Result<(), String> {
        match &event.kind {
            Some(Kind::Violation(violation)) => tracing::info!(
                sequence = event.sequence,
                hook = violation.hook,
                mode = violation.mode,
                action = violation.effective_action,
                signal = violation.signal_return_code,
                reason = violation.reason,
                role = violation.role,
                origin = violation.origin,
                drift = violation.drift,
                pid = violation.pid,
                sha256 = hex::encode(&violation.sha256),
                "{}",
                violation.message
            ),
            other => tracing::info!(sequence = event.sequence, ?other, "event"),
        }
        Ok(())
    }
}
