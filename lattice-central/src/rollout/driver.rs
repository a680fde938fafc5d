//! Runs the rollouts: looks at everything once a second, takes each a step further, keeps what came of it, and only then lets it hold.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lattice_api::object::{ApprovalMode, LatticeRollout};
use tokio::sync::{Mutex, watch};

use super::{
    command::{self, Action, Command, CommandError},
    gate::CENTRAL,
    machine::{self, Now},
    observe::{Observer, Seen},
    report::{self, Report},
    state::{Phase, RolloutState, Transition, UnixNanos},
};
use crate::{
    board::Key,
    gate::{self, Gate, Question, ServiceIdentity},
    objects::ObjectSet,
    server::{Shared, stopped},
    store::{Remembered, StoreError, StoredTransition},
};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);
/// A look that comes later than this covers nothing: who knows what was meanwhile.
const COVERS_MAXIMUM: Duration = Duration::from_secs(60);
/// A clock that only runs is kept so often; a restart loses at most so much of it.
const KEEP_INTERVAL: Duration = Duration::from_secs(15);
/// Bytes of a reason.
pub const REASON_BYTES_MAXIMUM: usize = 500;

/// Why what an operator says is not done.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no rollout.
    #[error("namespace {0} has no LatticeRollout")]
    NoRollout(String),
    /// No reason, or too much of one.
    #[error("reason: it has {0} bytes; say in 1 to {REASON_BYTES_MAXIMUM} why")]
    Reason(usize),
    /// Cedar does not permit it.
    #[error("{0}")]
    Forbidden(String),
    /// It makes no sense now.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// What came of what an operator said.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// What it led to.
    pub transitions: Vec<Transition>,
    /// The revision that says so to the agents; 0 where they are given nothing new.
    pub revision: u64,
}

/// All rollouts.
pub struct Rollouts {
    live: Mutex<Live>,
    /// Empty until the objects are known: until then nothing is taken for gone.
    objects: OnceLock<watch::Receiver<ObjectSet>>,
    /// Counts what was told of them, so that somebody can wait for more.
    moved: watch::Sender<u64>,
    counted: Counted,
}

/// What happened since the start of central.
#[derive(Debug, Default)]
struct Counted {
    rollbacks: AtomicU64,
    breaker_trips: AtomicU64,
    evidence_gaps: AtomicU64,
    approvals_refused: AtomicU64,
}

impl Counted {
    /// Takes what a step led to.
    fn step(&self, before: &RolloutState, after: &RolloutState, told: &[Transition]) {
        let back = told
            .iter()
            .filter(|told| told.from != told.to && told.to == ROLLED_BACK);
        self.rollbacks.fetch_add(back.count() as u64, Ordering::Relaxed);
        let opened = after.tracks.iter().map(|(workload, track)| {
            let before = before.tracks.get(workload).map_or(0, |track| track.breaker.opened);
            // What a person resumes begins at 0 again.
            u64::from(track.breaker.opened.saturating_sub(before))
        });
        self.breaker_trips.fetch_add(opened.sum(), Ordering::Relaxed);
    }

    fn all(&self) -> [(&'static str, &AtomicU64); 4] {
        [
            ("lattice_central_rollout_rollbacks_total", &self.rollbacks),
            ("lattice_central_rollout_breaker_trips_total", &self.breaker_trips),
            ("lattice_central_rollout_evidence_gaps_total", &self.evidence_gaps),
            (
                "lattice_central_rollout_approvals_refused_total",
                &self.approvals_refused,
            ),
        ]
    }
}

const ROLLED_BACK: &str = "RolledBack";

struct Live {
    rollouts: BTreeMap<String, Kept>,
    observer: Observer,
    last_look: Option<Instant>,
}

/// A state, and when it was kept.
struct Kept {
    state: RolloutState,
    kept: Instant,
}

/// The rollouts, by namespace.
type Documents = BTreeMap<String, Arc<LatticeRollout>>;

impl Rollouts {
    /// Begins with what the store remembers; `last_cursor` is that of the newest event.
    pub fn new(remembered: &Remembered, last_cursor: i64) -> Self {
        let mut rollouts = BTreeMap::new();
        for kept in &remembered.rollouts {
            // The board has told of one that cannot be read.
            let state = kept.state.as_deref().and_then(|bytes| RolloutState::decode(bytes).ok());
            let is_gone = kept.state.is_none();
            if !is_gone {
                let state = state.unwrap_or_else(|| RolloutState::from_now_on(last_cursor));
                let kept_at = Instant::now();
                rollouts.insert(kept.namespace.clone(), Kept { state, kept: kept_at });
            }
        }
        let first = rollouts.values().map(|kept| kept.state.cursor).min();
        let live = Live {
            rollouts,
            observer: Observer::after(first.unwrap_or(last_cursor)),
            last_look: None,
        };
        Self {
            live: Mutex::new(live),
            objects: OnceLock::new(),
            moved: watch::Sender::new(0),
            counted: Counted::default(),
        }
    }

