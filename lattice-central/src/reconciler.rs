//! Keeps what is derived in step with the objects: one task a service, which runs the chain, again when something that it
//! goes by changes, when a try failed for a reason that may pass, and every few minutes.
//!
//! ```text
//!   ObjectSet ──► reconciler ──► a task a service ──► Chain ──► Outcome ──► reconciler ──► Board: policies, conditions
//!                    ▲                 └── again, after a while ──┘              │
//!                    └── only it changes the board; an outcome of an older state is dropped
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lattice_policy::ExecPolicy;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    applier::{Applier, ApplyError},
    board::{Board, BoardError, Key},
    chain::{Chain, Outcome, Stop},
    children::Derived,
    conditions::{Holds, ServiceConditions, Step},
    images::Images,
    objects::ObjectSet,
    server::stopped,
};

/// Chains that run at the same time.
const CHAINS_AT_A_TIME: usize = 4;
/// The wait after the first try that failed for a reason that may pass; it doubles up to the last.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// The wait before a change is tried again that the store refused.
const STORE_BACKOFF: Duration = Duration::from_secs(2);

/// Changes by others come in bursts; objects are put right after so long.
const QUIET: Duration = Duration::from_secs(1);
/// The wait before objects are brought to the cluster again that it refused.
const APPLY_AGAIN: Duration = Duration::from_secs(10);
/// Changes by others that wait to be looked at; then the watches wait.
const CHANGES_WAITING_MAXIMUM: usize = 256;

/// Keeps the board in step with the objects.
pub struct Reconciler {
    board: Arc<Board>,
    images: Arc<Images>,
    verify_interval: Duration,
    objects: watch::Receiver<ObjectSet>,
    tasks: BTreeMap<Key, Task>,
    reports: mpsc::Sender<Report>,
    incoming: mpsc::Receiver<Report>,
    permits: Arc<Semaphore>,
    last_epoch: u64,
    /// Where services become objects of a cluster.
    applier: Option<Applier>,
    /// When the objects of which service are brought there again, because somebody changed them or it failed.
    due: BTreeMap<Key, Instant>,
}

/// A service's task.
struct Task {
    chain: Chain,
    epoch: u64,
    running: JoinHandle<()>,
    /// What the last run came to; shown again when only the notes change.
    conditions: Option<ServiceConditions>,
    /// What was put into force last, for the cluster.
    in_force: Option<Arc<InForce>>,
    applying: Option<JoinHandle<()>>,
}

/// A derivation that is in force at the agents.
struct InForce {
    derived: Derived,
    /// What was done at ImageVerified, Authorized and Derived.
    done: [String; 3],
    notes: String,
    /// The generations, for people.
    shown: String,
}

/// What a task tells.
struct Report {
    service: Key,
    epoch: u64,
    about: About,
    /// Told whether it was put into force, so that a chain knows how soon to try again.
    settled: Option<oneshot::Sender<bool>>,
}

enum About {
    /// A run of the chain.
    Chain(Outcome),
    /// The cluster's objects: which there are, or why not.
    Applied(Result<String, ApplyError>),
}

impl InForce {
    /// The chain went through; in a cluster with these objects.
    fn ready(&self, objects: Option<&str>) -> ServiceConditions {
        let [verified, authorized, derived] = self.done.clone();
        let objects = objects
            .map(|objects| format!("; objects: {objects}"))
            .unwrap_or_default();
        let in_force = format!("in force: {}{objects}", self.shown);
        ServiceConditions::ready([verified, authorized, derived, in_force]).with_note(&self.notes)
    }

    /// The policies are in force, but the cluster's objects are not what they should be.
    fn not_applied(&self, error: &ApplyError) -> ServiceConditions {
        let in_force = format!("Agents have the policies already: {}", self.shown);
        ServiceConditions::stopped(
            Step::Ready,
            Holds::False,
            error.reason(),
            error.to_string(),
            &self.done,
            &in_force,
        )
    }
}

/// Watches that end with it.
struct Watches(Vec<JoinHandle<()>>);

impl Drop for Watches {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // It changes nothing by itself, so that it can be ended anywhere; what is applied half is applied again.
        self.running.abort();
        if let Some(applying) = &self.applying {
            applying.abort();
        }
    }
}

impl Reconciler {
    /// A reconciler that has not begun.
    pub fn new(
        board: Arc<Board>,
        images: Arc<Images>,
        verify_interval: Duration,
        objects: watch::Receiver<ObjectSet>,
        applier: Option<Applier>,
    ) -> Self {
        let (reports, incoming) = mpsc::channel(16);
        let permits = Arc::new(Semaphore::new(CHAINS_AT_A_TIME));
        Self {
            board,
            images,
            verify_interval,
            objects,
            tasks: BTreeMap::new(),
            reports,
            incoming,
            permits,
            last_epoch: 0,
            applier,
            due: BTreeMap::new(),
        }
    }

