//! The three commands. Parse everything, then touch the kernel, then run, then stop; what is pinned stays.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lattice_agent::{
    backend::AgentBackend,
    containers::{
        Sink as _,
        by_hand::ByHand,
        cgroup_tree::CgroupTree,
        containerd::{self, ContainerdWatcher},
    },
    control::{self, ControlSocket, LocalModes, RecentEvents},
    enforcement::Enforcement,
    events::{EventSink, clock, explain::Node, reader::Reader},
    front::{self, Front},
    inodes::{Inodes, mounts::Mounts},
    kernel::{
        maps::{InodeTable, Maps},
        object::{Active, MapSizes, ObjectError, Tier, activate, is_any_loaded, try_tier_one},
        pins::PinDirectory,
        sequence::SequenceCounter,
    },
    policy_files::PolicyFiles,
    policy_sources::PolicySources,
    runtime_programs,
    script_judge::ScriptJudge,
    spool::Spool,
    state::Shared,
    uplink::{self, PolicySink as _, Uplink, last_good},
};
use lattice_api::{
    event::event_message,
    v1::{Event, Hello},
};
use lattice_common::abi::maps as map_names;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::cli::{Pins, Settings};

/// How often the policy folder is looked at.
const POLICY_FILES_INTERVAL: Duration = Duration::from_millis(500);
/// How long the kernel may take to detach a program whose pin is gone.
const DETACH_WITHIN: Duration = Duration::from_secs(5);
/// Events of the agent itself that wait for the reader.
const OWN_EVENTS: usize = 4096;
/// The hidden command that the watchdog runs.
pub(crate) const FRONT_WATCHDOG: &str = "front-watchdog";
/// Events that are kept in memory for who looks.
const RECENT_EVENTS: usize = 1024;
/// How long the container runtime is waited for before events are explained without it.
const CONTAINERS_FIRST: Duration = Duration::from_secs(3);
/// How long containers that were known before a restart may take to be told again.
const SETTLE_AFTER: Duration = Duration::from_secs(5);

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
    let give_up = Instant::now() + DETACH_WITHIN;
    while is_any_loaded() {
        if Instant::now() > give_up {
            bail!(
                "{removed} pins are removed, but BPF programs are still loaded: is an agent running? Stop it, then uninstall again"
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("removed {removed} pins: nothing is enforced on this node now");
    Ok(ExitCode::SUCCESS)
}

/// `lattice-agent run`.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    let tree = CgroupTree::find()?;
    let by_hand = settings
        .cgroup
        .iter()
        .map(|text| Ok(text.parse()?))
        .collect::<Result<Vec<ByHand>>>()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?
        .block_on(serve(settings, tree, by_hand))
}

async fn serve(settings: &Settings, tree: CgroupTree, by_hand: Vec<ByHand>) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node_name = settings.node.clone().unwrap_or_else(host_name);
    let kernel_release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let boot_id = clock::boot_id().context("cannot read this boot's id")?;
    fs::create_dir_all(&settings.state).with_context(|| format!("--state {}", settings.state.display()))?;
    let socket = ControlSocket::bind(&settings.socket)?;
    let spool = Arc::new(Spool::open(&settings.state.join("spool"), settings.spool_size << 20)?);
    let modes = Arc::new(LocalModes::load(&settings.state, settings.central.clone()));

    let pins = PinDirectory::new(&settings.pins.bpf_file_system);
    let mut active = activate_best(settings, &pins)?;
    active.maps.continue_sequence_after(spool.highest(&boot_id))?;
    tracing::info!(tier = %active.tier, found_pinned = active.found_pinned, kernel = kernel_release, "BPF programs are active");
    let node = Node {
        name: node_name.clone(),
        boot_id: boot_id.clone(),
        tier: active.tier.number(),
    };
    let uplink = uplink(settings, &node, &kernel_release)?;
    let inodes = match active.tier {
        Tier::One => None,
        Tier::Two => Some(Inodes::new(InodeTable::open(&pins)?)),
    };
    let state = Arc::new(Shared::new(Enforcement::adopt(active.maps)?, inodes));
    let host_mounts = Mounts::of("1")
        .or_else(|_| Mounts::of("self"))
        .context("cannot read the host's mounts")?;
    let host_root = host_mounts.of_path(Path::new("/")).map_or(0, |mount| mount.device);
    state.enforcement().set_host_root(host_root)?;
    let sources = Arc::new(PolicySources::new(Arc::clone(&state)));
    pass_runtime_programs(settings, &state)?;

    // What was in force before is in force again before anything is asked for.
    if let Err(error) = sources.set_modes(modes.all()) {
        tracing::error!(error, "not all modes are in force");
    }
    let mut policy_files = settings.policies.clone().map(PolicyFiles::new);
    if let Some(files) = &mut policy_files {
        refresh(files, &sources).with_context(|| format!("--policies {:?}", settings.policies))?;
    }
    if settings.central.is_some() {
        load_last_good(&settings.state, &sources);
    }
    for container in by_hand {
        state.started(container.resolve(&tree)?).map_err(anyhow::Error::msg)?;
    }
    if let Some(root) = &settings.managed_root {
        let cgroup_id = fs::metadata(root)
            .with_context(|| format!("--managed-root {}", root.display()))?
            .ino();
        state
            .enforcement()
            .set_managed_root(cgroup_id, settings.unknown.into())?;
    }

    let (own_sender, own_events) = mpsc::channel(OWN_EVENTS);
    if active.tier == Tier::Two {
        start_front(&pins, &state, own_sender, &node);
    }
    let watcher = settings.containerd.clone().map(|socket| {
        let watched = containerd::Settings {
            socket,
            namespaces: BTreeSet::new(),
        };
        ContainerdWatcher::start(watched, tree, Arc::clone(&state) as Arc<_>)
    });
    let watcher = watcher.transpose().context("cannot watch containerd")?;
    state.enforcement().announce_cgroups(watcher.is_some())?;
    if let Some(watcher) = &watcher {
        // What happened while no agent ran is explained by the containers that were there.
        let mut connection = watcher.connection();
        let told = connection.wait_for(|connection| *connection == containerd::Connection::Watching);
        if tokio::time::timeout(CONTAINERS_FIRST, told).await.is_err() {
            tracing::warn!("containerd does not answer yet; its containers stay as they were");
        }
    }
    let recent = Arc::new(RecentEvents::new(RECENT_EVENTS, spool.newest(RECENT_EVENTS)?));
    let (cgroups, mut made) = mpsc::unbounded_channel();
    let reader = Reader {
        ring: Maps::events(&pins)?,
        state: Arc::clone(&state),
        sink: Arc::new(Keeper {
            spool: Arc::clone(&spool),
            recent: Arc::clone(&recent),
        }),
        cgroups,
        own_events,
        node: node.clone(),
        last_sequence: spool.kept_through(&boot_id),
    };
    let mut reader = tokio::spawn(reader.run());
    let central = uplink.as_ref().map(Uplink::connection);
    if let Some(uplink) = uplink {
        tokio::spawn(uplink.run(Arc::clone(&spool), Arc::clone(&sources) as Arc<_>));
    }
    let backend = Arc::new(AgentBackend {
        state: Arc::clone(&state),
        sources: Arc::clone(&sources),
        spool,
        node,
        kernel_release,
        central,
    });
    let (stop_control, stopped) = tokio::sync::oneshot::channel::<()>();
    let control = tokio::spawn(control::serve(socket, backend, recent, modes, async {
        let _ = stopped.await;
    }));
    let mut is_settled = false;
    if watcher.is_none() {
        state.enforcement().settle()?;
        is_settled = true;
    }
    tracing::info!(node = node_name, "ready");

    let settle = tokio::time::sleep(SETTLE_AFTER);
    tokio::pin!(settle);
    let mut look = tokio::time::interval(POLICY_FILES_INTERVAL);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = &mut reader => {
                ended.context("the event reader was ended")?.context("the ring buffer cannot be read")?;
                bail!("the event reader ended");
            }
            Some(cgroup_id) = made.recv() => {
                if let Some(watcher) = &watcher {
                    watcher.cgroup_made(cgroup_id);
                }
            }
            () = &mut settle, if !is_settled => {
                is_settled = true;
                // A runtime that does not answer says nothing of which containers are gone.
                if watcher.as_ref().is_none_or(|watcher| *watcher.connection().borrow() == containerd::Connection::Watching) {
                    state.enforcement().settle()?;
                } else {
                    is_settled = false;
                    settle.as_mut().reset(tokio::time::Instant::now() + SETTLE_AFTER);
                }
            }
            _ = look.tick() => {
                if let Some(files) = &mut policy_files
                    && let Err(error) = refresh(files, &sources)
                {
                    tracing::error!(error = format!("{error:#}"), "the policy folder cannot be read; what is in force stays");
                }
            }
        }
    }
    tracing::info!("stopping; what is enforced stays in force until `lattice-agent uninstall`");
    let _ = stop_control.send(());
    let _ = tokio::time::timeout(Duration::from_secs(2), control).await;
    Ok(ExitCode::SUCCESS)
}

