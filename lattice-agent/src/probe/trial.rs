//! A tier tried out: its programs active in a place of their own, a cgroup as a container, a policy in enforce, and execs whose end is
//! looked at from outside.

use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc};

use lattice_api::{node_report::FindingResult, v1::Finding};
use lattice_common::abi::counter;
use lattice_policy::{ExecPolicy, read_documents};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use super::{
    finding, kernel, offered,
    place::Place,
    program::{Ran, content, ended, start, write},
};
use crate::{
    containers::{by_hand::ByHand, cgroup_tree::CgroupTree},
    enforcement::Enforcement,
    error_chain::ErrorChain,
    kernel::{
        maps::Maps,
        object::{MapSizes, ObjectError, Tier, activate},
    },
};

/// Why a trial came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// The kernel refused the programs.
    #[error("the kernel refused the programs")]
    Programs(#[source] ObjectError),
    /// Something around them.
    #[error("it could not be tried: cannot {action}: {reason}")]
    Around { action: &'static str, reason: String },
}

fn around<E: std::error::Error>(action: &'static str) -> impl FnOnce(E) -> TrialError {
    move |error| TrialError::Around {
        action,
        reason: ErrorChain(&error).to_string(),
    }
}

/// A cgroup of this process; gone with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(tree: &CgroupTree) -> io::Result<Self> {
        let path = tree.mount().join(format!("lattice-probe-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Empty and in nobody's way where it stays.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Active programs, and a container that they know.
pub(super) struct Trial {
    enforcement: Enforcement<Maps>,
    cgroup: Cgroup,
    /// Rewritten from run to run: equal path, equal inode, other bytes.
    program: PathBuf,
}

impl Trial {
    /// # Errors
    /// When the kernel refuses the programs, or no cgroup can be made.
    pub(super) fn begin(tier: Tier, place: &Place, tree: &CgroupTree) -> Result<Self, TrialError> {
        let cgroup = Cgroup::make(tree).map_err(around("make a cgroup"))?;
        let pins = place.pins();
        pins.remove_all()
            .map_err(around("remove what an earlier trial pinned"))?;
        let active = activate(tier, &pins, &MapSizes(Vec::new())).map_err(TrialError::Programs)?;
        let mut enforcement = Enforcement::adopt(active.maps).map_err(around("read the maps"))?;
        let container: ByHand = format!("{}=lattice-probe/trial/trial", cgroup.0.display())
            .parse()
            .map_err(around("name the cgroup"))?;
        let container = container.resolve(tree).map_err(around("find the cgroup"))?;
        enforcement
            .container_started(container)
            .map_err(around("make the container known"))?;
        enforcement.settle().map_err(around("settle the maps"))?;
        Ok(Self {
            enforcement,
            cgroup,
            program: place.programs().join("program"),
        })
    }

    fn allow(&mut self, listed: &[u8]) -> Result<(), TrialError> {
        let report = self.enforcement.apply(vec![policy(listed)?], BTreeMap::new());
        match report.errors.is_empty() {
            true => Ok(()),
            false => Err(TrialError::Around {
                action: "load the trial's policy",
                reason: report.text(),
            }),
        }
    }

    fn run(&self, content: &[u8]) -> Result<Ran, TrialError> {
        write(&self.program, content).map_err(around("write a program"))?;
        start(&self.cgroup.0, &self.program)
            .and_then(ended)
            .map_err(around("start a program"))
    }

    /// A listed program, another of the same size over it, and the listed one again.
    ///
    /// # Errors
    /// When the execs could not be tried.
    pub(super) fn tier_one(&mut self) -> Result<TierOne, TrialError> {
        let (listed, other) = (content(1), content(2));
        self.allow(&listed)?;
        Ok(TierOne {
            listed: self.run(&listed)?,
            other: self.run(&other)?,
            again: self.run(&listed)?,
            hashed: self.counted(counter::HASHED)?,
            ima_policy: kernel::active_ima_policy(),
        })
    }

    /// A program that is not listed: the floor knows no content of a file on this file system, so it must die.
    ///
    /// # Errors
    /// When the exec could not be tried.
    pub(super) fn tier_two(&mut self) -> Result<Finding, TrialError> {
        self.allow(&content(1))?;
        let ran = self.run(&content(2))?;
        Ok(match ran {
            Ran::Killed(signal) if signal == Signal::SIGKILL as i32 => offered(
                "floor",
                "an unlisted program was killed at sched_process_exec, before its first instruction",
            ),
            ran => Finding {
                consequence: "nothing can be enforced here".into(),
                ..finding(
                    "floor",
                    FindingResult::Missing,
                    format!("the programs load and attach, but an unlisted program was not killed ({ran:?})"),
                )
            },
        })
    }

    fn counted(&self, slot: u32) -> Result<u64, TrialError> {
        self.enforcement
            .tables()
            .counter(slot)
            .map_err(around("read a counter"))
    }
}

fn policy(listed: &[u8]) -> Result<Arc<ExecPolicy>, TrialError> {
    let text = format!(
        "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: trial, namespace: lattice-probe}}\n\
         spec:\n  mode: enforce\n  entries:\n  - {{path: /trial, sha256: \"{}\", size: {}}}\n",
        hex::encode(Sha256::digest(listed)),
        listed.len()
    );
    let not_read = |reason: String| TrialError::Around {
        action: "read the trial's policy",
        reason,
    };
    let policies = read_documents("the trial's policy", text.as_bytes()).map_err(|diagnostics| {
        not_read(
            diagnostics
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        )
    })?;
    policies
        .into_iter()
        .next()
        .map(Arc::new)
        .ok_or_else(|| not_read("it holds no policy".into()))
}

/// How tier 1's execs went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TierOne {
    listed: Ran,
    other: Ran,
    again: Ran,
    hashed: u64,
    /// Why an IMA policy seems to be active.
    ima_policy: Option<String>,
}

impl TierOne {
    fn is_called(&self) -> bool {
        [self.listed, self.other, self.again].iter().any(|ran| *ran != Ran::Yes) || self.hashed > 0
    }

    fn is_content_right(&self) -> bool {
        (self.listed, self.again) == (Ran::Yes, Ran::Yes) && self.other == Ran::Killed(Signal::SIGKILL as i32)
    }

    /// Whether tier 1 holds on this node.
    pub(super) fn works(&self) -> bool {
        self.is_called() && self.is_content_right()
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        if !self.is_called() {
            return vec![kernel::lsm_never_called()];
        }
        let called = offered("bpf-lsm", "its programs load, attach, and are called at exec");
        let advice = "remove the IMA policy (ima_policy= on the kernel's command line, or what loads one)".to_owned();
        let content = match (self.is_content_right(), &self.ima_policy) {
            (true, None) => offered(
                "content",
                "a listed program ran; other bytes of the same size, written over it, were refused and killed; the listed ones ran again",
            ),
            (true, Some(why)) => Finding {
                consequence: "a file that the IMA policy covers may be known by a digest that was taken earlier".into(),
                advice,
                ..finding(
                    "content",
                    FindingResult::Limited,
                    format!("digests were right on a tmpfs, but an IMA policy is active: {why}"),
                )
            },
            (false, policy) => Finding {
                consequence: "a file cannot be told by its content, so tier 1 is not used".into(),
                advice: match policy {
                    Some(_) => advice,
                    None => "use a kernel with CONFIG_IMA and ima_hash=sha256 on its command line".into(),
                },
                ..finding(
                    "content",
                    FindingResult::Missing,
                    format!(
                        "a listed program {}; other bytes of the same size, written over it, {}; the listed ones again: it {}",
                        words(self.listed),
                        words(self.other),
                        words(self.again)
                    ),
                )
            },
        };
        vec![called, content]
    }
}

fn words(ran: Ran) -> String {
    match ran {
        Ran::Yes => "ran".into(),
        Ran::Refused(errno) => format!("was refused with {errno}"),
        Ran::Killed(signal) => format!("was ended by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Ran = Ran::Killed(9);

    #[track_caller]
    fn check(listed: Ran, other: Ran, again: Ran, hashed: u64, ima_policy: Option<&str>, expected: (&[&str], bool)) {
        let outcome = TierOne {
            listed,
            other,
            again,
            hashed,
            ima_policy: ima_policy.map(str::to_owned),
        };
        let found: Vec<String> = outcome
            .findings()
            .iter()
            .map(|finding| format!("{} {}", finding.check, finding.result))
            .collect();
        assert_eq!(
            (
                found.iter().map(String::as_str).collect::<Vec<_>>().as_slice(),
                outcome.works()
            ),
            expected
        );
    }

    #[test]
    fn tier_one_is_what_its_execs_came_to() {
        let refused = Ran::Refused(nix::errno::Errno::EPERM);
        let right = (&["bpf-lsm offered", "content offered"][..], true);
        check(Ran::Yes, KILLED, Ran::Yes, 3, None, right);
        check(
            Ran::Yes,
            KILLED,
            Ran::Yes,
            3,
            Some("tcb"),
            (&["bpf-lsm offered", "content limited"], true),
        );
        // Attached, and never called: no `bpf` among the active LSMs.
        check(Ran::Yes, Ran::Yes, Ran::Yes, 0, None, (&["bpf-lsm missing"], false));
        let wrong = (&["bpf-lsm offered", "content missing"][..], false);
        // A digest that was taken earlier; none at all; no signal.
        check(Ran::Yes, Ran::Yes, Ran::Yes, 3, Some("tcb"), wrong);
        check(KILLED, KILLED, KILLED, 0, None, wrong);
        check(Ran::Yes, refused, Ran::Yes, 3, None, wrong);
    }

    #[test]
    fn the_trials_policy_is_a_policy() {
        let policy = policy(b"content").unwrap();
        assert_eq!(
            policy.entries[0].sha256.map(|digest| digest.0),
            Some(Sha256::digest(b"content").into())
        );
    }
}