    /// Runs until `stopping` turns true.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        self.objects.mark_changed();
        let mut again: Option<Instant> = None;
        // Held here as well, so that waiting for what is changed by others never ends.
        let (changed_by_others, mut changed) = mpsc::channel(CHANGES_WAITING_MAXIMUM);
        let watches = self.applier.as_ref().map(|applier| applier.watch(&changed_by_others));
        let _watches = Watches(watches.unwrap_or_default());
        loop {
            let due = again;
            let first_due = self.due.values().min().copied();
            tokio::select! {
                () = stopped(&mut stopping) => return,
                changed = self.objects.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    again = self.apply().await;
                }
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    again = self.apply().await;
                }
                Some(service) = changed.recv() => {
                    // Whoever changes one of them often changes several.
                    self.due.entry(service).or_insert_with(|| Instant::now() + QUIET);
                }
                () = async { sleep_until(first_due.unwrap_or_else(Instant::now)).await }, if first_due.is_some() => {
                    self.apply_due();
                }
                // `self` holds a sender, so that this never ends.
                Some(report) = self.incoming.recv() => self.settle(report).await,
            }
        }
    }

    /// Takes over the newest objects; when to try again, where the store refused.
    async fn apply(&mut self) -> Option<Instant> {
        let set = self.objects.borrow_and_update().clone();
        let mut keys: BTreeSet<Key> = set.services.keys().cloned().collect();
        keys.extend(set.problems.keys().map(|file| file_key(file)));
        let applied = async {
            self.board.retain_services(&keys).await?;
            self.board.set_documents(set.documents.clone()).await?;
            Ok::<(), BoardError>(())
        };
        if let Err(error) = applied.await {
            tracing::error!(%error, "the change of the objects is not in force yet; trying again");
            return Some(Instant::now() + STORE_BACKOFF);
        }
        self.tasks.retain(|key, _| set.services.contains_key(key));
        for (file, problems) in &set.problems {
            let message = format!(
                "{}. What was said here before, if it ever was good, stays in force",
                problems.join("; ")
            );
            self.board
                .set_conditions(file_key(file), ServiceConditions::unreadable(message))
                .await;
        }
        for (key, service) in &set.services {
            let chain = Chain {
                service: service.clone(),
                trust: set.trust.clone(),
                gate: set.gate.clone(),
                images: self.images.clone(),
            };
            match self.tasks.get(key) {
                Some(task) if task.chain.is_same(&chain) => {
                    if let Some(conditions) = &task.conditions {
                        let conditions = conditions.clone().with_note(&note(&set, key));
                        self.board.set_conditions(key.clone(), conditions).await;
                    }
                }
                _ => self.start(key.clone(), chain).await,
            }
        }
        None
    }

    async fn start(&mut self, service: Key, chain: Chain) {
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        if !self.tasks.contains_key(&service) {
            let in_force = self.in_force(&service).await;
            let conditions = ServiceConditions::stopped(
                Step::ImageVerified,
                Holds::Unknown,
                "Pending",
                "being verified",
                &[],
                &in_force,
            );
            self.board.set_conditions(service.clone(), conditions).await;
        }
        let running = tokio::spawn(repeat(
            chain.clone(),
            service.clone(),
            epoch,
            self.reports.clone(),
            self.permits.clone(),
            self.verify_interval,
        ));
        self.tasks.insert(
            service,
            Task {
                chain,
                epoch,
                running,
                conditions: None,
                in_force: None,
                applying: None,
            },
        );
    }

    /// Brings those objects to the cluster that are due.
    fn apply_due(&mut self) {
        let now = Instant::now();
        let due: Vec<Key> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for service in due {
            self.due.remove(&service);
            self.start_applying(&service, None);
        }
    }

    /// Brings a service's objects to the cluster, where there is one and it was derived.
    fn start_applying(&mut self, service: &Key, settled: Option<oneshot::Sender<bool>>) {
        let (Some(applier), Some(task)) = (&self.applier, self.tasks.get_mut(service)) else {
            return;
        };
        let Some(in_force) = task.in_force.clone() else { return };
        let (applier, reports, permits) = (applier.clone(), self.reports.clone(), self.permits.clone());
        let (service, epoch) = (service.clone(), task.epoch);
        if let Some(before) = task.applying.take() {
            before.abort();
        }
        task.applying = Some(tokio::spawn(async move {
            // Never closed while a task runs.
            let _permit = permits.acquire().await;
            let applied = applier.apply(&in_force.derived).await;
            let report = Report {
                service,
                epoch,
                about: About::Applied(applied),
                settled,
            };
            // The reconciler may have ended.
            let _ = reports.send(report).await;
        }));
    }

    async fn settle(&mut self, report: Report) {
        let Report {
            service,
            epoch,
            about,
            settled,
        } = report;
        if self.tasks.get(&service).is_none_or(|task| task.epoch != epoch) {
            return;
        }
        let (conditions, went_through) = match about {
            About::Chain(outcome) => match self.put_into_force(&service, outcome).await {
                Ok(in_force) => {
                    let in_force = Arc::new(in_force);
                    if let Some(task) = self.tasks.get_mut(&service) {
                        task.in_force = Some(in_force.clone());
                    }
                    if self.applier.is_some() {
                        // It is ready when its objects are there, too.
                        self.due.remove(&service);
                        self.start_applying(&service, settled);
                        return;
                    }
                    (in_force.ready(None), true)
                }
                Err(stopped) => stopped,
            },
            About::Applied(applied) => {
                let Some(in_force) = self.tasks.get(&service).and_then(|task| task.in_force.clone()) else {
                    return;
                };
                match applied {
                    Ok(objects) => (in_force.ready(Some(&objects)), true),
                    Err(error) => {
                        if settled.is_none() {
                            self.due.insert(service.clone(), Instant::now() + APPLY_AGAIN);
                        }
                        (in_force.not_applied(&error), false)
                    }
                }
            }
        };
        let shown = conditions.clone().with_note(&note(&self.objects.borrow(), &service));
        self.board.set_conditions(service.clone(), shown).await;
        if let Some(task) = self.tasks.get_mut(&service) {
            task.conditions = Some(conditions);
        }
        // The task may have been ended meanwhile.
        let _ = settled.map(|settled| settled.send(went_through));
    }

    /// What is in force; else the conditions, and whether a retry is pointless.
    async fn put_into_force(&self, service: &Key, outcome: Outcome) -> Result<InForce, (ServiceConditions, bool)> {
        match outcome {
            Outcome::Derived {
                policies,
                images,
                done,
                notes,
            } => match self.board.set_derived(service, policies.clone()).await {
                Ok(generations) => {
                    let policies = policies.into_iter().map(|policy| ExecPolicy {
                        generation: generations.get(&policy.name).copied().unwrap_or_default(),
                        ..policy
                    });
                    let policies = policies.collect();
                    let shown = shown(&generations);
                    let set = self.objects.borrow();
                    let task = self.tasks.get(service);
                    let Some(object) = task.map(|task| task.chain.service.as_ref().clone()) else {
                        let conditions = ServiceConditions::unreadable("the service is gone".to_owned());
                        return Err((conditions, true));
                    };
                    Ok(InForce {
                        derived: Derived {
                            service: object,
                            uid: set.uids.get(service).cloned().unwrap_or_default(),
                            images,
                            policies,
                        },
                        done,
                        notes: notes.join(". "),
                        shown,
                    })
                }
                Err(error) => {
                    let reason = if matches!(error, BoardError::Store(_)) {
                        "StoreFailed"
                    } else {
                        "NameTaken"
                    };
                    let in_force = self.in_force(service).await;
                    let conditions = ServiceConditions::stopped(
                        Step::Ready,
                        Holds::False,
                        reason,
                        error.to_string(),
                        &done,
                        &in_force,
                    );
                    Err((conditions, false))
                }
            },
            Outcome::Stopped(stop) => {
                let in_force = self.in_force(service).await;
                let settled = !stop.is_transient();
                let Stop {
                    step,
                    holds,
                    reason,
                    message,
                    done,
                } = stop;
                Err((
                    ServiceConditions::stopped(step, holds, reason, message, &done, &in_force),
                    settled,
                ))
            }
        }
    }

    /// What holds for a service whose chain stopped.
    async fn in_force(&self, service: &Key) -> String {
        let generations = self.board.generations(service).await;
        if generations.is_empty() {
            "No policy is in force for it, since none was ever derived from what it asks for".to_owned()
        } else {
            format!("What was derived before stays in force: {}", shown(&generations))
        }
    }
}

