//! What changed from one list to the next.

use std::{collections::BTreeMap, fmt};

use lattice_policy::{Entry, FilePath, Origin, Role};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the new list has it.
    Added(Entry),
    /// Only the old list has it.
    Removed(Entry),
    /// Both have it, with another content or other rights.
    Changed {
        /// As the old list has it.
        old: Entry,
        /// As the new list has it.
        new: Entry,
        /// What differs, in words.
        what: Vec<String>,
    },
}

/// The differences, in path order. Reasons (`because`) that differ are no difference.
pub fn diff(old: &[Entry], new: &[Entry]) -> Vec<Change> {
    let mut old = by_place(old);
    let new = by_place(new);
    let mut found: Vec<(FilePath, Change)> = Vec::new();
    for (place, new) in new {
        let path = place.0.clone();
        match old.remove(&place) {
            None => found.push((path, Change::Added(new.clone()))),
            Some(old) => {
                let what = differences(old, new);
                if !what.is_empty() {
                    found.push((
                        path,
                        Change::Changed {
                            old: old.clone(),
                            new: new.clone(),
                            what,
                        },
                    ));
                }
            }
        }
    }
    found.extend(
        old.into_iter()
            .map(|(place, entry)| (place.0, Change::Removed(entry.clone()))),
    );
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found.into_iter().map(|(_, change)| change).collect()
}

/// Path, origin, and which of several entries with both.
type EntryPlace = (FilePath, Origin, usize);

fn by_place(entries: &[Entry]) -> BTreeMap<EntryPlace, &Entry> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|one, other| (&one.path, one.from, &one.roles).cmp(&(&other.path, other.from, &other.roles)));
    let mut places = BTreeMap::new();
    for entry in sorted {
        let mut place = (entry.path.clone(), entry.from, 0);
        while places.contains_key(&place) {
            place.2 += 1;
        }
        places.insert(place, entry);
    }
    places
}

fn differences(old: &Entry, new: &Entry) -> Vec<String> {
    let mut what = Vec::new();
    let digest = |entry: &Entry| {
        entry
            .sha256
            .map_or_else(|| "none".to_owned(), |digest| digest.to_string())
    };
    if old.sha256 != new.sha256 {
        what.push(format!("sha256 {} -> {}", digest(old), digest(new)));
    }
    if old.real_path != new.real_path {
        let path = |entry: &Entry| {
            entry
                .real_path
                .as_ref()
                .map_or_else(|| "none".to_owned(), FilePath::to_string)
        };
        what.push(format!("realPath {} -> {}", path(old), path(new)));
    }
    if old.roles != new.roles {
        what.push(format!("roles {} -> {}", roles(&old.roles), roles(&new.roles)));
    }
    if old.applets != new.applets {
        what.push(format!(
            "applets {} -> {}",
            old.applets.join(","),
            new.applets.join(",")
        ));
    }
    if old.kind != new.kind {
        what.push("kind".into());
    }
    what
}

fn roles(roles: &[Role]) -> String {
    let name = |role: &Role| match role {
        Role::Target => "target",
        Role::ScriptInterpreter => "script-interpreter",
        Role::ElfInterpreter => "elf-interpreter",
    };
    roles.iter().map(name).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(entry) => write!(formatter, "+ {} ({})", entry.path, entry.because.join("; ")),
            Self::Removed(entry) => {
                write!(
                    formatter,
                    "- {} (no longer: {})",
                    entry.path,
                    entry.because.first().map_or("", String::as_str)
                )
            }
            Self::Changed { new, what, .. } => write!(formatter, "~ {} ({})", new.path, what.join("; ")),
        }
    }
}
