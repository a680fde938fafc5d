//! From a policy to what the kernel looks up: pure.

use std::collections::{BTreeMap, BTreeSet};

use lattice_common::{
    abi::{self, AppletKey, DigestWords, EntryRule, PathKey, digest_words, policy_flag},
    verdict,
};
use lattice_policy::{CodeLoading, ExecPolicy, FailAction, FileKind, FilePath, Mode, Origin, Role};
use sha2::{Digest as _, Sha256};

use crate::inodes::path_digest;

/// Most entries that one policy may have.
pub const MAX_ENTRIES: usize = 4096;

/// Why a policy cannot be given to the kernel. Nothing of it is loaded then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More entries than a set may have.
    #[error(
        "policy {policy} has {entries} entries; at most {MAX_ENTRIES} are supported: split the service or use scope image"
    )]
    TooManyEntries {
        /// namespace/name.
        policy: String,
        /// How many it has.
        entries: usize,
    },
    /// A path entry's path does not fit the kernel's key.
    #[error(
        "policy {policy}, entry {path}: a path entry's path may have at most {} bytes; give the file's sha256 instead",
        abi::PATH_KEY_BYTES - 1
    )]
    PathTooLong {
        /// namespace/name.
        policy: String,
        /// The path.
        path: FilePath,
    },
    /// Applets of a file that may have any content.
    #[error(
        "policy {policy}, entry {path}: an entry with applets needs the file's sha256; give it, or remove the applets"
    )]
    AppletsOfPath {
        /// namespace/name.
        policy: String,
        /// The path.
        path: FilePath,
    },
    /// An applet's name does not fit the kernel's key.
    #[error(
        "policy {policy}, entry {path}: the applet {applet:?} has a name of more than {} bytes; no such program is known to have one",
        abi::APPLET_NAME_BYTES - 1
    )]
    AppletTooLong {
        /// namespace/name.
        policy: String,
        /// The path.
        path: FilePath,
        /// The applet's name.
        applet: String,
    },
}

/// The entries of a policy, as the kernel looks them up. Equal sets are loaded once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntrySet {
    /// Rules by digest.
    pub digests: BTreeMap<DigestWords, EntryRule>,
    /// Sizes that the digests' files have.
    pub sizes_bytes: BTreeSet<u64>,
    /// Rules by path.
    pub paths: BTreeMap<Vec<u8>, EntryRule>,
    /// Rules by the number of a digest's rule and the name that its program is called by.
    pub applets: BTreeMap<(u32, Vec<u8>), EntryRule>,
}

impl EntrySet {
    /// A digest of the whole set, by which equal ones are found.
    pub fn identity(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let rule = |rule: &EntryRule| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&rule.origins.to_le_bytes());
            bytes[4..].copy_from_slice(&rule.entry.to_le_bytes());
            bytes
        };
        for (digest, value) in &self.digests {
            hasher.update([1]);
            hasher.update(abi::digest_bytes(digest));
            hasher.update(rule(value));
        }
        for size_bytes in &self.sizes_bytes {
            hasher.update([2]);
            hasher.update(size_bytes.to_le_bytes());
        }
        for (path, value) in &self.paths {
            hasher.update([3]);
            hasher.update((path.len() as u64).to_le_bytes());
            hasher.update(path);
            hasher.update(rule(value));
        }
        for ((entry, name), value) in &self.applets {
            hasher.update([4]);
            hasher.update(entry.to_le_bytes());
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update(rule(value));
        }
        hasher.finalize().into()
    }
}

/// A policy, ready for the kernel but for its set number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Its entries.
    pub set: EntrySet,
    /// Its value, with `set` 0.
    pub policy: abi::Policy,
}

/// The kernel's word for a mode.
pub fn mode(mode: Mode) -> verdict::Mode {
    match mode {
        Mode::Monitor => verdict::Mode::MONITOR,
        Mode::Enforce => verdict::Mode::ENFORCE,
        Mode::Deny => verdict::Mode::DENY,
    }
}

/// The kernel's word for a failure's meaning.
pub fn fail_action(action: FailAction) -> verdict::FailAction {
    match action {
        FailAction::Open => verdict::FailAction::OPEN,
        FailAction::Closed => verdict::FailAction::CLOSED,
        FailAction::Kill => verdict::FailAction::KILL,
    }
}

