//! What the agent's tasks share: the enforcement, behind one lock that is never held across a wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc::SyncSender},
};

use lattice_api::v1::{self, ContainerNotice};
use lattice_common::{
    abi::{DigestWords, NO_CONTAINER, counter, record_flag},
    verdict::Reason,
};
use lattice_policy::{ExecPolicy, Mode};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::watch;

use crate::{
    backend::container_message,
    containers::{ContainerInfo, LateCause, Sink, cgroup_tree::cgroup_id, nri},
    denials::Denials,
    enforcement::{ContainerStanding, Enforcement, Unguarded},
    error_chain::ErrorChain,
    events::record::JudgedFile,
    front::{Counts, Front},
    host_process::HostProcess,
    inodes::{Inodes, mounts::Mounts},
    kernel::maps::Maps,
    notices::NoticeSender,
    runtime_programs::RuntimePrograms,
};

/// Shared by the agent's tasks.
pub struct Shared {
    enforcement: Mutex<Enforcement<Maps>>,
    /// Tier 2 only.
    inodes: Option<Mutex<Inodes>>,
    /// Tier 2 only.
    front: OnceLock<Front>,
    /// Counts changes of what holds for containers.
    changes: watch::Sender<u64>,
    /// With `--nri` only.
    nri: OnceLock<Arc<nri::Counters>>,
    runtime_programs: Mutex<RuntimePrograms>,
    host: OnceLock<HostProcess>,
    denials: OnceLock<Denials>,
    notices: OnceLock<Arc<NoticeSender>>,
    /// Who looks at what already runs.
    running: OnceLock<SyncSender<()>>,
    /// Containers that may start what they like although their namespace has policies, and why: told once.
    told_unguarded: Mutex<BTreeSet<UnguardedKey>>,
}

/// A container by its cgroup and its runtime's name, and why it is unguarded.
type UnguardedKey = (u64, String, Unguarded);

fn unguarded_key(info: &ContainerInfo, why: &Unguarded) -> UnguardedKey {
    (info.cgroup_id, info.container_id.clone(), why.clone())
}

impl Shared {
    /// Around the state.
    pub fn new(enforcement: Enforcement<Maps>, inodes: Option<Inodes>) -> Self {
        Self {
            enforcement: Mutex::new(enforcement),
            inodes: inodes.map(Mutex::new),
            front: OnceLock::new(),
            changes: watch::Sender::new(0),
            nri: OnceLock::new(),
            runtime_programs: Mutex::default(),
            host: OnceLock::new(),
            denials: OnceLock::new(),
            notices: OnceLock::new(),
            running: OnceLock::new(),
            told_unguarded: Mutex::default(),
        }
    }

    /// Says when containers, or what holds for them, may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What is denied on this node; `None` until the start has come so far.
    pub fn denials(&self) -> Option<&Denials> {
        self.denials.get()
    }

    /// From now on denials have a place.
    pub fn set_denials(&self, denials: Denials) {
        let _ = self.denials.set(denials);
    }

    /// From now on whole containers make events.
    pub fn set_notices(&self, notices: Arc<NoticeSender>) {
        let _ = self.notices.set(notices);
    }

