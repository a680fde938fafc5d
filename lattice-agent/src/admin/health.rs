//! What "healthy" and "ready" mean.
//!
//! Healthy: the agent does its work, so a restart would mend nothing. Ready: what is to be enforced on this node is enforced. An agent
//! that is not ready may still be enforcing what it knows; one that is not healthy should be restarted, which is safe at any time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long the event reader may be silent. It looks four times a second.
pub const SILENCE: Duration = Duration::from_secs(10);

/// A sign of life that one thread gives and others see.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    start: Instant,
    /// Milliseconds after `start`.
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: Arc::default(),
        }
    }
}

impl Heartbeat {
    /// Gives a sign.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// How long ago the last sign was; since the beginning, where there was none.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

/// One thing that must be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// What is wrong; `None` where it is so.
    pub problem: Option<String>,
}

impl Condition {
    /// It holds, or this is wrong.
    pub fn new(name: &'static str, holds: bool, problem: impl FnOnce() -> String) -> Self {
        Self {
            name,
            problem: (!holds).then(problem),
        }
    }
}

/// Whether all hold.
pub fn all_hold(conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| condition.problem.is_none())
}

/// A line a condition, for people who look and for logs of probes.
pub fn text(conditions: &[Condition]) -> String {
    conditions
        .iter()
        .map(|condition| match &condition.problem {
            None => format!("{}: ok\n", condition.name),
            Some(problem) => format!("{}: {problem}\n", condition.name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_is_enough() {
        let good = Condition::new("links", true, || unreachable!());
        let bad = Condition::new("policies", false, || "none yet".into());
        assert!(all_hold(std::slice::from_ref(&good)));
        assert!(!all_hold(&[good.clone(), bad.clone()]));
        assert_eq!(text(&[good, bad]), "links: ok\npolicies: none yet\n");
    }

    #[test]
    fn silence_ends_with_a_beat() {
        let heart = Heartbeat::default();
        std::thread::sleep(Duration::from_millis(30));
        let silence = heart.silence();
        assert!(silence >= Duration::from_millis(30));
        heart.clone().beat();
        assert!(heart.silence() < silence);
    }
}