fn role(role: Role) -> verdict::Role {
    match role {
        Role::Target => verdict::Role::TARGET,
        Role::ScriptInterpreter => verdict::Role::SCRIPT_INTERPRETER,
        Role::ElfInterpreter => verdict::Role::ELF_INTERPRETER,
    }
}

fn origins(from: Origin) -> u32 {
    match from {
        Origin::Any => EntryRule::ANY_ORIGIN,
        Origin::Init => verdict::Origin::INIT.0,
        Origin::ExecSession => verdict::Origin::EXEC_SESSION.0,
    }
}

fn map_act(loading: CodeLoading) -> verdict::Act {
    match loading {
        CodeLoading::Off => verdict::Act::MAP_OFF,
        CodeLoading::Note => verdict::Act::MAP_NOTE,
        CodeLoading::Image => verdict::Act::MAP_IMAGE,
        CodeLoading::Listed => verdict::Act::MAP_LISTED,
    }
}

/// Compiles a policy.
///
/// # Errors
/// When it has too many entries, a path or an applet that does not fit, or applets of a path entry.
pub fn compile(policy: &ExecPolicy) -> Result<Compiled, CompileError> {
    let name = || format!("{}/{}", policy.namespace, policy.name);
    if policy.entries.len() + policy.map.len() > MAX_ENTRIES {
        return Err(CompileError::TooManyEntries {
            policy: name(),
            entries: policy.entries.len() + policy.map.len(),
        });
    }
    let mut set = EntrySet::default();
    let mut flags = 0;
    for (number, entry) in (0u32..).zip(&policy.entries) {
        let by_name = entry.kind == Some(FileKind::Multicall) && !entry.applets.is_empty();
        if by_name && entry.sha256.is_none() {
            return Err(CompileError::AppletsOfPath {
                policy: name(),
                path: entry.path.clone(),
            });
        }
        let rule = match entry.sha256 {
            Some(digest) => {
                match entry.size_bytes {
                    Some(size_bytes) => {
                        set.sizes_bytes.insert(size_bytes);
                    }
                    None => flags |= policy_flag::ANY_SIZE,
                }
                set.digests.entry(digest_words(&digest.0))
            }
            None => {
                flags |= policy_flag::PATHS;
                let path = entry.path.as_bytes();
                if PathKey::new(0, path).is_none() {
                    return Err(CompileError::PathTooLong {
                        policy: name(),
                        path: entry.path.clone(),
                    });
                }
                let rule = set.paths.entry(path.to_vec()).or_insert(EntryRule {
                    origins: 0,
                    entry: number,
                });
                *rule = with_roles(*rule, entry);
                // Tier 2 meets the entry's file by its inode, under this value.
                set.digests.entry(digest_words(&path_digest(path)))
            }
        }
        .or_insert(EntryRule {
            origins: 0,
            entry: number,
        });
        if by_name {
            *rule = entry
                .roles
                .iter()
                .fold(*rule, |rule, &listed| rule.with_names(role(listed)));
            let number = rule.entry;
            for applet in &entry.applets {
                if AppletKey::new(0, 0, applet.as_bytes()).is_none() {
                    return Err(CompileError::AppletTooLong {
                        policy: name(),
                        path: entry.path.clone(),
                        applet: applet.clone(),
                    });
                }
                let rule = set
                    .applets
                    .entry((number, applet.clone().into_bytes()))
                    .or_insert(EntryRule {
                        origins: 0,
                        entry: number,
                    });
                *rule = with_roles(*rule, entry);
            }
        } else {
            *rule = with_roles(*rule, entry);
        }
    }
    for (number, rule) in (policy.entries.len() as u32..).zip(&policy.map) {
        let empty = EntryRule {
            origins: 0,
            entry: number,
        };
        let place = match (&rule.sha256, &rule.path) {
            (Some(digest), _) => set.digests.entry(digest_words(&digest.0)),
            (None, Some(path)) => {
                flags |= policy_flag::PATHS;
                if PathKey::new(0, path.as_bytes()).is_none() {
                    return Err(CompileError::PathTooLong {
                        policy: name(),
                        path: path.clone(),
                    });
                }
                let rule = set.paths.entry(path.as_bytes().to_vec()).or_insert(empty);
                *rule = rule.with(verdict::Role::MAPPING, EntryRule::ANY_ORIGIN);
                continue;
            }
            // A rule that names nothing allows nothing.
            (None, None) => continue,
        };
        let listed = place.or_insert(empty);
        *listed = listed.with(verdict::Role::MAPPING, EntryRule::ANY_ORIGIN);
    }
    let flags = policy_flag::with_map_act(flags, map_act(policy.code_loading));
    Ok(Compiled {
        set,
        policy: abi::Policy {
            set: abi::NO_SET,
            mode: mode(policy.mode).0,
            unresolved: fail_action(policy.fail.unresolved).0,
            flags,
            generation: policy.generation,
        },
    })
}

