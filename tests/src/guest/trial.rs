//! One case in one phase: its cgroup, its folder, and attempts whose outcome is compared with what was expected.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    actor::{ERRNO_BASE, VERB, Way},
    canaries::{self, MARK_BYTES},
    corpus::{self, tricks_of},
    events::{Violation, documents_of_workload, of_workload},
    golden,
    host::{host, is_tier_1},
    node::Node,
    policy::Policy,
};

/// Exit code of runc and ctr where the program could not be started.
const RUNTIME_REFUSED: i32 = 255;
/// The same of runc's first process, which is past telling runc when it starts a session's program.
const RUNTIMES_INIT_REFUSED: i32 = 1;
/// How long a program may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);
/// How long an event may take.
const EVENT_LIMIT: Duration = Duration::from_secs(30);

/// A case: what it needs, and what must happen.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, also of its workload, cgroup and folder.
    pub name: &'static str,
    /// Makes its files, anew for each phase and with the same content, and says its policy.
    pub prepare: fn(&Place) -> Result<Policy>,
    /// Does it.
    pub run: fn(&mut Trial<'_>) -> Result<()>,
}

/// Where a case lives.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// A folder of its own on tmpfs.
    pub folder: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
}

impl Place {
    /// Of a case.
    pub fn of(name: &'static str) -> Self {
        Self {
            name,
            folder: host().scratch.join("cases").join(name),
            cgroup: host().cgroups.join(name),
        }
    }

    /// Its workload: the case's name as Kubernetes would take it.
    pub fn workload(&self) -> String {
        self.name.replace('_', "-")
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A static canary in the folder; the variant is its content.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn canary(&self, name: &str, variant: &str) -> Result<PathBuf> {
        let path = self.path(name);
        canaries::write_static(&path, variant)?;
        Ok(path)
    }
}

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No agent: every canary must leave its mark, or the case proves nothing.
    Control,
    /// With the agent.
    Judged,
}

/// Why an event is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// `reason` of the event.
    pub reason: &'static str,
    /// `role` of the event.
    pub role: &'static str,
    /// `drift` of the event.
    pub drift: &'static str,
}

/// A cause, in short.
pub const fn cause(reason: &'static str, role: &'static str, drift: &'static str) -> Cause {
    Cause { reason, role, drift }
}

impl Cause {
    /// What tier 2 says instead, where it knows less.
    #[must_use]
    pub fn in_tier_2(self, other: Self) -> Self {
        if is_tier_1() { self } else { other }
    }
}

/// What must come of an attempt under the agent. Without it each leaves its mark, but for `Fails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It runs, and nothing is said.
    Runs,
    /// SIGKILL, no mark, an event.
    Killed(Cause),
    /// -EPERM, no mark, an event.
    Denied(Cause),
    /// It runs, with an event: monitor.
    Noted(Cause),
    /// The kernel refuses it by itself, with this errno, in both phases.
    Fails(i32),
    /// It runs, and nothing is said: a hole of this tier, which `docs/kernel-support.md` names.
    Hole,
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Outcome {
    status: ExitStatus,
    /// Content of the mark file.
    pub marks: String,
    pid: u32,
}

impl Outcome {
    /// The canary ran.
    pub fn ran(&self) -> bool {
        self.status.code() == Some(0) && self.marks.len() == MARK_BYTES
    }

    /// It was killed before its first instruction.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(9) && self.marks.is_empty()
    }

    /// It was refused with EPERM, and not killed.
    pub fn was_denied(&self) -> bool {
        self.status.code() == Some(i32::from(ERRNO_BASE) + 1) && self.marks.is_empty()
    }
}

/// One case in one phase.
pub struct Trial<'a> {
    /// The agent and the rest of the node.
    pub node: &'a mut Node,
    /// Where the case lives.
    pub place: Place,
    /// With or without the agent.
    pub phase: Phase,
    expected_events: usize,
    attempts: u32,
    holds_events: bool,
    /// Of the corpus; where there is none the corpus says which ones the case tries.
    trick: Option<&'static str>,
}

