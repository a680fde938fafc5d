//! From reasons to entries: one entry a file, unless that would allow more than the reasons do.
//!
//! A file that the entrypoint's closure needs as `#!` interpreter and a probe needs as target stays two entries: one
//! entry with both roles and `from: any` would let the application start the shell.

use std::collections::{BTreeMap, BTreeSet};

use lattice_policy::{Entry, FileKind, Origin, Role};

use crate::{
    image::DiffId,
    layer::FileContent,
    path,
    tree::{FileId, ImageTree},
    walk::{Use, is_own_name},
};

/// Causes that one entry names at most; the others are counted.
const CAUSES_MAX: usize = 8;
/// Hard links with so many names tell one program of many applets.
const MULTICALL_LINKS: usize = 3;

/// What is known of an entry's file beyond the entry itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEvidence {
    /// The layer that has the content.
    pub layer: DiffId,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Has file capabilities.
    pub capabilities: bool,
    /// One chain a cause, from the cause to the file.
    pub causes: Vec<Vec<String>>,
}

/// How one file may start from one origin.
type Rights = BTreeMap<Role, BTreeSet<String>>;

/// The entries for `uses`, in path order, each with its evidence.
pub(crate) fn entries(tree: &ImageTree, uses: &[Use]) -> Vec<(Entry, EntryEvidence)> {
    let mut files: BTreeMap<FileId, Vec<&Use>> = BTreeMap::new();
    for one in uses {
        files.entry(one.file).or_default().push(one);
    }
    let mut found = Vec::new();
    for uses in files.into_values() {
        file_entries(tree, &uses, &mut found);
    }
    found.sort_by(|(one, _), (other, _)| {
        (&one.path, &one.real_path, one.from, &one.roles).cmp(&(
            &other.path,
            &other.real_path,
            other.from,
            &other.roles,
        ))
    });
    found
}

fn file_entries(tree: &ImageTree, uses: &[&Use], found: &mut Vec<(Entry, EntryEvidence)>) {
    let multicall = is_multicall(tree, uses[0].file);
    let applet = |one: &Use| match multicall {
        true => String::from_utf8_lossy(path::base_name(one.path.as_bytes())).into_owned(),
        false => String::new(),
    };
    let rights = |from: Origin| {
        let mut rights = Rights::new();
        for one in uses.iter().filter(|one| one.from == from) {
            rights.entry(one.role).or_default().insert(applet(one));
        }
        rights
    };
    let any = rights(Origin::Any);
    for from in [Origin::Any, Origin::Init, Origin::ExecSession] {
        let mut rights = if from == Origin::Any { any.clone() } else { rights(from) };
        if from != Origin::Any {
            // What may start from anywhere needs no second entry.
            for (role, applets) in &mut rights {
                applets.retain(|applet| !any.get(role).is_some_and(|known| known.contains(applet)));
            }
            rights.retain(|_, applets| !applets.is_empty());
        }
        let mut by_applets: BTreeMap<BTreeSet<String>, Vec<Role>> = BTreeMap::new();
        for (role, applets) in rights {
            by_applets.entry(applets).or_default().push(role);
        }
        for (applets, roles) in by_applets {
            let causes = uses
                .iter()
                .filter(|one| one.from == from && roles.contains(&one.role) && applets.contains(&applet(one)))
                .copied()
                .collect::<Vec<_>>();
            found.push(entry(tree, &causes, multicall, applets, roles, from));
        }
    }
}

fn entry(
    tree: &ImageTree,
    causes: &[&Use],
    multicall: bool,
    applets: BTreeSet<String>,
    roles: Vec<Role>,
    from: Origin,
) -> (Entry, EntryEvidence) {
    let first = causes[0];
    let facts = tree.facts(first.file);
    let layer = tree.layer_of(first.file);
    let mut chains: Vec<Vec<String>> = Vec::new();
    for cause in causes {
        if !chains.contains(&cause.chain) {
            chains.push(cause.chain.clone());
        }
    }
    let kind = match &facts.content {
        _ if multicall => FileKind::Multicall,
        FileContent::Elf { .. } => FileKind::Elf,
        FileContent::Script(_) | FileContent::Other(_) => FileKind::Script,
    };
    let mut because = Vec::new();
    for (number, chain) in chains.iter().take(CAUSES_MAX).enumerate() {
        let mut steps = chain.iter().cloned();
        match steps.next() {
            Some(step) if number > 0 => because.push(format!("also: {step}")),
            step => because.extend(step),
        }
        because.extend(steps);
    }
    if chains.len() > CAUSES_MAX {
        because.push(format!("and {} causes more", chains.len() - CAUSES_MAX));
    }
    because.push(format!("layer {layer}"));
    if facts.mode & 0o6000 != 0 {
        because.push(format!("note: setuid or setgid (mode {:04o})", facts.mode));
    }
    if facts.capabilities {
        because.push("note: has file capabilities".into());
    }
    let entry = Entry {
        path: first.path.clone(),
        sha256: Some(facts.sha256),
        real_path: Some(first.real_path.clone()),
        size_bytes: Some(facts.size_bytes),
        kind: Some(kind),
        roles,
        from,
        applets: if multicall {
            applets.into_iter().collect()
        } else {
            Vec::new()
        },
        because,
    };
    let evidence = EntryEvidence {
        layer,
        mode: facts.mode,
        capabilities: facts.capabilities,
        causes: chains,
    };
    (entry, evidence)
}

/// By its content, by its name, or by many names of different meaning for one file.
pub(crate) fn is_multicall(tree: &ImageTree, file: FileId) -> bool {
    let facts = tree.facts(file);
    if !matches!(facts.content, FileContent::Elf { .. }) {
        return false;
    }
    let names: BTreeSet<&[u8]> = tree
        .names(file)
        .iter()
        .map(|path| path::base_name(path.as_bytes()))
        .collect();
    facts.multicall || names.len() >= MULTICALL_LINKS || names.iter().any(|name| is_own_name(name))
}