fn with_roles(rule: EntryRule, entry: &lattice_policy::Entry) -> EntryRule {
    entry
        .roles
        .iter()
        .fold(rule, |rule, &listed| rule.with(role(listed), origins(entry.from)))
}

#[cfg(test)]
mod tests {
    use lattice_policy::{CodeLoading, Entry, FailSemantics, FileDigest, Scope, Target};

    use super::*;

    fn entry(path: &str, digest: Option<u8>, roles: &[Role], from: Origin) -> Entry {
        Entry {
            path: path.into(),
            sha256: digest.map(|byte| FileDigest([byte; 32])),
            real_path: None,
            size_bytes: Some(10),
            kind: None,
            roles: roles.to_vec(),
            from,
            applets: Vec::new(),
            because: Vec::new(),
        }
    }

    fn policy(entries: Vec<Entry>) -> ExecPolicy {
        ExecPolicy {
            namespace: "payments".into(),
            name: "api".into(),
            target: Target::default(),
            mode: Mode::Enforce,
            fail: FailSemantics::default(),
            code_loading: CodeLoading::Image,
            scope: Scope::Declared,
            generation: 3,
            entries,
            map: Vec::new(),
        }
    }

    #[test]
    fn two_entries_for_one_digest_keep_role_and_origin_together() {
        let compiled = compile(&policy(vec![
            entry("/bin/sh", Some(1), &[Role::ScriptInterpreter], Origin::Any),
            entry("/bin/sh", Some(1), &[Role::Target], Origin::ExecSession),
        ]))
        .unwrap();
        let rule = compiled.set.digests[&digest_words(&[1; 32])];
        assert_eq!(rule.origins_for(verdict::Role::TARGET), verdict::Origin::EXEC_SESSION.0);
        assert_eq!(
            rule.origins_for(verdict::Role::SCRIPT_INTERPRETER),
            EntryRule::ANY_ORIGIN
        );
    }

    #[test]
    fn an_entry_without_size_makes_every_size_be_hashed() {
        let without = Entry {
            size_bytes: None,
            ..entry("/a", Some(1), &[Role::Target], Origin::Any)
        };
        assert_eq!(
            compile(&policy(vec![without])).unwrap().policy.flags & 0xff,
            policy_flag::ANY_SIZE
        );
    }

    #[test]
    fn a_path_entry_is_looked_up_by_path() {
        let compiled = compile(&policy(vec![entry("/opt/tool", None, &[Role::Target], Origin::Any)])).unwrap();
        assert_eq!(compiled.policy.flags & 0xff, policy_flag::PATHS);
        assert!(compiled.set.paths.contains_key(b"/opt/tool".as_slice()));
        let long = entry(&format!("/{}", "a".repeat(300)), None, &[Role::Target], Origin::Any);
        assert!(matches!(
            compile(&policy(vec![long])),
            Err(CompileError::PathTooLong { .. })
        ));
    }

