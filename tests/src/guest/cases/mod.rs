//! The cases, in the order in which they run: those that stop the agent come last.

mod agent_life;
mod container;
mod content;
mod interpreter;
mod live;
mod membership;
mod names;
mod origin;
mod paths;
mod scripts;
mod skips;
mod walkthrough;
mod ways;
mod writers;

use super::trial::Case;

/// A line of the table.
pub enum Listed {
    /// Runs.
    Case(Case),
    /// Does not run, because of what the function proves; `None` where there is no such reason.
    Skipped {
        /// Its name.
        name: &'static str,
        /// Why not.
        reason: fn() -> Option<String>,
    },
}

/// All of them.
pub fn all() -> Vec<Listed> {
    [
        content::CASES,
        names::CASES,
        scripts::CASES,
        interpreter::CASES,
        ways::CASES,
        writers::CASES,
        membership::CASES,
        paths::CASES,
        origin::CASES,
        live::CASES,
        container::CASES,
        walkthrough::CASES,
        agent_life::CASES,
    ]
    .into_iter()
    .flatten()
    .map(|case| Listed::Case(*case))
    .chain(
        skips::SKIPS
            .iter()
            .map(|&(name, reason)| Listed::Skipped { name, reason }),
    )
    .collect()
}