    /// What holds for containers has changed.
    pub fn standings_changed(&self) {
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// What holds for the container whose root file system is on a device.
    pub fn standing_on_device(&self, device: u32) -> Option<ContainerStanding> {
        self.enforcement().standing_on_device(device)
    }

    /// What the floor was told of a file.
    pub fn known_file(&self, device: u32, inode: u64) -> Option<(DigestWords, bool)> {
        self.inodes
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .known(device, inode)
    }

    /// Says from now on when what already runs is to be looked at, beginning at once.
    pub fn set_running(&self, changes: SyncSender<()>) {
        let _ = self.running.set(changes);
        self.look_at_running();
    }

    fn look_at_running(&self) {
        if let Some(changes) = self.running.get() {
            // Full: a look is due already.
            let _ = changes.try_send(());
        }
    }

    /// Puts the front before the floor, for containers that come from now on.
    pub fn set_front(&self, front: Front) {
        let _ = self.front.set(front);
    }

    /// Lets these programs of the container runtime pass, besides those that pass already.
    ///
    /// # Errors
    /// When one cannot be read, or the kernel refuses.
    pub fn pass_runtime_programs(&self, programs: &[PathBuf]) -> io::Result<()> {
        let mut known = self.runtime_programs.lock().unwrap_or_else(PoisonError::into_inner);
        known.add(&self.host().root(), programs)?;
        let set = known.entry_set();
        self.enforcement().set_runtime_programs(&set).map_err(io::Error::other)
    }

    /// Says by which process the host's root is found; process 1 unless this was called.
    pub fn set_host(&self, host: HostProcess) {
        let _ = self.host.set(host);
    }

    fn host(&self) -> HostProcess {
        self.host.get().copied().unwrap_or_default()
    }

    /// Shows the plugin's counters among the others.
    pub fn set_nri_counters(&self, counters: Arc<nri::Counters>) {
        let _ = self.nri.set(counters);
    }

    fn watch_root(&self, container: &ContainerInfo) {
        let Some(front) = self.front.get() else { return };
        let root = Mounts::of("self").ok().and_then(|mounts| {
            let by_device = || {
                mounts
                    .of_device(container.root_device)
                    .filter(|_| container.root_device != 0)
            };
            mounts
                .root_of_container(&container.container_id)
                .or_else(by_device)
                .cloned()
        });
        let Some(root) = root else { return };
        if let Err(error) = front.watch(&root.mount_point, container.cgroup_id) {
            tracing::warn!(container = container.container_id, error = %ErrorChain(&error), "scripts of this container are not judged");
        }
    }

    /// Whether what held for a container before the restart still does, whatever is told now. What cannot be read is taken for that.
    fn is_held(&self, container: &ContainerInfo) -> bool {
        self.enforcement().is_held_in(container.cgroup_id).unwrap_or(true)
    }

    /// Tells the floor where this container's listed files lie.
    fn tell_inodes(&self, container: &ContainerInfo, policy: Option<&ExecPolicy>) {
        let Some(inodes) = &self.inodes else { return };
        for problem in inodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .container(container, policy)
        {
            tracing::warn!(
                container = container.container_id,
                "a listed file is unresolved in this container: {problem}"
            );
        }
    }

    /// The state. Hold it briefly.
    pub fn enforcement(&self) -> MutexGuard<'_, Enforcement<Maps>> {
        // Each change is written to the kernel before it is noted here, so what a panic left behind is no further than the kernel is.
        self.enforcement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sequence number that the kernel gave last; `None` where it does not say.
    pub fn last_sequence(&self) -> Option<u64> {
        self.enforcement().tables().last_sequence().ok()
    }

    /// Calls with the container and the policy that a record names.
    pub fn with_names<T>(
        &self,
        record: &JudgedFile,
        then: impl FnOnce(Option<&ContainerInfo>, Option<&ExecPolicy>) -> T,
    ) -> T {
        let enforcement = self.enforcement();
        let container = (record.container != NO_CONTAINER)
            .then(|| enforcement.container_in_slot(record.container, record.epoch))
            .flatten();
        let policy = match record.policy {
            // Without one in force: the one that the kernel could not be given, if there is such a one.
            0 => container.and_then(|container| enforcement.rejected_policy_of(container)),
            slot => enforcement.policy_in_slot(slot),
        };
        then(container, policy)
    }

    /// Kills a task that the kernel side was to kill and could not signal (-EBUSY, -EPERM happen).
    pub fn finish_kill(&self, record: &JudgedFile) {
        if record.flags & record_flag::SIGNAL == 0 || record.signal_result == 0 {
            return;
        }
        match i32::try_from(record.pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL)) {
            Ok(Ok(())) => tracing::warn!(
                pid = record.pid,
                code = record.signal_result,
                "the kernel could not signal; killed now"
            ),
            result => tracing::warn!(
                pid = record.pid,
                code = record.signal_result,
                ?result,
                "a task that was to be killed is not there"
            ),
        }
    }

