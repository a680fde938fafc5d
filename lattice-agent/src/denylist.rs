//! The denylist of a node: digests that are refused at once, in every mode and in every container.
//!
//! ```text
//! # an incident, 2026-11-25
//! file  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! image sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lattice_policy::{FileDigest, ImageDigest};

/// Most bytes that a file of it may have.
const MAX_BYTES: u64 = 1 << 20;
/// Most digests of files, as the kernel has room.
pub const MAX_FILES: usize = 4096;

/// What is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denylist {
    /// Files, whatever container starts them.
    pub files: BTreeSet<FileDigest>,
    /// Images, whose containers start nothing any more.
    pub images: BTreeSet<ImageDigest>,
}

/// What is wrong with a denylist. What was in force before stays.
#[derive(Debug, thiserror::Error)]
pub enum DenylistError {
    /// It cannot be read.
    #[error("denylist {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("denylist {} has more than {MAX_BYTES} bytes or {MAX_FILES} files", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line is of no known form.
    #[error("denylist {}, line {line}: {text:?} is neither \"file DIGEST\" nor \"image sha256:DIGEST\": {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// Its beginning.
        text: String,
        /// What is wrong.
        problem: String,
    },
}

impl Denylist {
    /// From its text: one digest a line, after what it is of; `#` begins a comment.
    ///
    /// # Errors
    /// When a line is of no known form: a list is taken whole or not at all.
    pub fn parse(path: &Path, text: &str) -> Result<Self, DenylistError> {
        let mut list = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let content = line.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let wrong = |problem: String| DenylistError::Line {
                path: path.into(),
                line: number,
                text: content.chars().take(120).collect(),
                problem,
            };
            let mut words = content.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("file"), Some(digest), None) => {
                    let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
                    list.files
                        .insert(digest.parse().map_err(|error| wrong(format!("{error}")))?);
                }
                (Some("image"), Some(digest), None) => {
                    list.images
                        .insert(digest.parse().map_err(|error| wrong(format!("{error}")))?);
                }
                _ => return Err(wrong("two words are needed".into())),
            }
        }
        if list.files.len() > MAX_FILES {
            return Err(DenylistError::TooLarge { path: path.into() });
        }
        Ok(list)
    }
}

/// The file that holds it, looked at again and again.
#[derive(Debug)]
pub struct DenylistFile {
    path: PathBuf,
    stamp: Option<(Option<SystemTime>, u64)>,
}

impl DenylistFile {
    /// Reads nothing yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, stamp: None }
    }

    /// The list, where the file differs from the last look.
    ///
    /// # Errors
    /// When it cannot be read or understood; said once for each state of the file.
    pub fn refresh(&mut self) -> Result<Option<Denylist>, DenylistError> {
        let read = |source| DenylistError::Read {
            path: self.path.clone(),
            source,
        };
        let metadata = fs::metadata(&self.path).map_err(read)?;
        let stamp = Some((metadata.modified().ok(), metadata.len()));
        if stamp == self.stamp {
            return Ok(None);
        }
        if metadata.len() > MAX_BYTES {
            return Err(DenylistError::TooLarge {
                path: self.path.clone(),
            });
        }
        let text = fs::read_to_string(&self.path).map_err(read)?;
        self.stamp = stamp;
        Denylist::parse(&self.path, &text).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[track_caller]
    fn check(text: &str, expected: Result<(usize, usize), &str>) {
        let found = Denylist::parse(Path::new("deny"), text);
        match (found, expected) {
            (Ok(list), Ok(counts)) => assert_eq!((list.files.len(), list.images.len()), counts),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_list_is_taken_whole_or_not_at_all() {
        check("", Ok((0, 0)));
        check(
            &format!("# why\n\nfile {DIGEST} # tool\nfile sha256:{DIGEST}\nimage sha256:{DIGEST}\n"),
            Ok((1, 1)),
        );
        check(&format!("file {DIGEST}\nimage {DIGEST}"), Err("line 2"));
        check("file abc", Err("64 lower-case"));
        check(&format!("fil {DIGEST}"), Err("line 1"));
        check(&format!("file {DIGEST} {DIGEST}"), Err("line 1"));
    }

    #[test]
    fn a_change_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deny");
        fs::write(&path, format!("file {DIGEST}\n")).unwrap();
        let mut file = DenylistFile::new(path.clone());
        assert_eq!(file.refresh().unwrap().unwrap().files.len(), 1);
        assert!(file.refresh().unwrap().is_none());
        fs::write(&path, "fil\n").unwrap();
        assert!(file.refresh().is_err());
        assert!(file.refresh().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text: String) {
            let _ = Denylist::parse(Path::new("deny"), &text);
        }
    }
}
