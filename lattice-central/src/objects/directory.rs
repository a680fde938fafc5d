//! One look at the directory, and what is kept from the looks before.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use lattice_api::object::{Object, read_objects};
use sha2::{Digest, Sha256};

use super::{
    ObjectSet,
    gates::{self, Gates},
    last_good::LastGood,
    parts::Parts,
};

/// A larger file is refused before it is read.
const FILE_BYTES_MAXIMUM: u64 = 4 * 1024 * 1024;
/// More files than this are not what the directory is for.
const FILES_MAXIMUM: usize = 4_096;

/// One file of objects.
#[derive(Default)]
struct ObjectFile {
    /// Of the content that was last looked at, good or not.
    sha256: Option<[u8; 32]>,
    /// Of the last content that was good.
    objects: Vec<Object>,
    problems: Vec<String>,
}

/// Reads the directory and remembers the last good state of each file.
pub struct DirectoryReader {
    directory: PathBuf,
    last_good: LastGood,
    files: BTreeMap<String, ObjectFile>,
    gates: Gates,
    directory_problem: Option<String>,
}

impl DirectoryReader {
    /// Has read nothing yet. The Cedar policies are those that were good last, before a restart; without any, everything is
    /// denied. What is good is kept in the folder `last_good`.
    ///
    /// # Errors
    /// When the directory cannot be listed (at the start that is a mistake, later it is a problem), or the folder not be made.
    pub fn open(directory: &Path, last_good: &Path) -> io::Result<Self> {
        fs::read_dir(directory)?;
        let last_good = LastGood::open(last_good)?;
        let gates = Gates::of_before(&last_good);
        Ok(Self {
            directory: directory.to_owned(),
            last_good,
            files: BTreeMap::new(),
            gates,
            directory_problem: None,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks at the directory again; whether anything is different from the last time.
    pub fn scan(&mut self) -> bool {
        let names = match self.list() {
            Ok(names) => names,
            Err(error) => {
                let problem = Some(format!(
                    "{}: cannot list the directory: {error}; what it said before stays in force",
                    self.directory.display()
                ));
                return std::mem::replace(&mut self.directory_problem, problem.clone()) != problem;
            }
        };
        let mut changed = self.directory_problem.take().is_some();
        let (policy_names, object_names): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.ends_with(".cedar"));
        changed |= self.scan_objects(&object_names);
        changed |= self.scan_policies(&policy_names);
        changed
    }

    /// Names of the files that are read, in order.
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // A name that is not UTF-8 ends in none of these, as far as anyone can read it.
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            let is_read = [".yaml", ".yml", ".json", ".cedar"]
                .iter()
                .any(|ending| name.ends_with(ending));
            if is_read && !name.starts_with('.') {
                names.push(name);
            }
        }
        if names.len() > FILES_MAXIMUM {
            return Err(io::Error::other(format!(
                "{} files are more than {FILES_MAXIMUM}",
                names.len()
            )));
        }
        names.sort();
        Ok(names)
    }

    fn scan_objects(&mut self, names: &[String]) -> bool {
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        self.last_good
            .retain(|name| name == gates::KEPT_AS || names.iter().any(|listed| listed == name));
        let mut changed = self.files.len() != before;
        for name in names {
            if !self.files.contains_key(name) {
                // Until the file itself is good, what was good before a restart holds.
                let kept = self
                    .last_good
                    .read(name)
                    .and_then(|bytes| read_objects(name, &bytes).ok());
                let file = ObjectFile {
                    objects: kept.unwrap_or_default(),
                    ..ObjectFile::default()
                };
                self.files.insert(name.clone(), file);
            }
            let bytes = match read_capped(&self.directory.join(name)) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    changed |= self.files.remove(name).is_some();
                    continue;
                }
                Err(error) => {
                    let file = self.files.entry(name.clone()).or_default();
                    let problems = vec![format!("{name}: cannot read the file: {error}")];
                    changed |= file.problems != problems;
                    (file.problems, file.sha256) = (problems, None);
                    continue;
                }
            };
            let sha256: [u8; 32] = Sha256::digest(&bytes).into();
            let file = self.files.entry(name.clone()).or_default();
            if file.sha256 == Some(sha256) {
                continue;
            }
            (file.sha256, changed) = (Some(sha256), true);
            match read_objects(name, &bytes) {
                // What central gives to agents has a digest for each file, or was written so on purpose.
                Ok(objects) if objects.iter().any(|object| matches!(object, Object::TracingPolicy(_))) => {
                    file.problems = vec![format!(
                        "{name}: central takes no policies written for Tetragon. Give the file to the agents with --policies, or write \
                         what `latticectl policy convert --to exec-policy` makes of it."
                    )];
                }
                Ok(objects) => {
                    (file.objects, file.problems) = (objects, Vec::new());
                    self.last_good.keep(name, &bytes);
                }
                Err(diagnostics) => {
                    file.problems = diagnostics.iter().map(ToString::to_string).collect();
                }
            }
        }
        changed
    }

    /// Those of the *.cedar files, and those of the objects that are good.
    fn scan_policies(&mut self, names: &[String]) -> bool {
        let mut texts = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for name in names {
            let text = read_capped(&self.directory.join(name))
                .map_err(|error| error.to_string())
                .and_then(|bytes| {
                    bytes
                        .map(String::from_utf8)
                        .transpose()
                        .map_err(|_| "the file is not UTF-8".to_owned())
                });
            match text {
                Ok(Some(text)) => drop(texts.insert(name.clone(), text)),
                Ok(None) => {}
                Err(problem) => drop(unreadable.insert(name.clone(), problem)),
            }
        }
        for object in self.files.values().flat_map(|file| &file.objects) {
            if let Object::CedarPolicy(policy) = object {
                // Of one name the first counts, as with every kind.
                texts
                    .entry(format!("CedarPolicy {}", policy.name))
                    .or_insert_with(|| policy.spec.policies.clone());
            }
        }
        self.gates.take(texts, unreadable, &self.last_good)
    }

    /// Everything that the directory says, as far as it is good.
    pub fn objects(&self) -> ObjectSet {
        let mut parts = Parts::new(&self.gates);
        let directory = self.directory.display().to_string();
        parts.problems(&directory, self.directory_problem.clone());
        for (file_name, file) in &self.files {
            parts.problems(file_name, file.problems.iter().cloned());
            for object in &file.objects {
                parts.add(file_name, object);
            }
        }
        parts.into_set()
    }
}

/// The file's bytes; `None` where it is gone or no file.
fn read_capped(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Looked at before it is opened: to open a pipe would wait for its writer.
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAXIMUM + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAXIMUM {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAXIMUM} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