    /// Replaces policies and overrides, and says whether they are all that may have held before the agent's start.
    ///
    /// # Errors
    /// What was not loaded, and why; the rest is in force.
    pub fn apply(
        &self,
        policies: Vec<Arc<ExecPolicy>>,
        overrides: BTreeMap<String, Mode>,
        is_complete: bool,
    ) -> Result<(), String> {
        let report = if is_complete {
            self.enforcement().apply_all(policies, overrides)
        } else {
            self.enforcement().apply(policies, overrides)
        };
        self.changed();
        if self.inodes.is_some() {
            let standings: Vec<_> = self.enforcement().standings().collect();
            for standing in standings {
                if !self.is_held(&standing.info) {
                    self.tell_inodes(&standing.info, standing.policy.as_deref());
                }
            }
        }
        self.look_at_running();
        self.tell_unguarded();
        if report.errors.is_empty() {
            Ok(())
        } else {
            Err(report.text())
        }
    }

    /// Tells each container that starts what it likes because a policy says so, or because its own is not loaded and says so: no exec of it
    /// makes an event.
    fn tell_unguarded(&self) {
        let now: Vec<(ContainerInfo, Unguarded)> = self
            .enforcement()
            .unguarded()
            .map(|(info, why)| (info.clone(), why))
            .collect();
        let mut told = self.told_unguarded.lock().unwrap_or_else(PoisonError::into_inner);
        let present: BTreeSet<_> = now.iter().map(|(info, why)| unguarded_key(info, why)).collect();
        told.retain(|key| present.contains(key));
        for (info, why) in &now {
            self.tell_one_unguarded(&mut told, info, why);
        }
    }

    fn tell_one_unguarded(&self, told: &mut BTreeSet<UnguardedKey>, info: &ContainerInfo, why: &Unguarded) {
        let Some(notices) = self.notices.get() else { return };
        if !told.insert(unguarded_key(info, why)) {
            return;
        }
        let (cause, reason) = match why {
            Unguarded::Missing => ("missing", String::new()),
            Unguarded::NotLoaded(policy) => ("not-loaded", policy.clone()),
        };
        notices.send(ContainerNotice {
            notice: "no-policy".into(),
            container: Some(container_message(info)),
            effective_action: "none".into(),
            cause: cause.into(),
            reason,
            message: String::new(),
        });
    }

    /// Verdicts by reason, and the other counters of the kernel side and of the runtime's plugin by their whole names.
    pub fn kernel_counters(&self) -> (Vec<(&'static str, u64)>, BTreeMap<String, u64>) {
        let enforcement = self.enforcement();
        let verdicts = Reason::ALL
            .iter()
            .filter_map(|reason| Some((reason.text()?, enforcement.tables().counter(reason.0).ok()?)))
            .collect();
        let mut others: BTreeMap<String, u64> = [
            ("lattice_ring_buffer_full_total", counter::RING_FULL),
            ("lattice_signal_failures_total", counter::SIGNAL_FAILED),
            ("lattice_files_hashed_total", counter::HASHED),
            ("lattice_digests_kept_used_total", counter::DIGEST_KEPT),
            ("lattice_size_misses_total", counter::SIZE_MISS),
            ("lattice_digest_keep_failures_total", counter::KEEP_FAILED),
            ("lattice_mark_failures_total", counter::MARK_FAILED),
        ]
        .into_iter()
        .filter_map(|(name, slot)| Some((name.to_owned(), enforcement.tables().counter(slot).ok()?)))
        .collect();
        // Without a plugin they are there with 0: a name that comes and goes is one that nobody can watch.
        let plugin = self
            .nri
            .get()
            .map_or_else(|| nri::Counters::default().all(), |nri| nri.all());
        others.extend(plugin.map(|(name, value)| (name.to_owned(), value)));
        (verdicts, others)
    }

    /// Counters by documented name.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let (verdicts, mut counters) = self.kernel_counters();
        for (reason, count) in verdicts {
            counters.insert(format!("lattice_verdicts_total{{reason=\"{reason}\"}}"), count);
        }
        counters
    }

