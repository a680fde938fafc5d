//! LatticeRollout: how a namespace gets from monitor to enforce. Namespaced; at most one a namespace.

mod schema;

use lattice_policy::document::{Field, Findings, Node, Object, Scoping, Value};
use serde::{Deserialize, Serialize};

use super::{
    freeze_window::{FreezeWindow, read_freeze_window},
    lattice_service::Environment,
    read_whole,
    timespan::Timespan,
};

/// More steps, or freeze windows, than anybody reads.
const STEPS_MAXIMUM: usize = 20;
const FREEZE_WINDOWS_MAXIMUM: usize = 50;
const TIMESPAN_ADVICE: &str = "Write it like 2w, 36h or 1h30m: the units are w, d, h, m and s, the long ones first.";

/// How a namespace gets from monitor to enforce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatticeRollout {
    /// The namespace that it is of.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What it says, with the environment's defaults for what it does not say.
    pub spec: LatticeRolloutSpec,
}

/// What a LatticeRollout says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatticeRolloutSpec {
    /// Whose defaults hold.
    pub environment: Environment,
    /// Where the namespace is taken to.
    pub runtime: Runtime,
    /// How long it is looked at before.
    pub burn_in: BurnIn,
    /// What is enforced before all is.
    pub steps: Vec<Step>,
    /// Who must agree.
    pub approval: Approval,
    /// When it is taken back.
    pub breaker: Breaker,
    /// When nothing is promoted.
    pub freeze_windows: Vec<FreezeWindow>,
    /// Whether it stands still.
    pub paused: bool,
}

/// Where a namespace is taken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Runtime {
    /// It stays in monitor, for good.
    Monitor,
    /// It ends in enforce.
    Enforce,
}

/// How long a list is looked at before it is enforced. Both count only while nothing is missing from what the nodes report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BurnIn {
    /// In all.
    pub min_duration: Timespan,
    /// Without a miss.
    pub quiet_period: Timespan,
}

/// A part of a workload that is enforced, and for how long before more is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// At least so many pods.
    pub pods: StepPods,
    /// For so long.
    pub hold: Timespan,
}

/// How many pods a step takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepPods {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded up.
    Percent(u8),
}

/// Who must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approval {
    /// Whether anybody must.
    pub mode: ApprovalMode,
    /// How many different operators must, where `mode` is manual.
    pub approvers: u32,
}

/// Whether people approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApprovalMode {
    /// They do.
    Manual,
    /// Cedar's word is enough.
    Auto,
}

/// When what is enforced is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Breaker {
    /// Refusals of one program are counted over this.
    pub window: Timespan,
    /// So many of them, …
    pub refusals: u32,
    /// … in so many pods, open it.
    pub pods: u32,
    /// What happens then.
    pub on_open: OnOpen,
    /// The wait before monitoring begins anew; it doubles each time.
    pub back_off: Timespan,
    /// How often it begins anew by itself; then a person must say so.
    pub max_auto_rearm: u32,
}

/// What an open breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnOpen {
    /// The workload goes back to monitor.
    Monitor,
    /// It stays as it is, and goes no further.
    Pause,
}

impl StepPods {
    /// How many pods of so many.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => all.min(usize::try_from(count).unwrap_or(usize::MAX)),
            Self::Percent(percent) => (all * usize::from(percent)).div_ceil(100),
        }
    }
}

impl std::fmt::Display for StepPods {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(formatter, "{count}"),
            Self::Percent(percent) => write!(formatter, "{percent}%"),
        }
    }
}

impl LatticeRolloutSpec {
    /// What holds in an environment where nothing else is said.
    pub fn defaults(environment: Environment) -> Self {
        const HOUR: u64 = 3_600;
        const DAY: u64 = 24 * HOUR;
        let span = Timespan::from_seconds;
        let step = |pods, hold| Step { pods, hold: span(hold) };
        let (min_duration, quiet_period, steps, approvers) = match environment {
            Environment::Development => (DAY, 4 * HOUR, Vec::new(), 1),
            Environment::Staging => (14 * DAY, 3 * DAY, vec![step(StepPods::Count(1), HOUR)], 1),
            Environment::Production => {
                let steps = vec![
                    step(StepPods::Count(1), HOUR),
                    step(StepPods::Percent(10), 12 * HOUR),
                    step(StepPods::Percent(50), DAY),
                ];
                (7 * DAY, 3 * DAY, steps, 2)
            }
        };
        Self {
            environment,
            runtime: Runtime::Enforce,
            burn_in: BurnIn {
                min_duration: span(min_duration),
                quiet_period: span(quiet_period),
            },
            steps,
            approval: Approval {
                mode: match environment {
                    Environment::Development => ApprovalMode::Auto,
                    Environment::Staging | Environment::Production => ApprovalMode::Manual,
                },
                approvers,
            },
            breaker: Breaker {
                window: span(600),
                refusals: 5,
                pods: 3,
                on_open: OnOpen::Monitor,
                back_off: span(HOUR),
                max_auto_rearm: 1,
            },
            freeze_windows: Vec::new(),
            paused: false,
        }
    }
}

impl LatticeRollout {
    /// Group and version.
    pub const API_VERSION: &str = "lattice.dev/v1alpha1";
    /// The kind's name.
    pub const KIND: &str = "LatticeRollout";