    /// Begins to go by these objects; the first to be given are.
    pub fn follow(&self, objects: watch::Receiver<ObjectSet>) {
        // Central has one source of objects.
        let _ = self.objects.set(objects);
    }

    /// Looks once a second until central is stopping.
    pub async fn run(shared: Arc<Shared>) {
        let mut stopping = shared.stopping.clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut stopping) => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = shared.rollouts.look(&shared).await {
                tracing::error!(%error, "rollouts stand still until the store can be used");
            }
        }
    }

    /// Looks at everything, and takes each rollout as far as it may go.
    ///
    /// # Errors
    /// When the store refuses; then those that could not be kept are as they were.
    pub async fn look(&self, shared: &Shared) -> Result<(), StoreError> {
        let Some((documents, gate)) = self.documents() else {
            return Ok(());
        };
        let mut live = self.live.lock().await;
        let began = Instant::now();
        let covers = live.last_look.map(|last| began - last);
        let covers = covers.filter(|covers| *covers <= COVERS_MAXIMUM).unwrap_or_default();
        let seen = live.observer.read(&shared.store).await?;
        live.last_look = Some(began);
        let mut result = Ok(());
        let gone: Vec<String> = live
            .rollouts
            .keys()
            .filter(|of| !documents.contains_key(*of))
            .cloned()
            .collect();
        for namespace in gone {
            match self.forget(shared, &namespace).await {
                Ok(()) => drop(live.rollouts.remove(&namespace)),
                Err(error) => result = Err(error),
            }
        }
        for (namespace, document) in &documents {
            let cursor = live.observer.cursor();
            if !live.rollouts.contains_key(namespace) {
                let kept = begin(shared, namespace, cursor).await;
                match kept {
                    Ok(kept) => drop(live.rollouts.insert(namespace.clone(), kept)),
                    Err(error) => {
                        result = Err(error);
                        continue;
                    }
                }
            }
            let Live { rollouts, observer, .. } = &mut *live;
            let Some(kept) = rollouts.get_mut(namespace) else {
                continue;
            };
            if let Err(error) = step(shared, document, &gate, kept, observer, &seen, covers).await {
                result = Err(error);
            }
        }
        if result.is_err() {
            let first = live.rollouts.values().map(|kept| kept.state.cursor).min();
            live.observer.go_back(first.unwrap_or(i64::MAX));
        }
        result
    }

    /// Does what an operator says, and all that follows from it at once.
    ///
    /// # Errors
    /// When it cannot be done; then nothing has changed.
    pub async fn change(&self, shared: &Shared, namespace: &str, command: Command) -> Result<Changed, ChangeError> {
        let is_approval = matches!(command.action, Action::Approve { .. });
        let changed = self.try_change(shared, namespace, command).await;
        // That the store cannot be used is no refusal.
        if is_approval
            && changed
                .as_ref()
                .is_err_and(|error| !matches!(error, ChangeError::Store(_)))
        {
            self.counted.approvals_refused.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }

    async fn try_change(&self, shared: &Shared, namespace: &str, command: Command) -> Result<Changed, ChangeError> {
        check_reason(&command)?;
        let (documents, gate) = self.documents().unwrap_or_default();
        let document = documents.get(namespace);
        let document = document.ok_or_else(|| ChangeError::NoRollout(namespace.to_owned()))?;
        let mut live = self.live.lock().await;
        let Live { rollouts, observer, .. } = &mut *live;
        let kept = rollouts.get_mut(namespace);
        let kept = kept.ok_or_else(|| ChangeError::NoRollout(namespace.to_owned()))?;
        if matches!(command.action, Action::Approve { .. }) {
            let workload = command.workload.as_deref().unwrap_or_default();
            let question = question(document, workload, &command.by);
            if let Some(denial) = gate.decide(&question).denial {
                return Err(ChangeError::Forbidden(denial));
            }
        }
        // Nothing is read here, so that what has happened meanwhile is for the next look.
        let mut evidence = observer.evidence(shared, namespace, &Seen::default(), i64::MAX, Duration::ZERO);
        evidence.cursor = kept.state.cursor;
        let time = now_unix_nanos();
        let spec = &document.spec;
        let now = Now {
            namespace,
            spec,
            evidence: &evidence,
            time,
        };
        let (state, mut transitions) = command::apply(kept.state.clone(), &command, &now)?;
        let forbidden = forbidden(document, &gate, &state);
        evidence.forbidden = forbidden;
        let now = Now {
            namespace,
            spec,
            evidence: &evidence,
            time,
        };
        let (state, told) = machine::advance(state, &now);
        transitions.extend(told);
        let revision = keep(shared, namespace, kept, state, &transitions, time).await?;
        Ok(Changed { transitions, revision })
    }

    /// Each rollout with its state; one that has not begun has none.
    pub async fn all(&self) -> Vec<(Arc<LatticeRollout>, Option<RolloutState>)> {
        let (documents, _) = self.documents().unwrap_or_default();
        let live = self.live.lock().await;
        let state = |namespace: &String| live.rollouts.get(namespace).map(|kept| kept.state.clone());
        documents
            .iter()
            .map(|(namespace, document)| (document.clone(), state(namespace)))
            .collect()
    }

    /// How far each is, by namespace and name.
    pub async fn reports(&self, shared: &Shared) -> BTreeMap<Key, Report> {
        let modes = shared.board.policies().borrow().namespace_modes.clone();
        let time = now_unix_nanos();
        let mut reports = BTreeMap::new();
        for (document, state) in self.all().await {
            // What the driver has not looked at is Pending no longer than until its next look.
            let Some(state) = state else { continue };
            let over = modes.iter().find(|over| over.namespace == document.namespace);
            let over = over.map(|over| over.mode.as_str()).unwrap_or_default();
            let key = (document.namespace.clone(), document.name.clone());
            reports.insert(key, report::report(&document, &state, over, time));
        }
        reports
    }

    /// Changes whenever something is told of a rollout.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// How many workloads are in each phase, and how much is to be reviewed, by documented name.
    pub async fn counts(&self) -> BTreeMap<String, u64> {
        let live = self.live.lock().await;
        let tracks = || live.rollouts.values().flat_map(|kept| kept.state.tracks.values());
        let mut counts: BTreeMap<String, u64> = Phase::WORDS
            .iter()
            .map(|word| (format!("lattice_central_rollout_workloads{{phase=\"{word}\"}}"), 0))
            .collect();
        for track in tracks() {
            let name = format!("lattice_central_rollout_workloads{{phase=\"{}\"}}", track.phase.word());
            *counts.entry(name).or_default() += 1;
        }
        let open = tracks().map(|track| track.misses.open() as u64).sum();
        counts.insert("lattice_central_rollout_open_misses".to_owned(), open);
        let standing = tracks().filter(|track| track.clock.hold.is_some()).count() as u64;
        counts.insert("lattice_central_rollout_clocks_held".to_owned(), standing);
        for (namespace, kept) in &live.rollouts {
            for phase in Phase::WORDS {
                let in_phase = kept.state.tracks.values().filter(|track| track.phase.word() == phase);
                let name = format!(
                    "lattice_central_rollout_namespace_workloads{{namespace=\"{namespace}\",phase=\"{phase}\"}}"
                );
                counts.insert(name, in_phase.count() as u64);
            }
        }
        for (name, count) in self.counted.all() {
            counts.insert(name.to_owned(), count.load(Ordering::Relaxed));
        }
        counts
    }

    fn documents(&self) -> Option<(Documents, Arc<Gate>)> {
        let objects = self.objects.get()?.borrow();
        Some((objects.rollouts.clone(), objects.gate.clone()))
    }

    /// Its LatticeRollout is gone: its policies have their own modes.
    async fn forget(&self, shared: &Shared, namespace: &str) -> Result<(), StoreError> {
        let told = Transition {
            by: CENTRAL.to_owned(),
            reason: "the LatticeRollout is gone; the policies have the modes that they say".to_owned(),
            ..Transition::default()
        };
        log(namespace, &told);
        let told = vec![stored(namespace, &told, now_unix_nanos())];
        shared.board.keep_rollout(namespace, None, told).await?;
        Ok(())
    }
}

