//! Misses: what started, or tried to, and no list names. Each is reviewed: listed by the policy, or dismissed with a reason.

use std::collections::BTreeMap;

use lattice_policy::{ExecPolicy, Origin};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    evidence::ViolationFacts,
    state::{Decided, UnixNanos},
};

/// Different misses of one track that are kept; more are counted.
pub const MISSES_MAXIMUM: usize = 1_000;
/// Digits of an identifier.
const ID_DIGITS: usize = 12;

/// The misses of a track, by identifier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Misses {
    /// Those that are kept.
    pub kept: BTreeMap<String, Miss>,
    /// How many had no room since one was dismissed.
    pub left_out: u64,
}

/// One program that no list names, of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Miss {
    /// The policy.
    pub policy: String,
    /// The program.
    pub path: String,
    /// Its content; empty where it was not had.
    pub sha256: String,
    /// Its size.
    pub size_bytes: u64,
    /// As what it was to start.
    pub role: String,
    /// From where, the last time.
    pub origin: String,
    /// Why it was not allowed, the last time.
    pub reason: String,
    /// What became of the image.
    pub drift: String,
    /// How often.
    pub count: u64,
    /// Whether it was ever refused, and not only noted.
    pub was_refused: bool,
    /// The first time.
    pub first: UnixNanos,
    /// The last time.
    pub last: UnixNanos,
    /// Whether somebody has looked at it.
    pub review: Review,
}

/// What came of a miss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Review {
    /// Nobody has looked at it.
    Open,
    /// The policy lists it now.
    Listed,
    /// It is not to be listed.
    Dismissed(Decided),
}

impl Misses {
    /// Takes one that happened; whether it is open, so that quiet begins anew.
    pub fn take(&mut self, violation: &ViolationFacts, now: UnixNanos) -> bool {
        let id = id([&violation.policy, &violation.path, &violation.sha256, &violation.role]);
        if let Some(miss) = self.kept.get_mut(&id) {
            miss.count += violation.count;
            miss.was_refused |= violation.is_refused;
            miss.last = now;
            miss.origin.clone_from(&violation.origin);
            miss.reason.clone_from(&violation.reason);
            if miss.review == Review::Listed {
                miss.review = Review::Open;
            }
            return miss.review == Review::Open;
        }
        if self.kept.len() >= MISSES_MAXIMUM {
            // What was listed is over, and makes room.
            let over = self.kept.iter().find(|(_, miss)| miss.review == Review::Listed);
            match over.map(|(id, _)| id.clone()) {
                Some(over) => drop(self.kept.remove(&over)),
                None => {
                    self.left_out += violation.count;
                    return true;
                }
            }
        }
        let miss = Miss {
            policy: violation.policy.clone(),
            path: violation.path.clone(),
            sha256: violation.sha256.clone(),
            size_bytes: violation.size_bytes,
            role: violation.role.clone(),
            origin: violation.origin.clone(),
            reason: violation.reason.clone(),
            drift: violation.drift.clone(),
            count: violation.count,
            was_refused: violation.is_refused,
            first: now,
            last: now,
            review: Review::Open,
        };
        self.kept.insert(id, miss);
        true
    }

    /// Those that nobody has looked at.
    pub fn open(&self) -> usize {
        let open = self.kept.values().filter(|miss| miss.review == Review::Open);
        open.count() + usize::from(self.left_out > 0)
    }

    /// Notes which of them a policy lists now.
    pub fn settle(&mut self, policy: &ExecPolicy) {
        let open = self.kept.values_mut().filter(|miss| miss.review == Review::Open);
        for miss in open.filter(|miss| miss.policy == policy.name) {
            if lists(policy, miss) {
                miss.review = Review::Listed;
            }
        }
    }

    /// Dismisses one; whether there was such a one.
    pub fn dismiss(&mut self, id: &str, why: &Decided) -> bool {
        let Some(miss) = self.kept.get_mut(id) else {
            return false;
        };
        miss.review = Review::Dismissed(why.clone());
        self.left_out = 0;
        true
    }
}

impl Miss {
    /// What it is called by.
    pub(super) fn id(&self) -> String {
        id([&self.policy, &self.path, &self.sha256, &self.role])
    }
}

/// Identifies a miss: policy, path, content and role.
fn id(parts: [&String; 4]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut digits = hex::encode(hash.finalize());
    digits.truncate(ID_DIGITS);
    digits
}

/// A program as an event tells of it, for asking whether a policy lists it.
pub(super) struct Program<'a> {
    pub(super) path: &'a str,
    /// Empty where it was not had, or does not count.
    pub(super) sha256: &'a str,
    /// `None` where it does not count.
    pub(super) size_bytes: Option<u64>,
    pub(super) role: &'a str,
    pub(super) origin: &'a str,
    pub(super) reason: &'a str,
}

/// Whether a policy allows it now.
fn lists(policy: &ExecPolicy, miss: &Miss) -> bool {
    let program = Program {
        path: &miss.path,
        sha256: &miss.sha256,
        size_bytes: Some(miss.size_bytes),
        role: &miss.role,
        origin: &miss.origin,
        reason: &miss.reason,
    };
    allows(policy, &program)
}

/// Whether a policy allows a program. Where its content was not had, its path and size speak for it.
pub(super) fn allows(policy: &ExecPolicy, program: &Program<'_>) -> bool {
    policy.entries.iter().any(|entry| {
        let is_at = |path: &str| {
            let real = entry.real_path.as_ref().map(|real| real.as_bytes());
            entry.path.as_bytes() == path.as_bytes() || real == Some(path.as_bytes())
        };
        let has_size = |size| program.size_bytes.is_none_or(|of_program| size == of_program);
        let is_it = match entry.sha256 {
            Some(digest) if !program.sha256.is_empty() => digest.to_string() == program.sha256,
            Some(_) => is_at(program.path) && entry.size_bytes.is_none_or(has_size),
            None => is_at(program.path),
        };
        let role_fits = entry.roles.iter().any(|role| role.word() == program.role);
        // Applets are told apart by a name that an event does not have.
        let name_fits = program.reason != "applet";
        is_it && role_fits && name_fits && (entry.from == Origin::Any || entry.from.word() == program.origin)
    })
}