fn activate_best(settings: &Settings, pins: &PinDirectory) -> Result<Active> {
    let sizes = MapSizes(vec![
        (map_names::ENTRIES, settings.max_entries),
        (map_names::SIZES, settings.max_entries),
    ]);
    Ok(match settings.tier {
        Some(1) => activate(Tier::One, pins, &sizes)?,
        Some(_) => activate(Tier::Two, pins, &sizes)?,
        None => match activate(Tier::One, pins, &sizes) {
            Ok(active) => active,
            Err(error @ (ObjectError::Load { .. } | ObjectError::Program { .. })) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "BPF LSM is refused here: tier 2"
                );
                activate(Tier::Two, pins, &sizes)?
            }
            Err(error) => return Err(error.into()),
        },
    })
}

fn uplink(settings: &Settings, node: &Node, kernel_release: &str) -> Result<Option<Uplink>> {
    let (Some(central), Some(client_certificate), Some(client_key), Some(certificate_authority)) = (
        settings.central.clone(),
        settings.client_cert.clone(),
        settings.client_key.clone(),
        settings.ca.clone(),
    ) else {
        return Ok(None);
    };
    let hello = Hello {
        node: node.name.clone(),
        boot_id: node.boot_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        tier: node.tier,
        kernel_release: kernel_release.into(),
    };
    let state = settings.state.clone();
    let settings = uplink::Settings {
        central,
        client_certificate,
        client_key,
        certificate_authority,
        hello,
        state,
    };
    Ok(Some(Uplink::prepare(settings)?))
}