async fn repeat(
    chain: Chain,
    service: Key,
    epoch: u64,
    reports: mpsc::Sender<Report>,
    permits: Arc<Semaphore>,
    verify_interval: Duration,
) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let outcome = {
            // Never closed while a task runs.
            let _permit = permits.acquire().await;
            chain.run().await
        };
        let (settled, answer) = oneshot::channel();
        if reports
            .send(Report {
                service: service.clone(),
                epoch,
                about: About::Chain(outcome),
                settled: Some(settled),
            })
            .await
            .is_err()
        {
            return;
        }
        match answer.await {
            Ok(true) => {
                backoff = FIRST_BACKOFF;
                sleep(verify_interval).await;
            }
            Ok(false) => {
                sleep(backoff.min(verify_interval)).await;
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
            // Nobody waits for this epoch any more.
            Err(_) => return,
        }
    }
}

/// A file that cannot be read stands among the services under its own name, so that the problem is seen there.
fn file_key(file: &str) -> Key {
    (String::new(), file.to_owned())
}

/// A sentence for a service whose file has a problem: its last good version is what was used.
fn note(set: &ObjectSet, service: &Key) -> String {
    match set.files.get(service).filter(|file| set.problems.contains_key(*file)) {
        Some(file) => format!("This is of the last good version: {file} has errors now, see {file}"),
        None => String::new(),
    }
}

fn shown(generations: &BTreeMap<String, u64>) -> String {
    let each: Vec<_> = generations
        .iter()
        .map(|(name, generation)| format!("policy {name}, generation {generation}"))
        .collect();
    each.join("; ")
}
