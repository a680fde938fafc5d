//! Policies from files: `--policies DIR`, read at start and again whenever a file changes. They are ExecPolicy documents, or written
//! for Tetragon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use lattice_policy::{ExecPolicy, document::MAX_FILE_BYTES, policy_file::conflict, read_policies};

/// File name extensions that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A folder's policies, each file at its last good state.
#[derive(Debug)]
pub struct PolicyFiles {
    folder: PathBuf,
    files: BTreeMap<PathBuf, PolicyFile>,
}

#[derive(Debug)]
struct PolicyFile {
    stamp: Stamp,
    policies: Vec<FilePolicy>,
    is_broken: bool,
    /// Whether what the file holds now is kept out by another file, whose change can let it in.
    is_kept_out: bool,
}

#[derive(Debug, Clone)]
struct FilePolicy {
    policy: Arc<ExecPolicy>,
    /// Whether it was written for Tetragon.
    is_tracing: bool,
}

/// Another one means another content. The time of the inode's change is in it, which nobody can set: a file of the same size and
/// with the old modification time is seen as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what a path leads to, symbolic links followed.
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// What a look at the folder brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whether any policy may differ from before.
    pub is_changed: bool,
    /// What was wrong, a line each with file, line and field.
    pub problems: Vec<String>,
    /// What somebody should know although nothing is wrong, likewise.
    pub notes: Vec<String>,
}