/// The floor holds without the front: where that cannot be had, scripts are not judged, and the log says so.
fn start_front(pins: &PinDirectory, state: &Arc<Shared>, events: mpsc::Sender<Event>, node: &Node) {
    let sequence = match SequenceCounter::open(pins) {
        Ok(sequence) => sequence,
        Err(error) => {
            return tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "no front: scripts are not judged"
            );
        }
    };
    let judge = Arc::new(ScriptJudge {
        state: Arc::clone(state),
        sequence,
        events,
        node: node.clone(),
    });
    let heartbeat = front::watchdog::spawn(&[FRONT_WATCHDOG]);
    if let Err(error) = &heartbeat {
        tracing::error!(%error, "the front has no watchdog: if the agent hangs, so do execs in its containers");
    }
    match Front::start_with(
        judge,
        front::Options {
            heartbeat: heartbeat.ok(),
            ..front::Options::default()
        },
    ) {
        Ok(front) => state.set_front(front),
        Err(error) => tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "no front: scripts are not judged"
        ),
    }
}

fn pass_runtime_programs(settings: &Settings, state: &Shared) -> Result<()> {
    let programs = if settings.runtime_program.is_empty() {
        runtime_programs::find(&std::env::var("PATH").unwrap_or_default())
    } else {
        settings.runtime_program.clone()
    };
    state
        .enforcement()
        .set_runtime_programs(&runtime_programs::entry_set(&programs)?)?;
    tracing::info!(?programs, "the container runtime's own programs pass by their content");
    Ok(())
}

fn load_last_good(folder: &Path, sources: &PolicySources) {
    match last_good::load(folder) {
        Ok(Some(set)) => match sources.apply(set.policies, set.namespace_modes) {
            Ok(()) => tracing::info!(revision = set.revision, "the last good policies are in force"),
            Err(error) => tracing::error!(error, "not all of the last good policies are in force"),
        },
        Ok(None) => tracing::info!("no policies were kept from an earlier start"),
        Err(error) => tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "the last good policies are not used"
        ),
    }
}

fn refresh(files: &mut PolicyFiles, sources: &PolicySources) -> Result<()> {
    let changes = files.refresh()?;
    for problem in &changes.problems {
        tracing::error!("{problem}");
    }
    if changes.is_changed {
        let policies = files.policies();
        let count = policies.len();
        match sources.set_files(policies) {
            Ok(()) => tracing::info!(policies = count, "policies from files are in force"),
            Err(error) => tracing::error!(error, "not all policies from files are in force"),
        }
    }
    Ok(())
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".into())
}

/// Keeps events on disk first, then shows them.
struct Keeper {
    spool: Arc<Spool>,
    recent: Arc<RecentEvents>,
}

impl EventSink for Keeper {
    fn accept(&self, event: &Event) -> Result<(), String> {
        EventSink::accept(&*self.spool, event)?;
        tracing::info!(sequence = event.sequence, "{}", event_message(event));
        self.recent.push(event.clone());
        Ok(())
    }
}