    #[test]
    fn what_may_be_mapped_may_not_start() {
        let mut source = policy(vec![entry("/a", Some(1), &[Role::Target], Origin::Init)]);
        source.code_loading = CodeLoading::Listed;
        source.map = vec![
            lattice_policy::MapRule {
                path: None,
                sha256: Some(FileDigest([1; 32])),
            },
            lattice_policy::MapRule {
                path: Some("/usr/lib/plugin.so".into()),
                sha256: None,
            },
        ];
        let compiled = compile(&source).unwrap();
        assert_eq!(policy_flag::map_act(compiled.policy.flags), verdict::Act::MAP_LISTED);
        let both = compiled.set.digests[&digest_words(&[1; 32])];
        assert_eq!(both.origins_for(verdict::Role::TARGET), verdict::Origin::INIT.0);
        assert_eq!(both.origins_for(verdict::Role::MAPPING), EntryRule::ANY_ORIGIN);
        let plugin = compiled.set.paths[b"/usr/lib/plugin.so".as_slice()];
        assert_eq!(plugin.origins_for(verdict::Role::TARGET), 0);
        assert_eq!(plugin.entry, 2);
    }

    fn busybox(applets: &[&str], from: Origin) -> Entry {
        Entry {
            kind: Some(FileKind::Multicall),
            applets: applets.iter().map(|&name| name.to_owned()).collect(),
            ..entry("/bin/busybox", Some(1), &[Role::Target], from)
        }
    }

    #[test]
    fn applets_have_rules_of_their_own() {
        let other = entry("/a", Some(2), &[Role::Target], Origin::Any);
        let entries = vec![
            other,
            busybox(&["sh", "wget"], Origin::Any),
            busybox(&["wget", "nc"], Origin::Init),
        ];
        let compiled = compile(&policy(entries)).unwrap();
        let rule = compiled.set.digests[&digest_words(&[1; 32])];
        assert_eq!((rule.origins_for(verdict::Role::TARGET), rule.entry), (0, 1));
        assert!(rule.is_by_name(verdict::Role::TARGET));
        assert!(!rule.is_by_name(verdict::Role::SCRIPT_INTERPRETER));
        let of = |name: &str| compiled.set.applets[&(1, name.into())].origins_for(verdict::Role::TARGET);
        assert_eq!(of("sh"), EntryRule::ANY_ORIGIN);
        assert_eq!(of("wget"), EntryRule::ANY_ORIGIN);
        assert_eq!(of("nc"), verdict::Origin::INIT.0);
        assert_eq!(compiled.set.applets.len(), 3);
    }

    #[test]
    fn applets_change_the_set() {
        let identity = |applets: &[&str]| {
            compile(&policy(vec![busybox(applets, Origin::Any)]))
                .unwrap()
                .set
                .identity()
        };
        assert_ne!(identity(&["sh"]), identity(&["ash"]));
        assert_eq!(identity(&["sh", "ash"]), identity(&["ash", "sh"]));
    }

    #[test]
    fn without_applets_every_name_is_allowed() {
        let compiled = compile(&policy(vec![busybox(&[], Origin::Any)])).unwrap();
        let rule = compiled.set.digests[&digest_words(&[1; 32])];
        assert_eq!(rule.origins_for(verdict::Role::TARGET), EntryRule::ANY_ORIGIN);
        assert!(!rule.is_by_name(verdict::Role::TARGET));
    }

    #[test]
    fn applets_that_cannot_be_told_apart_are_refused() {
        let mut by_path = busybox(&["sh"], Origin::Any);
        by_path.sha256 = None;
        assert!(matches!(
            compile(&policy(vec![by_path])),
            Err(CompileError::AppletsOfPath { .. })
        ));
        let long = "a".repeat(abi::APPLET_NAME_BYTES);
        assert!(matches!(
            compile(&policy(vec![busybox(&[&long], Origin::Any)])),
            Err(CompileError::AppletTooLong { .. })
        ));
    }

    #[test]
    fn equal_sets_have_one_identity() {
        let one = compile(&policy(vec![entry("/a", Some(1), &[Role::Target], Origin::Any)])).unwrap();
        let mut other = policy(vec![entry("/a", Some(1), &[Role::Target], Origin::Any)]);
        other.generation = 9;
        assert_eq!(one.set.identity(), compile(&other).unwrap().set.identity());
        let changed = compile(&policy(vec![entry("/a", Some(1), &[Role::Target], Origin::Init)])).unwrap();
        assert_ne!(one.set.identity(), changed.set.identity());
    }
}
