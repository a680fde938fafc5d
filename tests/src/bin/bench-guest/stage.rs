//! The files that are executed and the policies that list them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::elf;

const ROOT: &str = "/tmp/bench";
/// Size of every program that is not made larger on purpose.
const SMALL_BYTES: usize = 4096;
/// A size that no policy lists.
const UNLISTED_BYTES: usize = 5000;

/// A program to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// The loop around the others.
    Spin,
    /// Static, on the overlay's read-only layer: its digest is kept.
    Static,
    /// With an ELF interpreter, both on the read-only layer.
    Dynamic,
    /// A script whose interpreter is the static program.
    Script,
    /// Static, on tmpfs, of this many bytes: hashed at every exec.
    OnTmpfs(usize),
    /// Not listed, of a size that is listed: refused by its digest.
    Unlisted,
    /// Not listed, of a size that no entry has: refused without a digest.
    UnlistedSize,
}

impl Program {
    pub(crate) fn path(self) -> PathBuf {
        let merged = Path::new(ROOT).join("merged");
        match self {
            Self::Spin => merged.join("spin"),
            Self::Static => merged.join("static"),
            Self::Dynamic => merged.join("dynamic"),
            Self::Script => merged.join("script"),
            Self::OnTmpfs(bytes) => Path::new(ROOT).join(format!("tmpfs-{bytes}")),
            Self::Unlisted => merged.join("unlisted"),
            Self::UnlistedSize => merged.join("unlisted-size"),
        }
    }
}

/// Sizes of the files on tmpfs.
pub(crate) const TMPFS_BYTES: [usize; 3] = [SMALL_BYTES, 1 << 20, 4 << 20];

/// The files, and their entries as a policy's YAML.
pub(crate) struct Stage {
    entries: Vec<String>,
    policies: PathBuf,
    is_one_namespace: bool,
}

impl Stage {
    /// Writes all programs and mounts the overlay that is the container's root.
    ///
    /// # Errors
    ///
    /// Where a file cannot be written or the overlay not be mounted.
    pub(crate) fn build() -> Result<Self> {
        let root = Path::new(ROOT);
        for folder in ["lower", "upper", "work", "merged", "policies"] {
            fs::create_dir_all(root.join(folder)).with_context(|| format!("cannot create {ROOT}/{folder}"))?;
        }
        let mut stage = Self {
            entries: Vec::new(),
            policies: root.join("policies"),
            is_one_namespace: false,
        };
        let lower = root.join("lower");
        let any = "target, script-interpreter";
        let loader = root.join("merged/loader");
        let script = format!("#!{}\n", Program::Static.path().display());
        let listed: [(&str, Vec<u8>, &str); 5] = [
            ("spin", elf::spin(), "target"),
            ("static", elf::static_program(SMALL_BYTES, 1), any),
            ("loader", elf::loader(), "elf-interpreter"),
            ("dynamic", elf::dynamic_program(&loader), "target"),
            ("script", script.into_bytes(), "target"),
        ];
        for (name, content, roles) in listed {
            stage.put(&lower.join(name), &content, Some(roles))?;
        }
        for bytes in TMPFS_BYTES {
            stage.put(
                &Program::OnTmpfs(bytes).path(),
                &elf::static_program(bytes, 2),
                Some("target"),
            )?;
        }
        stage.put(&lower.join("unlisted"), &elf::static_program(SMALL_BYTES, 3), None)?;
        stage.put(
            &lower.join("unlisted-size"),
            &elf::static_program(UNLISTED_BYTES, 4),
            None,
        )?;
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "-o"])
            .arg(format!(
                "lowerdir={ROOT}/lower,upperdir={ROOT}/upper,workdir={ROOT}/work"
            ))
            .args(["overlay", &format!("{ROOT}/merged")])
            .status()
            .context("cannot start mount")?;
        ensure!(mounted.success(), "the overlay cannot be mounted: {mounted}");
        Ok(stage)
    }

    fn put(&mut self, path: &Path, content: &[u8], roles: Option<&str>) -> Result<()> {
        elf::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(roles) = roles {
            let digest = hex(&Sha256::digest(content));
            // As the container has it; tier 2 looks for it in the layers by this name.
            let own = path.strip_prefix(Path::new(ROOT).join("lower"));
            let own = own.map_or_else(|_| path.to_owned(), |name| Path::new("/").join(name));
            let entry = entry(&own.display().to_string(), &digest, content.len(), roles);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Where the overlay is mounted that stands for the container's root.
    pub(crate) fn root(&self) -> PathBuf {
        Path::new(ROOT).join("merged")
    }

    /// From now on all containers are in one namespace, rather than each in its own.
    pub(crate) fn put_into_one_namespace(&mut self) {
        self.is_one_namespace = true;
    }

    /// A container's namespace.
    pub(crate) fn namespace(&self, container: u32) -> String {
        if self.is_one_namespace {
            "all".to_owned()
        } else {
            format!("n{container}")
        }
    }

    pub(crate) fn policies(&self) -> &Path {
        &self.policies
    }

    /// Entries that every measured policy has: those of the programs.
    pub(crate) fn own_entries(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Writes the policy of one container. Beyond the programs' own it is filled up to `entries` with digests of no file,
    /// whose sizes are `distinct_sizes` different ones.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub(crate) fn write_policy(&self, container: u32, mode: &str, entries: u32, distinct_sizes: u32) -> Result<()> {
        let mut text = format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: p{container}, namespace: {}}}\n\
             spec:\n  mode: {mode}\n  target: {{workload: w{container}}}\n  entries:\n{}",
            self.namespace(container),
            self.entries.concat()
        );
        for number in self.own_entries()..entries {
            let digest = hex(&Sha256::digest(format!("{container} {number}")));
            let size_bytes = 100_000 + (number % distinct_sizes.max(1)) as usize;
            let line = entry(&format!("/usr/lib/program-{number}"), &digest, size_bytes, "target");
            text.push_str(&line);
        }
        // Written beside and moved into place: the agent looks at any moment, and only at names that end in .yaml.
        let path = self.policies.join(format!("{container}.yaml"));
        let next = self.policies.join("next");
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes all policies.
    ///
    /// # Errors
    ///
    /// Where one cannot be removed.
    pub(crate) fn clear_policies(&self) -> Result<()> {
        for entry in fs::read_dir(&self.policies).context("cannot list the policies")? {
            fs::remove_file(entry.context("cannot list the policies")?.path()).context("cannot remove a policy")?;
        }
        Ok(())
    }
}

fn entry(path: &str, digest: &str, size_bytes: usize, roles: &str) -> String {
    format!("  - {{path: {path}, sha256: \"{digest}\", size: {size_bytes}, roles: [{roles}]}}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
