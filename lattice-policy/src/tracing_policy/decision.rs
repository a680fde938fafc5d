//! What the hooks of a policy do at each start, as a table: pure.
//!
//! A path condition only tells the paths that the policy names from each other and from all others. So it is enough to ask the
//! selectors about every named path and about one that nobody named, from either kind of start.

use std::collections::BTreeSet;

use crate::{Entry, FilePath, Mode, Origin, Role};

/// What happens to a start; the stronger one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It runs.
    Run,
    /// It runs, with an event.
    Post,
    /// EPERM.
    Deny,
    /// SIGKILL, with EPERM or without.
    Kill,
}

/// Where a start comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// From the tree of the container's first process.
    Init,
    /// From what entered from outside.
    ExecSession,
}

/// A condition on the path of the started file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathCondition {
    /// It is one of these.
    In(BTreeSet<FilePath>),
    /// It is none of these.
    NotIn(BTreeSet<FilePath>),
}

/// A selector: it matches where all its conditions do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) paths: Vec<PathCondition>,
    pub(super) starts: Vec<Start>,
    pub(super) outcome: Outcome,
}

/// The selectors of a hook, in their order; none means that every call is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) selectors: Vec<Selector>,
}

/// What a policy comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// What may start, by path.
    pub(super) entries: Vec<Entry>,
    /// What happens to the rest.
    pub(super) mode: Mode,
    /// Whether starts that are allowed are posted besides.
    pub(super) posts_allowed: bool,
}

/// Why a policy comes to nothing that Lattice can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undecided {
    /// It neither refuses nor posts anything.
    Nothing,
    /// It names what may not start, and leaves everything else open.
    DenylistAlone,
    /// Paths that it does not name are refused from one kind of start only.
    OpenFromOneSide,
    /// It kills for some paths and returns EPERM alone for others.
    TwoModes,
}

impl PathCondition {
    fn holds(&self, path: Option<&FilePath>) -> bool {
        match self {
            Self::In(paths) => path.is_some_and(|path| paths.contains(path)),
            Self::NotIn(paths) => path.is_none_or(|path| !paths.contains(path)),
        }
    }

    fn paths(&self) -> &BTreeSet<FilePath> {
        match self {
            Self::In(paths) | Self::NotIn(paths) => paths,
        }
    }
}

impl Hook {
    /// What this hook does; `None` is a path that nobody named.
    fn outcome(&self, path: Option<&FilePath>, start: Start) -> Outcome {
        if self.selectors.is_empty() {
            return Outcome::Post;
        }
        let matches = |selector: &&Selector| {
            selector.paths.iter().all(|condition| condition.holds(path))
                && selector.starts.iter().all(|wanted| *wanted == start)
        };
        self.selectors
            .iter()
            .find(matches)
            .map_or(Outcome::Run, |selector| selector.outcome)
    }
}

/// All paths that hooks name.
pub(super) fn named_paths(hooks: &[Hook]) -> BTreeSet<&FilePath> {
    let selectors = hooks.iter().flat_map(|hook| &hook.selectors);
    selectors
        .flat_map(|selector| &selector.paths)
        .flat_map(PathCondition::paths)
        .collect()
}

/// Whether two hooks do the same at every start.
pub(super) fn are_equal(left: &Hook, right: &Hook) -> bool {
    let both = [left.clone(), right.clone()];
    let paths = named_paths(&both);
    [Start::Init, Start::ExecSession].into_iter().all(|start| {
        let same = |path| left.outcome(path, start) == right.outcome(path, start);
        same(None) && paths.iter().all(|path| same(Some(path)))
    })
}

/// What all hooks together come to: a start that one of them refuses is refused.
///
/// # Errors
/// Why it cannot be said by a list of what may start.
pub(super) fn decide(hooks: &[Hook], because: &[String]) -> Result<Decided, Undecided> {
    let outcome = |path: Option<&FilePath>, start| {
        hooks
            .iter()
            .map(|hook| hook.outcome(path, start))
            .max()
            .unwrap_or(Outcome::Run)
    };
    let of = |path| [outcome(path, Start::Init), outcome(path, Start::ExecSession)];
    let others = of(None);
    let named: Vec<(&FilePath, [Outcome; 2])> = named_paths(hooks)
        .into_iter()
        .map(|path| (path, of(Some(path))))
        .collect();
    let all: BTreeSet<Outcome> = named.iter().flat_map(|(_, outcomes)| *outcomes).chain(others).collect();
    // Where something is refused, Post is logging; where nothing is, Post is what monitor does.
    let (least_refusal, mode) = match (all.contains(&Outcome::Kill), all.contains(&Outcome::Deny)) {
        (true, true) => return Err(Undecided::TwoModes),
        (true, false) => (Outcome::Deny, Mode::Enforce),
        (false, true) => (Outcome::Deny, Mode::Deny),
        (false, false) if all.contains(&Outcome::Post) => (Outcome::Post, Mode::Monitor),
        (false, false) => return Err(Undecided::Nothing),
    };
    let is_allowed = |outcome: Outcome| outcome < least_refusal;
    match others.map(is_allowed) {
        [false, false] => {}
        [true, true] => {
            let refuses = named
                .iter()
                .any(|(_, outcomes)| !outcomes.iter().copied().all(is_allowed));
            return Err(if refuses {
                Undecided::DenylistAlone
            } else {
                Undecided::Nothing
            });
        }
        _ => return Err(Undecided::OpenFromOneSide),
    }
    let entries = named.iter().filter_map(|(path, outcomes)| {
        let from = match outcomes.map(is_allowed) {
            [true, true] => Origin::Any,
            [true, false] => Origin::Init,
            [false, true] => Origin::ExecSession,
            [false, false] => return None,
        };
        Some(entry(path, from, because))
    });
    Ok(Decided {
        entries: entries.collect(),
        mode,
        posts_allowed: mode != Mode::Monitor && all.contains(&Outcome::Post),
    })
}

/// Tetragon's lists know no roles: what is listed may be the command, a script's interpreter, or a loader.
fn entry(path: &FilePath, from: Origin, because: &[String]) -> Entry {
    Entry {
        path: path.clone(),
        sha256: None,
        real_path: None,
        size_bytes: None,
        kind: None,
        roles: vec![Role::Target, Role::ScriptInterpreter, Role::ElfInterpreter],
        from,
        applets: Vec::new(),
        because: because.to_vec(),
    }
}

#[cfg(test)]
mod tests;