impl<'a> Trial<'a> {
    /// Begins.
    pub fn new(node: &'a mut Node, place: Place, phase: Phase) -> Self {
        Self {
            node,
            place,
            phase,
            expected_events: 0,
            attempts: 0,
            holds_events: false,
            trick: None,
        }
    }

    /// Names the trick of the corpus that the attempts from here on try.
    pub fn trick(&mut self, name: &'static str) -> &mut Self {
        self.trick = Some(name);
        self
    }

    /// Tells the corpus what came of an attempt that the agent was to stop.
    ///
    /// # Errors
    /// When the corpus does not know the trick.
    pub fn tell(&mut self, outcome: corpus::Outcome) -> Result<()> {
        let tricks = tricks_of(self.place.name, self.trick)?;
        if !self.is_control() {
            for trick in tricks {
                self.node.corpus.record(trick, outcome);
            }
        }
        Ok(())
    }

    /// Whether there is no agent.
    pub fn is_control(&self) -> bool {
        self.phase == Phase::Control
    }

    /// A path in the case's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// The program starts by execve, from outside into the case's cgroup.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn exec(&mut self, program: &Path, expected: Expected) -> Result<()> {
        let cgroup = self.place.cgroup.clone();
        self.attempt(&cgroup, Way::Exec, &[path_word(program)], expected)
    }

    /// As [`Trial::exec`], in another way.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn start(&mut self, way: Way, words: &[String], expected: Expected) -> Result<()> {
        let cgroup = self.place.cgroup.clone();
        self.attempt(&cgroup, way, words, expected)
    }

    /// As [`Trial::start`], from another cgroup.
    ///
    /// # Errors
    /// When something else came of it than expected.
    #[track_caller]
    pub fn attempt(&mut self, cgroup: &Path, way: Way, words: &[String], expected: Expected) -> Result<()> {
        let line = std::panic::Location::caller().line();
        self.try_attempt(cgroup, way, words, expected).with_context(|| {
            format!(
                "{} of {}, line {line}, expected {expected:?}",
                way.word(),
                words.join(" ")
            )
        })
    }

    fn try_attempt(&mut self, cgroup: &Path, way: Way, words: &[String], expected: Expected) -> Result<()> {
        let outcome = self.act(cgroup, way, words)?;
        let forwards = matches!(way, Way::Child) || words.first().is_some_and(|word| word.ends_with("/sh"));
        self.compare(&outcome, expected, forwards)?;
        if let Some(violation) = self.event_owed(expected)? {
            ensure!(
                forwards || violation.pid == outcome.pid,
                "the event names pid {}, it was {}",
                violation.pid,
                outcome.pid
            );
        }
        Ok(())
    }

    /// Starts the actor, waits for its end, and reads the mark.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn act(&mut self, cgroup: &Path, way: Way, words: &[String]) -> Result<Outcome> {
        self.act_for(cgroup, way, words, ATTEMPT_LIMIT)
    }

    /// As [`Trial::act`], with a limit of its own.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn act_for(&mut self, cgroup: &Path, way: Way, words: &[String], limit: Duration) -> Result<Outcome> {
        let mark = self.new_mark()?;
        let mut child = host()
            .program("lattice-vm-suite")
            .arg(VERB)
            .arg(cgroup)
            .arg(way.word())
            .args(words)
            .env("LATTICE_MARK", &mark)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the actor")?;
        let pid = child.id();
        let status = wait_for(&mut child, limit)?;
        Ok(Outcome {
            status,
            marks: fs::read_to_string(&mark).unwrap_or_default(),
            pid,
        })
    }

    /// A mark file that nobody has used.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn new_mark(&mut self) -> Result<PathBuf> {
        self.attempts += 1;
        let folder = host().scratch.join("marks").join(self.place.name);
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("{:?}-{}", self.phase, self.attempts)))
    }

    fn compare(&mut self, outcome: &Outcome, expected: Expected, forwards: bool) -> Result<()> {
        if let Some(told) = for_the_corpus(outcome, expected) {
            self.tell(told)?;
        }
        let marks = outcome.marks.len() / MARK_BYTES;
        let (code, signal) = (outcome.status.code(), outcome.status.signal());
        let seen = format!("{} with {marks} marks", outcome.status);
        let errno = |errno: i32| code == Some(i32::from(ERRNO_BASE) + errno);
        let is_right = match (self.phase, expected) {
            (_, Expected::Fails(number)) => errno(number) && marks == 0,
            (Phase::Control, _) => {
                ensure!(
                    code == Some(0) && marks == 1,
                    "without the agent: {seen}: this proves nothing"
                );
                true
            }
            (_, Expected::Runs | Expected::Noted(_) | Expected::Hole) => code == Some(0) && marks == 1,
            (_, Expected::Killed(_)) => (signal == Some(9) || (forwards && code == Some(137))) && marks == 0,
            // Tier 2 has no refusal but the signal.
            (_, Expected::Denied(_)) if !is_tier_1() => (signal == Some(9) || code == Some(137)) && marks == 0,
            (_, Expected::Denied(_)) => {
                (errno(1) || (forwards && matches!(code, Some(126 | RUNTIME_REFUSED | RUNTIMES_INIT_REFUSED))))
                    && marks == 0
            }
        };
        ensure!(is_right, "{seen}; the agent's events: {}", self.told());
        Ok(())
    }

    fn told(&self) -> String {
        of_workload(&self.node.told, &self.place.workload())
            .iter()
            .skip(self.expected_events)
            .map(|event| {
                format!(
                    "{} {} {} {} {}",
                    event.effective_action, event.reason, event.role, event.drift, event.path
                )
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn event_owed(&mut self, expected: Expected) -> Result<Option<Violation>> {
        if self.is_control() || self.holds_events {
            return Ok(None);
        }
        let (cause, action) = match expected {
            Expected::Runs | Expected::Fails(_) | Expected::Hole => return Ok(None),
            Expected::Killed(cause) => (cause, if is_tier_1() { "deny+kill" } else { "kill" }),
            Expected::Denied(cause) => (cause, if is_tier_1() { "deny" } else { "kill" }),
            Expected::Noted(cause) => (cause, "none"),
        };
        self.event(cause, action).map(Some)
    }

    /// Waits for the next event of this case, and compares it.
    ///
    /// # Errors
    /// When none comes, or another.
    pub fn event(&mut self, cause: Cause, action: &str) -> Result<Violation> {
        let event = self.next_event()?;
        // Before the file is opened, tier 2 can refuse as well as kill.
        let action = match action {
            "kill" if event.hook == "fanotify" => "deny+kill",
            // Past the point of no return a signal is all that is left.
            "deny+kill" if event.hook == "bprm_committed_creds" => "kill",
            _ => action,
        };
        let found = (
            event.reason.as_str(),
            event.role.as_str(),
            event.drift.as_str(),
            event.effective_action.as_str(),
        );
        ensure!(
            found == (cause.reason, cause.role, cause.drift, action),
            "the event of {} at {} says {found:?}, expected {cause:?} {action}",
            event.path,
            event.hook
        );
        if action.ends_with("kill") {
            ensure!(
                event.signal_return_code == Some(0),
                "the signal returned {:?}",
                event.signal_return_code
            );
        } else {
            ensure!(
                event.signal_return_code.is_none(),
                "a signal was sent: {:?}",
                event.signal_return_code
            );
        }
        Ok(event)
    }

    /// The event that came last of those that were owed is as the golden one of that name says; without the agent there is none.
    ///
    /// # Errors
    /// When it is not, or none came yet.
    pub fn golden(&self, name: &str) -> Result<()> {
        if self.is_control() {
            return Ok(());
        }
        let documents = documents_of_workload(&self.node.told, &self.place.workload());
        let last = self
            .expected_events
            .checked_sub(1)
            .and_then(|index| documents.get(index));
        golden::check(name, last.context("no event came yet")?)
    }

    /// Waits for the next event of this case.
    ///
    /// # Errors
    /// When none comes.
    pub fn next_event(&mut self) -> Result<Violation> {
        let started = Instant::now();
        loop {
            if let Some(event) = of_workload(&self.node.told, &self.place.workload()).get(self.expected_events) {
                self.expected_events += 1;
                return Ok(event.clone());
            }
            if started.elapsed() > EVENT_LIMIT {
                bail!("no event came");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// While no agent runs no event is waited for; each is owed afterwards.
    pub fn hold_events(&mut self, hold: bool) {
        self.holds_events = hold;
    }

    /// Compares the exit code of what ran elsewhere, and its mark, with what was expected.
    ///
    /// # Errors
    /// When something else came of it.
    pub fn judge_code(&mut self, code: i32, mark: &Path, expected: Expected) -> Result<()> {
        let marks = fs::read_to_string(mark).unwrap_or_default();
        let outcome = Outcome {
            status: ExitStatus::from_raw(code << 8),
            marks,
            pid: 0,
        };
        self.compare(&outcome, expected, true)?;
        self.event_owed(expected).map(drop)
    }

    /// Counts the events that came for what they are: the case has compared their number by itself.
    pub fn count_events(&mut self) {
        self.expected_events = of_workload(&self.node.told, &self.place.workload()).len();
    }

    /// Says that an attempt was not made through this trial, and owes an event.
    ///
    /// # Errors
    /// As [`Trial::event`]; without the agent nothing is owed.
    pub fn owed(&mut self, expected: Expected) -> Result<()> {
        self.event_owed(expected).map(drop)
    }

    /// Ends: as many events as refusals.
    ///
    /// # Errors
    /// When there are others.
    pub fn finish(self) -> Result<usize> {
        if !self.is_control() {
            let told = of_workload(&self.node.told, &self.place.workload()).len();
            ensure!(
                told == self.expected_events,
                "{told} events for {} refusals: {}",
                self.expected_events,
                self.told()
            );
        }
        Ok(self.expected_events)
    }
}

/// None of an attempt that is no trick.
fn for_the_corpus(outcome: &Outcome, expected: Expected) -> Option<corpus::Outcome> {
    match expected {
        Expected::Runs | Expected::Noted(_) => return None,
        Expected::Fails(errno) if outcome.marks.is_empty() => return Some(corpus::Outcome::NotApplicable(errno)),
        _ => {}
    }
    // Whatever the program's end: one instruction is too many.
    if !outcome.marks.is_empty() {
        return Some(corpus::Outcome::Ran);
    }
    let base = i32::from(ERRNO_BASE);
    match (outcome.status.code(), outcome.status.signal()) {
        (_, Some(_)) | (Some(137), _) => Some(corpus::Outcome::Killed),
        (Some(126 | RUNTIME_REFUSED), _) => outcome.status.code().map(corpus::Outcome::RefusedWithCode),
        (Some(code), _) if code > base => Some(corpus::Outcome::Refused(code - base)),
        // It left no mark and ended well: something else ran in its place, which is as bad.
        (Some(_), _) => Some(corpus::Outcome::Ran),
        (None, None) => None,
    }
}

/// A path as a word.
pub fn path_word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Waits for a child, with a limit.
///
/// # Errors
/// When it does not end in time; it is killed then.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    wait_for(child, ATTEMPT_LIMIT)
}

fn wait_for(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("it did not end within {limit:?}");
        }
        sleep(Duration::from_millis(1));
    }
}