/// A rollout that begins: from now on the namespace's policies monitor.
async fn begin(shared: &Shared, namespace: &str, cursor: i64) -> Result<Kept, StoreError> {
    let state = RolloutState::from_now_on(cursor);
    let told = Transition {
        by: CENTRAL.to_owned(),
        reason: "the LatticeRollout is new".to_owned(),
        ..Transition::default()
    };
    log(namespace, &told);
    let told = vec![stored(namespace, &told, now_unix_nanos())];
    shared.board.keep_rollout(namespace, Some(&state), told).await?;
    shared.rollouts.moved.send_modify(|moved| *moved += 1);
    Ok(Kept {
        state,
        kept: Instant::now(),
    })
}

/// One step of one rollout.
async fn step(
    shared: &Shared,
    document: &LatticeRollout,
    gate: &Gate,
    kept: &mut Kept,
    observer: &Observer,
    seen: &Seen,
    covers: Duration,
) -> Result<(), StoreError> {
    let namespace = document.namespace.as_str();
    let mut evidence = observer.evidence(shared, namespace, seen, kept.state.cursor, covers);
    evidence.forbidden = forbidden(document, gate, &kept.state);
    let time = now_unix_nanos();
    let now = Now {
        namespace,
        spec: &document.spec,
        evidence: &evidence,
        time,
    };
    let (state, told) = machine::advance(kept.state.clone(), &now);
    let is_of_track = |node: &String| state.tracks.values().any(|track| track.nodes.contains(node));
    let gaps = evidence.gaps.keys().filter(|node| is_of_track(node)).count();
    let is_due = kept.kept.elapsed() >= KEEP_INTERVAL;
    let has_changed = !told.is_empty() || !evidence.violations.is_empty() || state.governed() != kept.state.governed();
    if has_changed || is_due || gaps > 0 {
        keep(shared, namespace, kept, state, &told, time).await?;
    } else {
        kept.state = state;
    }
    let counted = &shared.rollouts.counted;
    counted.evidence_gaps.fetch_add(gaps as u64, Ordering::Relaxed);
    Ok(())
}

