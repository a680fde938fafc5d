//! Policies from files: `--policies DIR`, read at start and again whenever a file changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use lattice_policy::{ExecPolicy, read_documents};

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
    policies: Vec<Arc<ExecPolicy>>,
    is_broken: bool,
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
        for path in present {
            self.refresh_file(&path, &mut changes);
        }
        Ok(changes)
    }

    fn refresh_file(&mut self, path: &Path, changes: &mut Changes) {
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
        if self.files.get(path).is_some_and(|file| file.stamp == stamp) {
            return;
        }
        let last_good = self
            .files
            .get(path)
            .map(|file| file.policies.clone())
            .unwrap_or_default();
        let before = changes.problems.len();
        let policies = match fs::read(path) {
            Ok(bytes) => match read_documents(&path.display().to_string(), &bytes) {
                Ok(policies) => {
                    changes.is_changed = true;
                    policies.into_iter().map(Arc::new).collect()
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
        };
        self.files.insert(path.to_path_buf(), file);
    }

    /// All policies in force.
    pub fn policies(&self) -> Vec<Arc<ExecPolicy>> {
        self.files
            .values()
            .flat_map(|file| file.policies.iter().cloned())
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
                problems: vec![]
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
}
