//! `lattice-agent run`: parse everything, then touch the kernel, then run, then stop; what is pinned stays.

mod activation;
mod denylist;
mod front;
mod keeper;
mod policies;

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use lattice_agent::{
    admin::{self, Admin, health::Heartbeat},
    admin_source::{AdminSource, EventCounts, Start},
    backend::{AgentBackend, NodeStandings},
    containers::{
        Sink as _,
        by_hand::ByHand,
        cgroup_namespace,
        cgroup_tree::CgroupTree,
        containerd::{self, ContainerdWatcher},
        nri,
    },
    control::{self, ControlSocket, LocalModes, RecentEvents},
    enforcement::Enforcement,
    events::{clock, explain::Node, reader::Reader},
    host_name::host_name,
    host_process::HostProcess,
    inodes::Inodes,
    kernel::{
        heap,
        maps::{InodeTable, Maps, RepeatTable},
        object::Tier,
        pins::PinDirectory,
        sequence::SequenceCounter,
    },
    notices::NoticeSender,
    policy_files::PolicyFiles,
    policy_sources::{PolicySources, Unknown},
    running::{Kills, Running},
    runtime_programs,
    spool::{self, Spool},
    state::Shared,
    uplink::{self, NodeIdentity, Uplink},
};
use lattice_api::v1::{Event, Hello};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::{
    activation::activate_best,
    denylist::NodeDenylist,
    front::start_front,
    keeper::Keeper,
    policies::{load_last_good, refresh},
};
use crate::cli::Settings;

/// Events of the agent itself that wait for the reader.
const OWN_EVENTS: usize = 4096;
/// The hidden command that the watchdog runs.
pub(crate) const FRONT_WATCHDOG: &str = "front-watchdog";
/// Events that are kept in memory for who looks.
const RECENT_EVENTS: usize = 1024;
/// How long the container runtime is waited for before events are explained without it.
const CONTAINERS_FIRST: Duration = Duration::from_secs(3);
/// How often the denylist is looked at.
const DENYLIST_INTERVAL: Duration = Duration::from_millis(500);
/// How long containers that were known before a restart may take to be told again.
const SETTLE_AFTER: Duration = Duration::from_secs(5);

/// `lattice-agent run`.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    let host = settings.host()?;
    match cgroup_namespace::enter_host(host) {
        Ok(true) => tracing::info!("entered the host's cgroup namespace"),
        Ok(false) => (),
        Err(error) => tracing::warn!(%error, "the host's cgroup namespace cannot be entered"),
    }
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
        .block_on(serve(settings, host, tree, by_hand))
}

async fn serve(settings: &Settings, host: HostProcess, tree: CgroupTree, by_hand: Vec<ByHand>) -> Result<ExitCode> {
    let start = Arc::new(Start::default());
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
    let admin = Admin::bind(&settings.admin()).await?;
    let metrics = match settings.metrics_listen {
        Some(address) => {
            let bound = lattice_scrape::Listener::bind(address).await;
            Some(bound.with_context(|| format!("--metrics-listen: cannot listen on {address}"))?)
        }
        None => None,
    };
    let spool = Arc::new(Spool::open(
        &settings.state.join(spool::FOLDER),
        settings.spool_size << 20,
    )?);
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
    state.set_host(host);
    let host_root = host.host_root().context("cannot look at the host's root")?;
    state.enforcement().set_host_root(host_root)?;
    state.enforcement().guard(std::process::id(), pins.folders()?)?;
    state.enforcement().grant_bpf(settings.allow_bpf.iter().cloned());
    let sources = Arc::new(PolicySources::new(Arc::clone(&state)));
    pass_runtime_programs(settings, host, &state)?;

    // What was in force before is in force again before anything is asked for.
    if let Err(error) = sources.set_modes(modes.all()) {
        tracing::error!(error, "not all modes are in force");
    }
    sources.note_unknown(Unknown::Modes, modes.damage());
    let (own_sender, own_events) = mpsc::channel(OWN_EVENTS);
    let notices = NoticeSender::new(SequenceCounter::open(&pins)?, own_sender.clone(), node.clone());
    let notices = Arc::new(notices);
    state.set_notices(Arc::clone(&notices));
    let mut denylist = NodeDenylist::begin(settings, &state, notices)?;
    let mut policy_files = settings
        .policies
        .clone()
        .map(|folder| PolicyFiles::new(folder).keeping(&settings.state));
    if let Some(files) = &mut policy_files {
        let folder = files.folder().display().to_string();
        refresh(files, &sources).with_context(|| {
            format!("--policies {folder} cannot be listed; create the folder, or leave the option away")
        })?;
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

    let kills = Kills::new(settings.kill_running.iter().cloned());
    start_running(&pins, &state, own_sender.clone(), &node, kills);
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
    // Dropped with this function, and with it the plugin leaves the runtime.
    let _plugin = start_plugin(settings, watcher.as_ref(), &state);
    state.enforcement().announce_cgroups(watcher.is_some())?;
    let (counts, heartbeat) = (Arc::new(EventCounts::default()), Heartbeat::default());
    let central = uplink.as_ref().map(Uplink::connection);
    let admin_source = AdminSource {
        state: Arc::clone(&state),
        sources: Arc::clone(&sources),
        pins: pins.clone(),
        tier: active.tier,
        kernel_release: kernel_release.clone(),
        spool: Arc::clone(&spool),
        events: Arc::clone(&counts),
        reader: heartbeat.clone(),
        start: Arc::clone(&start),
        has_files: settings.policies.is_some(),
        central: central.clone(),
        containerd: watcher.as_ref().map(ContainerdWatcher::connection),
    };
    let admin_source: Arc<dyn admin::Source> = Arc::new(admin_source);
    if let Some((listener, uplink)) = metrics.zip(uplink.as_ref()) {
        let (credentials, router) = (uplink.scraping(), admin::metrics_router(Arc::clone(&admin_source)));
        tokio::spawn(async move {
            let Err(error) = listener.serve(credentials, router).await;
            tracing::error!(%error, "metrics are served to nobody elsewhere any more");
        });
    }
    let admin = tokio::spawn(admin.serve(admin_source, std::future::pending()));
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
            counts,
        }),
        cgroups,
        own_events,
        repeats: RepeatTable::open(&pins)?,
        sequence: SequenceCounter::open(&pins)?,
        node: node.clone(),
        heartbeat,
        last_sequence: spool.kept_through(&boot_id),
    };
    let mut reader = tokio::spawn(reader.run());
    if let Some(uplink) = uplink {
        let standings = NodeStandings {
            state: Arc::clone(&state),
            node: node_name.clone(),
        };
        let uplink = uplink.with_standings(Arc::new(standings));
        tokio::spawn(uplink.run(Arc::clone(&spool), Arc::clone(&sources) as Arc<_>));
    }
    let backend = Arc::new(AgentBackend {
        state: Arc::clone(&state),
        sources: Arc::clone(&sources),
        spool,
        node,
        kernel_release,
        central,
        containerd: settings.containerd.clone(),
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
    heap::give_back();
    start.done();
    tracing::info!(node = node_name, admin = %settings.admin(), "ready");

    let settle = tokio::time::sleep(SETTLE_AFTER);
    tokio::pin!(settle);
    if let Some(files) = policy_files {
        policies::follow(files, Arc::clone(&sources)).context("cannot follow the policy folder")?;
    }
    let mut look = tokio::time::interval(DENYLIST_INTERVAL);
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
            _ = look.tick(), if denylist.has_file() => denylist.look(&state),
        }
    }
    tracing::info!("stopping; what is enforced stays in force until `lattice-agent uninstall`");
    let _ = stop_control.send(());
    let _ = tokio::time::timeout(Duration::from_secs(2), control).await;
    // Its socket goes with it.
    admin.abort();
    let _ = admin.await;
    Ok(ExitCode::SUCCESS)
}