    pub(super) fn read(findings: &Findings, node: &Node) -> Option<Self> {
        read_whole(findings, node, Scoping::Namespaced, |metadata, object| {
            let spec = read_spec(object.required("spec").object()?)?;
            Some(Self {
                namespace: metadata.namespace,
                name: metadata.name,
                spec,
            })
        })
    }
}

fn read_spec(spec: Object<'_>) -> Option<LatticeRolloutSpec> {
    let environment = spec.required("environment").choice(&Environment::WORDS);
    let runtimes = [("monitor", Runtime::Monitor), ("enforce", Runtime::Enforce)];
    let runtime = spec.required("runtime").choice(&runtimes);
    let mut read = LatticeRolloutSpec::defaults(environment.unwrap_or(Environment::Production));
    if let Some(burn_in) = spec.field("burnIn").object() {
        let quiet_field = burn_in.field("quietPeriod");
        if let Some(min_duration) = timespan(&burn_in.field("minDuration")) {
            read.burn_in.min_duration = min_duration;
            // A default must not make it longer than what was asked for.
            read.burn_in.quiet_period = read.burn_in.quiet_period.min(min_duration);
        }
        if let Some(quiet_period) = timespan(&quiet_field) {
            read.burn_in.quiet_period = quiet_period;
        }
        burn_in.finish();
    }
    let steps_field = spec.field("steps");
    if steps_field.is_present() {
        let items = steps_field.items();
        if items.len() > STEPS_MAXIMUM {
            let message = format!("{} steps are more than {STEPS_MAXIMUM}", items.len());
            steps_field.report(None, message, "Take larger ones.");
        }
        read.steps = items.iter().filter_map(read_step).collect();
    }
    if let Some(approval) = spec.field("approval").object() {
        let modes = [("manual", ApprovalMode::Manual), ("auto", ApprovalMode::Auto)];
        if let Some(mode) = approval.field("mode").choice(&modes) {
            read.approval.mode = mode;
        }
        if let Some(approvers) = counted(&approval.field("approvers"), 1, 20) {
            read.approval.approvers = approvers;
        }
        approval.finish();
    }
    if let Some(breaker) = spec.field("breaker").object() {
        read_breaker(breaker, &mut read.breaker);
    }
    let freeze_field = spec.field("freezeWindows");
    let freeze_items = freeze_field.items();
    if freeze_items.len() > FREEZE_WINDOWS_MAXIMUM {
        let message = format!("{} windows are more than {FREEZE_WINDOWS_MAXIMUM}", freeze_items.len());
        freeze_field.report(None, message, "Join some of them, or use `every`.");
    }
    read.freeze_windows = freeze_items.iter().filter_map(read_freeze_window).collect();
    read.paused = spec.field("paused").boolean().unwrap_or(false);
    spec.finish();
    environment?;
    read.runtime = runtime?;
    Some(read)
}

fn read_breaker(breaker: Object<'_>, read: &mut Breaker) {
    let actions = [("monitor", OnOpen::Monitor), ("pause", OnOpen::Pause)];
    read.window = timespan(&breaker.field("window")).unwrap_or(read.window);
    read.refusals = counted(&breaker.field("refusals"), 1, 10_000).unwrap_or(read.refusals);
    read.pods = counted(&breaker.field("pods"), 1, 10_000).unwrap_or(read.pods);
    read.on_open = breaker.field("onOpen").choice(&actions).unwrap_or(read.on_open);
    read.back_off = timespan(&breaker.field("backOff")).unwrap_or(read.back_off);
    read.max_auto_rearm = counted(&breaker.field("maxAutoRearm"), 0, 20).unwrap_or(read.max_auto_rearm);
    breaker.finish();
}

fn read_step(field: &Field<'_>) -> Option<Step> {
    let object = field.object()?;
    let pods_field = object.required("pods");
    let pods = read_pods(&pods_field);
    let hold_field = object.required("hold");
    let hold = timespan(&hold_field);
    object.finish();
    Some(Step {
        pods: pods?,
        hold: hold?,
    })
}

fn read_pods(field: &Field<'_>) -> Option<StepPods> {
    let advice = "Write a number of pods, like 1, or a part of them, like \"10%\".";
    match &field.node()?.value {
        Value::Integer(_) => match field.integer::<u32>()? {
            0 => {
                field.report(Some("0"), "a step takes in at least one pod", advice);
                None
            }
            count => Some(StepPods::Count(count)),
        },
        _ => {
            let text = field.non_empty_text()?;
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse().ok());
            let percent = percent.filter(|percent| (1..=100).contains(percent));
            if percent.is_none() {
                field.report(Some(text), "this is no part of the pods", advice);
            }
            percent.map(StepPods::Percent)
        }
    }
}

/// A span of time, where the field is there and one.
pub(super) fn timespan(field: &Field<'_>) -> Option<Timespan> {
    field.is_present().then(|| field.parse(TIMESPAN_ADVICE)).flatten()
}

fn counted(field: &Field<'_>, least: u32, most: u32) -> Option<u32> {
    let count: u32 = field.integer()?;
    if (least..=most).contains(&count) {
        return Some(count);
    }
    let message = format!("this is not between {least} and {most}");
    field.report(Some(&count.to_string()), message, "Give a number that is in range.");
    None
}
