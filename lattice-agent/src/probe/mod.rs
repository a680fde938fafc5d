//! What this node offers, found by trying: `lattice-agent probe`, and `latticectl doctor` through the agent.
//!
//! ```text
//!   place (a mount namespace with its own BPF and program file systems) ──► trial: a cgroup, a policy, real execs ──► findings
//!   kernel, capabilities, surroundings ───────────────────────────────────────────────────────────────────────────────► findings
//!                                                           tier ──► not_refused (docs/kernel-support.md itself) ──► NodeReport
//! ```
//!
//! Lists are read only to explain a refusal, never to foresee one: there are kernels that name `bpf` among their LSMs and refuse the
//! programs, and kernels that attach the programs and never call them. All that is made here goes when the process ends, however it
//! ends, but for an empty cgroup. It must be a process of its own, with one thread: it leaves its mount namespace.

mod capabilities;
mod front;
mod kernel;
mod not_refused;
mod place;
mod program;
mod surroundings;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lattice_api::{
    node_report::{FindingResult, from_json},
    v1::{Finding, NodeReport},
};

pub use self::program::{CHILD_COMMAND, child};
use self::{
    place::Place,
    trial::{Trial, TrialError},
};
use crate::{containers::cgroup_tree::CgroupTree, kernel::object::Tier};

/// What to look at besides the kernel.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Name of the node.
    pub node: String,
    /// containerd's socket, where it is not at one of its usual places.
    pub containerd: Option<PathBuf>,
}

/// Tries everything. Takes seconds where the kernel's verifier is slow.
pub fn probe(options: &Options) -> NodeReport {
    let mut findings = vec![kernel::kernel(), kernel::btf(), capabilities::capabilities()];
    let (cgroups, tree) = surroundings::cgroups();
    let has_cgroups = tree.is_some();
    findings.push(cgroups);
    let tier = match tree {
        Some(tree) => try_tiers(&tree, &mut findings),
        None => 0,
    };
    findings.push(surroundings::runtime(options.containerd.as_deref()));
    findings.push(surroundings::nri());
    debug_assert!(has_cgroups || tier == 0);
    NodeReport {
        node: options.node.clone(),
        kernel_release: kernel::release(),
        architecture: std::env::consts::ARCH.into(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        tier,
        active_tier: None,
        findings,
        not_refused: not_refused::of_tier(tier),
    }
}

/// The same from a process of its own, by the running program's file. For who has threads, or a mount namespace to stay in.
///
/// # Errors
/// When that process cannot be started, does not end in time, or says something else; in words.
pub fn in_child(node: &str, containerd: Option<&Path>) -> Result<NodeReport, String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["probe", "--output", "json", "--node", node]);
    if let Some(socket) = containerd {
        command.arg("--containerd").arg(socket);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = command
        .output()
        .map_err(|error| format!("the probe could not be started: {error}"))?;
    from_json(&output.stdout).map_err(|error| format!("the probe ended with {}, and {error}", output.status))
}

/// The highest tier whose programs do what they are for, in a container made for the purpose.
fn try_tiers(tree: &CgroupTree, findings: &mut Vec<Finding>) -> u32 {
    let place = match Place::enter() {
        Ok(place) => place,
        Err(error) => {
            findings.push(unknown("bpf-lsm", error.to_string(), error.advice()));
            return 0;
        }
    };
    match Trial::begin(Tier::One, &place, tree).map(|mut trial| trial.tier_one()) {
        Ok(Ok(outcome)) => {
            let works = outcome.works();
            findings.extend(outcome.findings());
            if works {
                return 1;
            }
        }
        Ok(Err(error)) => findings.push(unknown("bpf-lsm", error.to_string(), String::new())),
        Err(TrialError::Programs(error)) => findings.push(kernel::lsm_refused(&error)),
        Err(error) => findings.push(unknown("bpf-lsm", error.to_string(), String::new())),
    }
    let floor = match Trial::begin(Tier::Two, &place, tree).and_then(|mut trial| trial.tier_two()) {
        Ok(finding) => finding,
        Err(TrialError::Programs(error)) => kernel::floor_refused(&error),
        Err(error) => unknown("floor", error.to_string(), String::new()),
    };
    let works = floor.result == FindingResult::Offered.word();
    findings.push(floor);
    if works {
        findings.push(front::front(&place));
    }
    if works { 2 } else { 0 }
}

fn finding(check: &str, result: FindingResult, found: impl Into<String>) -> Finding {
    Finding {
        check: check.into(),
        result: result.word().into(),
        found: found.into(),
        ..Finding::default()
    }
}

fn offered(check: &str, found: impl Into<String>) -> Finding {
    finding(check, FindingResult::Offered, found)
}

fn unknown(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        advice: advice.into(),
        ..finding(check, FindingResult::Unknown, found)
    }
}
