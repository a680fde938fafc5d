//! Policies from files: `--policies DIR`, read at start and again whenever a file changes. They are ExecPolicy documents, or written
//! for Tetragon.

mod kept;
mod neighbours;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use lattice_policy::{
    ExecPolicy,
    document::MAX_FILE_BYTES,
    policy_file::{PolicyDocument, conflict},
    read_policies,
};

use self::{
    kept::{Contents, Kept},
    neighbours::Neighbours,
};
use crate::error_chain::ErrorChain;

/// File name extensions that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A folder's policies, each file at its last good state.
#[derive(Debug)]
pub struct PolicyFiles {
    folder: PathBuf,
    files: BTreeMap<PathBuf, PolicyFile>,
    neighbours: Neighbours,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct PolicyFile {
    /// None where even that could not be had.
    stamp: Option<Stamp>,
    policies: Vec<FilePolicy>,
    is_broken: bool,
    /// Whether it is broken and nobody knows what its last good state was.
    is_unknown: bool,
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
            neighbours: Neighbours::default(),
            kept: None,
        }
    }

    /// Keeps each file's last good content in the state folder, and takes it from there where a file is broken at the first look.
    #[must_use]
    pub fn keeping(mut self, state: &Path) -> Self {
        self.kept = Some(Kept::new(state));
        self
    }

    /// Reads what changed. A file that cannot be understood keeps its last good state.
    ///
    /// # Errors
    /// When the folder cannot be listed; what was read before stays.
    pub fn refresh(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut fresh = Contents::new();
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
        for (path, file) in self.files.extract_if(.., |path, _| !present.contains(path)) {
            self.neighbours.remove(&path, &file.policies);
            changes.is_changed = true;
        }
        let kept_out: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(_, file)| file.is_kept_out)
            .map(|(path, _)| path.clone())
            .collect();
        // In the order of names: of two files that cannot hold beside each other the first one does.
        for path in present {
            self.refresh_file(&path, false, &mut changes, &mut fresh);
        }
        if changes.is_changed {
            for path in kept_out {
                self.refresh_file(&path, true, &mut changes, &mut fresh);
            }
        }
        if changes.is_changed
            && let Err(error) = self.keep(fresh)
        {
            changes.problems.push(format!(
                "the last good state of the policy files could not be kept for the next start: {}",
                ErrorChain(&*error)
            ));
        }
        Ok(changes)
    }

    /// Writes down what every file's last good content is, if that has changed.
    fn keep(&self, mut fresh: Contents) -> Result<(), Box<dyn std::error::Error>> {
        let Some(kept) = &self.kept else { return Ok(()) };
        // What is damaged is replaced.
        let before = kept.load().unwrap_or_default();
        let mut contents = Contents::new();
        for path in self.files.keys() {
            let name = name_of(path);
            let content = fresh.remove(&name).or_else(|| before.get(&name).cloned());
            contents.extend(content.map(|content| (name, content)));
        }
        if contents != before {
            kept.save(contents)?;
        }
        Ok(())
    }

    /// What was kept of a file before this start; None where that is nothing, or of no use.
    fn kept_policies(&self, path: &Path, changes: &mut Changes) -> Option<Vec<FilePolicy>> {
        let contents = self.kept.as_ref()?.load();
        let contents = contents
            .map_err(|error| changes.problems.push(ErrorChain(&error).to_string()))
            .ok()?;
        let read = read_policies(&path.display().to_string(), contents.get(&name_of(path))?).ok()?;
        let policies = file_policies(read.documents);
        self.conflict(path, &policies).is_none().then_some(policies)
    }

    fn refresh_file(&mut self, path: &Path, again: bool, changes: &mut Changes, fresh: &mut Contents) {
        let stamp = Stamp::of(path);
        let stamp_error = stamp.as_ref().err().map(ToString::to_string);
        let stamp = stamp.ok();
        if self
            .files
            .get(path)
            .is_some_and(|file| file.stamp == stamp && !(again && file.is_kept_out))
        {
            return;
        }
        let mut is_kept_out = false;
        let bytes = match stamp_error {
            None => read_capped(path).map_err(|error| error.to_string()),
            Some(error) => Err(error),
        };
        let good = match bytes {
            Ok(bytes) => match read_policies(&path.display().to_string(), &bytes) {
                Ok(read) => {
                    let policies = file_policies(read.documents);
                    match self.conflict(path, &policies) {
                        None => {
                            changes.is_changed = true;
                            changes.notes.extend(read.notes.iter().map(ToString::to_string));
                            fresh.insert(name_of(path), bytes);
                            Some(policies)
                        }
                        Some(conflict) => {
                            is_kept_out = true;
                            changes.problems.push(conflict);
                            None
                        }
                    }
                }
                Err(diagnostics) => {
                    changes.problems.extend(diagnostics.iter().map(ToString::to_string));
                    None
                }
            },
            Err(error) => {
                changes
                    .problems
                    .push(format!("{}: cannot be read: {error}", path.display()));
                None
            }
        };
        let is_broken = good.is_none();
        let last_good = good.or_else(|| match self.files.get(path) {
            Some(file) => (!file.is_unknown).then(|| file.policies.clone()),
            None => {
                let kept = self.kept_policies(path, changes);
                changes.is_changed |= kept.is_some();
                kept
            }
        });
        if is_broken {
            changes.problems.push(format!(
                "{}: {}",
                path.display(),
                if last_good.is_some() {
                    "its last good state stays in force"
                } else {
                    "nothing is known of what it held before; containers that were enforced before this start stay as they were until it is \
                     put right"
                }
            ));
        }
        let file = PolicyFile {
            stamp,
            is_unknown: last_good.is_none(),
            policies: last_good.unwrap_or_default(),
            is_broken,
            is_kept_out,
        };
        if let Some(before) = self.files.get(path) {
            self.neighbours.remove(path, &before.policies);
        }
        self.neighbours.add(path, &file.policies);
        self.files.insert(path.to_path_buf(), file);
    }

    /// Why the policies of a file cannot hold beside those of the other files.
    fn conflict(&self, path: &Path, policies: &[FilePolicy]) -> Option<String> {
        let neighbours = self.neighbours.of(policies).into_iter();
        let others = neighbours.filter_map(|other| self.files.get_key_value(other));
        for (other, file) in others.filter(|(other, _)| other.as_path() != path) {
            for found in &file.policies {
                // Two ExecPolicies may be for the same containers, and of one name the last one holds.
                let conflicting = policies
                    .iter()
                    .filter(|listed| listed.is_tracing || found.is_tracing)
                    .find_map(|listed| Some((listed, conflict(&listed.policy, &found.policy, true)?)));
                if let Some((listed, conflict)) = conflicting {
                    let (policy, named) = (&listed.policy, &found.policy);
                    return Some(format!(
                        "{}: policy {}/{} and policy {}/{} of {}: {conflict}. Make one policy of the two, or give them different targets",
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

    /// Of these, files whose last good state nobody knows.
    pub fn unknown(&self) -> usize {
        self.files.values().filter(|file| file.is_unknown).count()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn name_of(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or_default().as_bytes().to_vec()
}

fn file_policies(documents: Vec<PolicyDocument>) -> Vec<FilePolicy> {
    documents
        .into_iter()
        .map(|document| FilePolicy {
            policy: Arc::new(document.policy),
            is_tracing: document.tracing.is_some(),
        })
        .collect()
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
        assert!(changes.problems[1].contains("its last good state stays in force"));
        assert_eq!((files.policies().len(), files.broken(), files.unknown()), (1, 1, 0));

        fs::remove_file(&file).unwrap();
        assert!(files.refresh().unwrap().is_changed);
        assert!(files.policies().is_empty());
    }

    #[test]
    fn a_file_that_is_broken_at_the_next_start_keeps_its_last_good_state() {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = folder.path().join("a.yaml");
        let start = || {
            let mut files = PolicyFiles::new(folder.path().into()).keeping(state.path());
            let changes = files.refresh().unwrap();
            (files, changes)
        };
        fs::write(&file, GOOD).unwrap();
        let (before, _) = start();
        for broken in ["mood: enforce", "mode: [", "\0"] {
            fs::write(&file, GOOD.replace("mode: enforce", broken)).unwrap();
            // Also where the start after that is the second with it.
            for _ in 0..2 {
                let (files, changes) = start();
                assert!(changes.is_changed, "{changes:?}");
                assert_eq!(files.policies(), before.policies());
                assert_eq!((files.broken(), files.unknown()), (1, 0));
            }
        }
        // A link that leads nowhere.
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("nowhere", &file).unwrap();
        let (mut files, _) = start();
        assert_eq!((files.policies(), files.unknown()), (before.policies(), 0));
        // Said once.
        assert_eq!(files.refresh().unwrap(), Changes::default());
        // What is removed is gone, also if it comes back broken.
        fs::remove_file(&file).unwrap();
        assert!(files.refresh().unwrap().is_changed);
        fs::write(&file, "spec: [").unwrap();
        let (files, _) = start();
        assert_eq!((files.policies().len(), files.broken(), files.unknown()), (0, 1, 1));
    }

    #[test]
    fn what_was_kept_and_is_damaged_makes_a_broken_file_an_unknown_one() {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = folder.path().join("a.yaml");
        fs::write(&file, GOOD).unwrap();
        PolicyFiles::new(folder.path().into())
            .keeping(state.path())
            .refresh()
            .unwrap();
        fs::write(&file, "spec: [").unwrap();
        let kept = fs::read_dir(state.path()).unwrap().next().unwrap().unwrap().path();
        let mut content = fs::read(&kept).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&kept, content).unwrap();
        let mut files = PolicyFiles::new(folder.path().into()).keeping(state.path());
        let changes = files.refresh().unwrap();
        assert!(
            changes.problems.iter().any(|problem| problem.contains("is damaged")),
            "{changes:?}"
        );
        assert_eq!((files.broken(), files.unknown()), (1, 1));
        // Put right, it is known again, and kept again.
        fs::write(&file, GOOD).unwrap();
        files.refresh().unwrap();
        assert_eq!((files.policies().len(), files.broken(), files.unknown()), (1, 0, 0));
        fs::write(&file, "spec: [").unwrap();
        let mut files = PolicyFiles::new(folder.path().into()).keeping(state.path());
        files.refresh().unwrap();
        assert_eq!((files.policies().len(), files.unknown()), (1, 0));
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