/// Commits a state, and lets it hold.
async fn keep(
    shared: &Shared,
    namespace: &str,
    kept: &mut Kept,
    state: RolloutState,
    told: &[Transition],
    time: UnixNanos,
) -> Result<u64, StoreError> {
    let rows = told.iter().map(|told| stored(namespace, told, time)).collect();
    let revision = shared.board.keep_rollout(namespace, Some(&state), rows).await?;
    for transition in told {
        log(namespace, transition);
    }
    shared.rollouts.counted.step(&kept.state, &state, told);
    if !told.is_empty() {
        shared.rollouts.moved.send_modify(|moved| *moved += 1);
    }
    (kept.state, kept.kept) = (state, Instant::now());
    Ok(revision)
}

/// Whom Cedar does not let promote, of those whose word is asked for.
fn forbidden(document: &LatticeRollout, gate: &Gate, state: &RolloutState) -> BTreeMap<String, String> {
    let mut forbidden = BTreeMap::new();
    for (workload, track) in &state.tracks {
        let is_asked = matches!(track.phase, Phase::Monitoring | Phase::AwaitingApproval { .. });
        let actors: Vec<&str> = match document.spec.approval.mode {
            _ if !is_asked => Vec::new(),
            ApprovalMode::Auto => vec![CENTRAL],
            ApprovalMode::Manual => track.approvals.0.iter().map(|approved| approved.by.as_str()).collect(),
        };
        for actor in actors {
            if let Some(denial) = gate.decide(&question(document, workload, actor)).denial {
                forbidden.insert(actor.to_owned(), denial);
            }
        }
    }
    forbidden
}

fn question(document: &LatticeRollout, workload: &str, actor: &str) -> Question {
    Question {
        service: ServiceIdentity {
            namespace: document.namespace.clone(),
            name: workload.to_owned(),
            environment: document.spec.environment.to_string(),
        },
        action: gate::Action::PromoteEnforcement,
        actor: actor.to_owned(),
        time: SystemTime::now(),
    }
}

fn check_reason(command: &Command) -> Result<(), ChangeError> {
    let may_be_empty = matches!(command.action, Action::Approve { .. });
    match command.reason.trim().len() {
        0 if !may_be_empty => Err(ChangeError::Reason(command.reason.len())),
        _ if command.reason.len() > REASON_BYTES_MAXIMUM => Err(ChangeError::Reason(command.reason.len())),
        _ => Ok(()),
    }
}

fn stored(namespace: &str, told: &Transition, time: UnixNanos) -> StoredTransition {
    StoredTransition {
        namespace: namespace.to_owned(),
        unix_nanos: time,
        workload: told.workload.clone(),
        from: told.from.clone(),
        to: told.to.clone(),
        by: told.by.clone(),
        reason: told.reason.clone(),
        evidence: told.evidence.clone(),
    }
}

fn log(namespace: &str, told: &Transition) {
    let Transition {
        workload,
        from,
        to,
        by,
        reason,
        evidence,
    } = told;
    tracing::info!(%namespace, %workload, %from, %to, %by, %evidence, "rollout: {}", reason.escape_debug());
}

fn now_unix_nanos() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
