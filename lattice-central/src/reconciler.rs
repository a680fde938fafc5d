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

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    board::{Board, BoardError, Key},
    chain::{Chain, Outcome, Stop},
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
}

/// A service's task.
struct Task {
    chain: Chain,
    epoch: u64,
    running: JoinHandle<()>,
    /// What the last run came to; shown again when only the notes change.
    conditions: Option<ServiceConditions>,
}

/// What a task tells of a run.
struct Report {
    service: Key,
    epoch: u64,
    outcome: Outcome,
    /// Whether it was put into force, so that the task knows how soon to try again.
    settled: oneshot::Sender<bool>,
}

impl Drop for Task {
    fn drop(&mut self) {
        // It changes nothing by itself, so that it can be ended anywhere.
        self.running.abort();
    }
}

impl Reconciler {
    /// A reconciler that has not begun.
    pub fn new(
        board: Arc<Board>,
        images: Arc<Images>,
        verify_interval: Duration,
        objects: watch::Receiver<ObjectSet>,
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
        }
    }

    /// Runs until `stopping` turns true.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        self.objects.mark_changed();
        let mut again: Option<Instant> = None;
        loop {
            let due = again;
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
                "{}. What the file said before, if it ever was good, stays in force",
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
            },
        );
    }

    async fn settle(&mut self, report: Report) {
        let Report {
            service,
            epoch,
            outcome,
            settled,
        } = report;
        if self.tasks.get(&service).is_none_or(|task| task.epoch != epoch) {
            return;
        }
        let (conditions, went_through) = self.put_into_force(&service, outcome).await;
        let shown = conditions.clone().with_note(&note(&self.objects.borrow(), &service));
        self.board.set_conditions(service.clone(), shown).await;
        if let Some(task) = self.tasks.get_mut(&service) {
            task.conditions = Some(conditions);
        }
        // The task may have been ended meanwhile.
        let _ = settled.send(went_through);
    }

    /// The conditions, and whether a retry is pointless.
    async fn put_into_force(&self, service: &Key, outcome: Outcome) -> (ServiceConditions, bool) {
        match outcome {
            Outcome::Derived { policies, done, notes } => match self.board.set_derived(service, policies).await {
                Ok(generations) => {
                    let [verified, authorized, derived] = done;
                    let in_force = format!("in force: {}", shown(&generations));
                    let ready = ServiceConditions::ready([verified, authorized, derived, in_force]);
                    (ready.with_note(&notes.join(". ")), true)
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
                    (conditions, false)
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
                (
                    ServiceConditions::stopped(step, holds, reason, message, &done, &in_force),
                    settled,
                )
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
                outcome,
                settled,
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