    /// Whether the front answers, and what it has counted; `None` without one.
    pub fn front_counts(&self) -> Option<(bool, Counts)> {
        self.front.get().map(|front| (front.is_running(), front.counts()))
    }
}

impl Sink for Shared {
    fn started(&self, container: ContainerInfo) -> Result<(), String> {
        let mut container = container;
        if container.has_own_root
            && container.root_device == 0
            && let Ok(mounts) = Mounts::of("self")
            && let Some(root) = mounts.root_of_container(&container.container_id)
        {
            container.root_device = root.device;
        }
        // The managed root is nobody's pod.
        container.pod_cgroup_id = container
            .cgroup_path
            .parent()
            .filter(|_| !container.pod.is_empty())
            .and_then(cgroup_id)
            .filter(|pod| self.enforcement().managed_root() != Some(*pod));
        // The floor knows the files before the cgroup is the container's: its first program finds them judged.
        let policy = self.enforcement().policy_of(&container).cloned();
        if !self.is_held(&container) {
            self.tell_inodes(&container, policy.as_deref());
        }
        if container.has_own_root {
            self.watch_root(&container);
        }
        let adopted = container.is_running.then(|| container.clone());
        let cgroup_id = container.cgroup_id;
        let started = self.enforcement().container_started(container);
        self.changed();
        let unguarded = self
            .enforcement()
            .unguarded_in(cgroup_id)
            .map(|(info, why)| (info.clone(), why));
        if let Some((info, why)) = unguarded {
            let mut told = self.told_unguarded.lock().unwrap_or_else(PoisonError::into_inner);
            self.tell_one_unguarded(&mut told, &info, &why);
        }
        if let Some(container) = adopted {
            if let Some(denials) = self.denials.get() {
                denials.adopted(&container);
            }
            self.look_at_running();
        }
        started.map_err(|error| ErrorChain(&error).to_string())
    }

    fn started_late(&self, container_id: &str, cause: LateCause) {
        let Some(notices) = self.notices.get() else { return };
        let info = self.enforcement().container(container_id).cloned();
        // What is not known by now has at least a name.
        let container = info.as_ref().map(container_message).unwrap_or_else(|| v1::Container {
            container_id: container_id.to_owned(),
            ..v1::Container::default()
        });
        notices.send(ContainerNotice {
            notice: "late-start".into(),
            container: Some(container),
            effective_action: "none".into(),
            cause: cause.text().into(),
            ..ContainerNotice::default()
        });
    }

    fn stopped(&self, cgroup_id: u64) {
        let root_device = self.enforcement().root_device_of(cgroup_id);
        if let (Some(front), Some(device)) = (self.front.get(), root_device)
            && let Err(error) = front.forget(device, cgroup_id)
        {
            tracing::warn!(cgroup_id, error = %ErrorChain(&error), "the root of a container that is gone is still watched");
        }
        if let Some(inodes) = &self.inodes {
            inodes.lock().unwrap_or_else(PoisonError::into_inner).remove(cgroup_id);
        }
        if let Err(error) = self.enforcement().container_stopped(cgroup_id) {
            tracing::error!(cgroup_id, error = %ErrorChain(&error), "a container that is gone could not be removed from the maps");
        }
        self.changed();
    }
    fn has_hooks(&self, programs: &[PathBuf]) {
        let host = self.host().root();
        let mut known = self.runtime_programs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_changed = false;
        for program in programs {
            match known.add_hook(&host, program) {
                Ok(changed) => is_changed |= changed,
                Err(error) => tracing::warn!(
                    program = %program.display(),
                    %error,
                    "a bundle's hook does not pass as the runtime's program: name it with --runtime-program"
                ),
            }
        }
        if !is_changed {
            return;
        }
        match self.enforcement().set_runtime_programs(&known.entry_set()) {
            Ok(()) => tracing::info!(
                ?programs,
                "hooks that a bundle names pass by their content, as the runtime's programs do"
            ),
            Err(error) => {
                tracing::error!(?programs, error = %ErrorChain(&error), "hooks that a bundle names do not pass")
            }
        }
    }
}