fn uplink(settings: &Settings, node: &Node, kernel_release: &str) -> Result<Option<Uplink>> {
    let (Some(central), Some(certificate_authority)) = (settings.central.clone(), settings.ca.clone()) else {
        return Ok(None);
    };
    let files = settings.client_cert.clone().zip(settings.client_key.clone());
    let enrolment = settings.enrolment.clone().zip(settings.enrolment_token.clone());
    let identity = match (files, enrolment) {
        (Some((certificate, key)), _) => NodeIdentity::Files { certificate, key },
        (None, Some((url, token))) => NodeIdentity::Enrolment { url, token },
        (None, None) => return Ok(None),
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
        identity,
        certificate_authority,
        hello,
        state,
    };
    Ok(Some(Uplink::prepare(settings)?))
}

/// What already runs is looked at by a thread of its own: it reads files, which may take long.
fn start_running(pins: &PinDirectory, state: &Arc<Shared>, events: mpsc::Sender<Event>, node: &Node, kills: Kills) {
    let (sender, changes) = std::sync::mpsc::sync_channel(1);
    let started = SequenceCounter::open(pins)
        .map_err(anyhow::Error::from)
        .and_then(|sequence| {
            let running = Running {
                state: Arc::downgrade(state),
                sequence,
                events,
                node: node.clone(),
                changes,
                kills,
            };
            let thread = std::thread::Builder::new().name("running".into());
            Ok(thread.spawn(|| running.run())?)
        });
    match started {
        Ok(_) => state.set_running(sender),
        Err(error) => tracing::error!(error = format!("{error:#}"), "what already runs is not judged"),
    }
}

/// Asks the runtime to ask us before containers start.
fn start_plugin(settings: &Settings, watcher: Option<&ContainerdWatcher>, state: &Shared) -> Option<nri::Plugin> {
    let (Some(socket), Some(watcher)) = (settings.nri.clone(), watcher) else {
        tracing::info!("no --nri: containers are known by the runtime's events and their cgroups' folders alone");
        return None;
    };
    let settings = nri::Settings {
        socket,
        answer_within: nri::ANSWER_WITHIN,
    };
    let plugin = nri::Plugin::start(settings, Arc::new(watcher.notices()));
    state.set_nri_counters(plugin.counters());
    Some(plugin)
}

fn pass_runtime_programs(settings: &Settings, host: HostProcess, state: &Shared) -> Result<()> {
    let programs = if settings.runtime_program.is_empty() {
        runtime_programs::find(&host.root(), &std::env::var("PATH").unwrap_or_default())
    } else {
        settings.runtime_program.clone()
    };
    state.pass_runtime_programs(&programs)?;
    tracing::info!(?programs, "the container runtime's own programs pass by their content");
    Ok(())
}
