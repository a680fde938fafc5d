//! The cases, in the order in which they run: those that stop the agent come last.

mod agent_life;
mod applets;
mod bytes;
mod container;
mod content;
mod denylist;
mod endurance;
mod evasion;
mod events;
mod failure;
mod guard;
mod helper;
mod interpreter;
mod live;
mod loading;
mod membership;
mod names;
mod origin;
mod paths;
mod running;
mod scripts;
mod skips;
mod tetragon;
mod walkthrough;
mod ways;
mod writers;

use super::{corpus, host::is_tier_1, trial::Case};

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

/// Those that need nothing but containers of the image: they hold in both tiers, but for what says why not.
pub fn native() -> Vec<Listed> {
    [
        container::CASES,
        walkthrough::CASES,
        applets::IN_A_CONTAINER,
        evasion::CASES,
        tetragon::CASES,
        running::CASES,
        failure::IN_A_CONTAINER,
        failure::CASES,
    ]
    .into_iter()
    .flatten()
    .map(|case| match not_in_tier_2(case.name) {
        Some(reason) if !is_tier_1() => Listed::Skipped {
            name: case.name,
            reason,
        },
        _ => Listed::Case(*case),
    })
    .collect()
}

fn not_in_tier_2(name: &str) -> Option<fn() -> Option<String>> {
    if name == container::HASHED_ONCE {
        return Some(|| Some("in tier 2 the kernel hashes nothing".to_owned()));
    }
    tetragon::CASES.iter().any(|case| case.name == name).then_some(|| {
        Some(
            "in tier 2 a path entry does not hold for an ELF interpreter of the image, and these policies have no other entries; \
             docs/kernel-support.md says why"
                .to_owned(),
        )
    })
}

/// Kernel on which policies for Tetragon are not tried: what such a file means is the agent's business, so that one kernel is enough.
const WITHOUT_TETRAGON: &str = "6.1";

/// All of them, of a VM.
pub fn all() -> Vec<Listed> {
    let tetragon = if corpus::kernel() == WITHOUT_TETRAGON {
        &[]
    } else {
        tetragon::CASES
    };
    [
        content::CASES,
        bytes::CASES,
        names::CASES,
        scripts::CASES,
        interpreter::CASES,
        ways::CASES,
        writers::CASES,
        membership::CASES,
        paths::CASES,
        origin::CASES,
        applets::CASES,
        loading::CASES,
        guard::CASES,
        helper::CASES,
        denylist::CASES,
        endurance::CASES,
        live::CASES,
        container::CASES,
        walkthrough::CASES,
        applets::IN_A_CONTAINER,
        evasion::CASES,
        tetragon,
        running::CASES,
        events::CASES,
        failure::IN_A_CONTAINER,
        failure::IN_TIER_1,
        failure::CASES,
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