impl PolicyFiles {
    /// Of a folder; nothing is read yet.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            files: BTreeMap::new(),
        }
    }

    /// Reads what changed. A file that cannot be understood keeps its last good state.
    ///
    /// # Errors
    /// When the folder cannot be listed; what was read before stays.
    pub fn refresh(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path
                .extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|found| EXTENSIONS.contains(&found))
            {
                present.insert(path);
            }
        }
        let before = self.files.len();
        self.files.retain(|path, _| present.contains(path));
        changes.is_changed |= self.files.len() != before;
        let kept_out: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(_, file)| file.is_kept_out)
            .map(|(path, _)| path.clone())
            .collect();
        // In the order of names: of two files that cannot hold beside each other the first one does.
        for path in present {
            self.refresh_file(&path, false, &mut changes);
        }
        if changes.is_changed {
            for path in kept_out {
                self.refresh_file(&path, true, &mut changes);
            }
        }
        Ok(changes)
    }

    fn refresh_file(&mut self, path: &Path, again: bool, changes: &mut Changes) {
        let stamp = match Stamp::of(path) {
            Ok(stamp) => stamp,
            Err(error) => {
                changes.problems.push(format!(
                    "{}: cannot be read: {error}; its last good state stays in force",
                    path.display()
                ));
                return;
            }
        };
        if self
            .files
            .get(path)
            .is_some_and(|file| file.stamp == stamp && !(again && file.is_kept_out))
        {
            return;
        }
        let last_good = self
            .files
            .get(path)
            .map(|file| file.policies.clone())
            .unwrap_or_default();
        let before = changes.problems.len();
        let mut is_kept_out = false;
        let policies = match read_capped(path) {
            Ok(bytes) => match read_policies(&path.display().to_string(), &bytes) {
                Ok(read) => {
                    let policies: Vec<FilePolicy> = read
                        .documents
                        .into_iter()
                        .map(|document| FilePolicy {
                            policy: Arc::new(document.policy),
                            is_tracing: document.tracing.is_some(),
                        })
                        .collect();
                    match self.conflict(path, &policies) {
                        None => {
                            changes.is_changed = true;
                            changes.notes.extend(read.notes.iter().map(ToString::to_string));
                            policies
                        }
                        Some(conflict) => {
                            is_kept_out = true;
                            changes.problems.push(conflict);
                            last_good
                        }
                    }
                }
                Err(diagnostics) => {
                    changes.problems.extend(diagnostics.iter().map(ToString::to_string));
                    last_good
                }
            },
            Err(error) => {
                changes.problems.push(format!(
                    "{}: cannot be read: {error}; its last good state stays in force",
                    path.display()
                ));
                last_good
            }
        };
        let is_broken = changes.problems.len() > before;
        let file = PolicyFile {
            stamp,
            policies,
            is_broken,
            is_kept_out,
        };
        self.files.insert(path.to_path_buf(), file);
    }

    /// Why the policies of a file cannot hold beside those of the other files.
    fn conflict(&self, path: &Path, policies: &[FilePolicy]) -> Option<String> {
        let others = self.files.iter().filter(|(other, _)| other.as_path() != path);
        for (other, file) in others {
            for found in &file.policies {
                // Two ExecPolicies may be for the same containers, and of one name the last one holds.
                let conflicting = policies
                    .iter()
                    .filter(|listed| listed.is_tracing || found.is_tracing)
                    .find_map(|listed| Some((listed, conflict(&listed.policy, &found.policy, true)?)));
                if let Some((listed, conflict)) = conflicting {
                    let (policy, named) = (&listed.policy, &found.policy);
                    return Some(format!(
                        "{}: policy {}/{} and policy {}/{} of {}: {conflict}. Make one policy of the two, or give them different targets; \
                         the last good state of the file stays in force",
                        path.display(),
                        policy.namespace,
                        policy.name,
                        named.namespace,
                        named.name,
                        other.display()
                    ));
                }
            }
        }
        None
    }

    /// All policies in force.
    pub fn policies(&self) -> Vec<Arc<ExecPolicy>> {
        self.files
            .values()
            .flat_map(|file| file.policies.iter().map(|listed| Arc::clone(&listed.policy)))
            .collect()
    }

    /// Files that cannot be understood as they are now.
    pub fn broken(&self) -> usize {
        self.files.values().filter(|file| file.is_broken).count()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// One byte more than is allowed is enough to know that it is too much.
fn read_capped(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {name: a, namespace: payments}\nspec: {mode: enforce, entries: []}\n";

    #[test]
    fn a_broken_file_keeps_its_last_good_state() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        let mut files = PolicyFiles::new(folder.path().into());
        assert_eq!(
            files.refresh().unwrap(),
            Changes {
                is_changed: true,
                ..Changes::default()
            }
        );
        assert_eq!(files.policies().len(), 1);
        assert_eq!(files.refresh().unwrap(), Changes::default());

        fs::write(&file, GOOD.replace("mode: enforce", "mood: enforce")).unwrap();
        let changes = files.refresh().unwrap();
        assert!(
            changes.problems[0].contains("a.yaml") && changes.problems[0].contains("mood"),
            "{changes:?}"
        );
        assert_eq!((files.policies().len(), files.broken()), (1, 1));

        fs::remove_file(&file).unwrap();
        assert!(files.refresh().unwrap().is_changed);
        assert!(files.policies().is_empty());
    }

    const TRACING: &str = "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicyNamespaced\nmetadata: {name: t, namespace: payments}\nspec:\n  podSelector: {matchLabels: {lattice.dev/workload: shop}}\n  lsmhooks:\n  - hook: bprm_check_security\n    args: [{index: 0, type: linux_binprm}]\n    selectors:\n    - matchArgs: [{index: 0, operator: NotEqual, values: [/app/server]}]\n      matchActions: [{action: Sigkill}]\n";

    #[test]
    fn policies_for_tetragon_lie_beside_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("a.yaml"),
            GOOD.replace("namespace: payments", "namespace: shop"),
        )
        .unwrap();
        fs::write(folder.path().join("t.yaml"), TRACING).unwrap();
        let mut files = PolicyFiles::new(folder.path().into());
        let changes = files.refresh().unwrap();
        assert_eq!(changes.problems, [""; 0]);
        assert!(
            changes.notes[0].contains("t.yaml:5:3: spec: Tetragon does not judge loaders"),
            "{changes:?}"
        );
        let policies = files.policies();
        assert_eq!(policies.len(), 2);
        let tracing = policies.iter().find(|policy| policy.name == "t").unwrap();
        assert_eq!(
            (tracing.mode, tracing.target.workload.as_deref()),
            (lattice_policy::Mode::Enforce, Some("shop"))
        );
        assert!(crate::enforcement::compile::compile(tracing).is_ok());

        fs::write(folder.path().join("t.yaml"), TRACING.replace("NotEqual", "Postfix")).unwrap();
        let changes = files.refresh().unwrap();
        assert!(
            changes.problems[0].contains("t.yaml:10:") && changes.problems[0].contains("whole paths"),
            "{changes:?}"
        );
        assert_eq!(files.policies(), policies);
    }

    #[test]
    fn a_policy_that_would_silently_not_hold_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        // An ExecPolicy for every container of the namespace, and one for Tetragon, more specific.
        fs::write(folder.path().join("a.yaml"), GOOD).unwrap();
        fs::write(folder.path().join("t.yaml"), TRACING).unwrap();
        let mut files = PolicyFiles::new(folder.path().into());
        let changes = files.refresh().unwrap();
        assert!(
            changes.problems[0].contains("both are for the same containers"),
            "{changes:?}"
        );
        assert_eq!(
            files
                .policies()
                .iter()
                .map(|policy| policy.name.as_str())
                .collect::<Vec<_>>(),
            ["a"]
        );
    }

    #[test]
    fn the_reader_knows_what_the_kernel_side_takes() {
        assert_eq!(
            lattice_policy::tracing_policy::MAX_PATH_ENTRY_BYTES,
            lattice_common::abi::PATH_KEY_BYTES - 1
        );
    }
}
