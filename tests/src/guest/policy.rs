//! Short ways to write the policies of cases.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lattice_policy::{
    CodeLoading, Entry, ExecPolicy, FailAction, FailSemantics, FileDigest, FileKind, Mode, Origin, Role, Scope, Target,
    to_yaml,
};

use super::{
    canaries::digest,
    host::{host, in_run},
};

/// Namespace of all cases.
pub const NAMESPACE: &str = "vm";
/// Folder that the agent reads.
pub fn folder() -> PathBuf {
    in_run("policies")
}

/// A policy under construction.
#[derive(Debug, Clone)]
pub struct Policy(pub ExecPolicy, Option<String>);

impl Policy {
    /// A policy that lets nothing start.
    pub fn new(mode: Mode) -> Self {
        let policy = ExecPolicy {
            namespace: NAMESPACE.into(),
            name: String::new(),
            target: Target::default(),
            mode,
            fail: FailSemantics::default(),
            code_loading: CodeLoading::Image,
            scope: Scope::Declared,
            generation: 1,
            entries: Vec::new(),
            map: Vec::new(),
        };
        Self(policy, None)
    }

    /// A document of any kind, written as it is.
    pub fn text(text: String) -> Self {
        Self(Self::enforce().0, Some(text))
    }

    /// A document with more text at its end.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        if let Some(text) = &mut self.1 {
            text.push_str(more);
        }
        self
    }

    /// Enforcing.
    pub fn enforce() -> Self {
        Self::new(Mode::Enforce)
    }

    /// What an unresolved file means.
    #[must_use]
    pub fn unresolved(mut self, action: FailAction) -> Self {
        self.0.fail.unresolved = action;
        self
    }

    /// The file's content may start as target.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn allow(self, path: &Path) -> Result<Self> {
        self.allow_as(path, &[Role::Target], Origin::Any)
    }

    /// The file's content, in these roles, from there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn allow_as(mut self, path: &Path, roles: &[Role], from: Origin) -> Result<Self> {
        self.0.entries.push(Entry {
            sha256: Some(FileDigest(digest(path)?)),
            size_bytes: Some(fs::metadata(path)?.len()),
            ..entry(path, roles, from)
        });
        Ok(self)
    }

    /// The content of a file of the image, by its real path there.
    ///
    /// # Errors
    /// When the image has no such file.
    pub fn allow_image(mut self, path: &str, roles: &[Role], from: Origin) -> Result<Self> {
        let file = host()
            .layer_file(path)
            .with_context(|| format!("the image has no file {path}"))?;
        self.0.entries.push(Entry {
            sha256: Some(FileDigest(digest(&file)?)),
            size_bytes: Some(fs::metadata(&file)?.len()),
            ..entry(Path::new(path), roles, from)
        });
        Ok(self)
    }

    /// The entry that was added last is one of a program of many applets, of which these may start.
    #[must_use]
    pub fn applets(mut self, names: &[&str]) -> Self {
        if let Some(entry) = self.0.entries.last_mut() {
            entry.kind = Some(FileKind::Multicall);
            entry.applets = names.iter().map(|&name| name.to_owned()).collect();
        }
        self
    }

    /// Whatever lies at the path.
    #[must_use]
    pub fn allow_path(mut self, path: &Path) -> Self {
        self.0.entries.push(entry(path, &[Role::Target], Origin::Any));
        self
    }

    /// Writes the file of a workload's policy, in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, workload: &str) -> Result<()> {
        if let Some(text) = &self.1 {
            return write_text(workload, text);
        }
        let policy = ExecPolicy {
            name: workload.into(),
            target: Target {
                workload: Some(workload.into()),
                ..Target::default()
            },
            ..self.0.clone()
        };
        write_text(workload, &to_yaml(&policy))
    }
}

/// Writes any text as a workload's policy file.
///
/// # Errors
/// When it cannot be written.
pub fn write_text(workload: &str, text: &str) -> Result<()> {
    fs::create_dir_all(folder())?;
    let path = folder().join(format!("{workload}.yaml"));
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}

fn entry(path: &Path, roles: &[Role], from: Origin) -> Entry {
    Entry {
        path: path.to_string_lossy().as_ref().into(),
        sha256: None,
        real_path: None,
        size_bytes: None,
        kind: None,
        roles: roles.to_vec(),
        from,
        applets: Vec::new(),
        because: Vec::new(),
    }
}
