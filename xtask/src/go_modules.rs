//! Programs that are built from Go modules at pinned versions: a container runtime, a signer, Kubernetes.
//!
//! ```text
//!   xtask/go/NAME/go.mod, go.sum ──► go build ──► CACHE/go/NAME/VERSION-KEY/program
//!   versions, and the hash of each module        one folder a version, shared by all checkouts of a user
//! ```
//!
//! The committed `go.mod` is where a version is pinned, and nowhere else; `go.sum` fixes the bytes of every module. The key
//! stands for all that goes into a build, so that a changed pin or flag never takes what an older one left.

mod catalogue;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};

pub(crate) use self::catalogue::{CLUSTER, CNI, CONTAINERD, COSIGN, ETCD, HELM, KUBERNETES, RUNC};
use crate::{setup::progress, workspace};

/// A Go module, the programs of it that we need, and how they are built.
pub(crate) struct GoModule {
    /// Folder below xtask/go.
    pub(crate) name: &'static str,
    /// The module whose version counts.
    module: &'static str,
    /// Each program's name, and its package below the module.
    programs: &'static [(&'static str, &'static str)],
    /// Build tags.
    tags: &'static str,
    /// Variables that the linker sets; `{version}`, `{major}` and `{minor}` stand for the version's.
    variables: &'static [(&'static str, &'static str)],
    /// Whether it needs a C compiler.
    cgo: bool,
}

impl GoModule {
    /// The pinned version, as in `v1.2.3`.
    ///
    /// # Errors
    ///
    /// Where go.mod cannot be read or does not require the module.
    pub(crate) fn version(&self) -> Result<String> {
        version_in(&self.read("go.mod")?, self.module)
            .ok_or_else(|| anyhow!("xtask/go/{}/go.mod does not require {}", self.name, self.module))
    }

    /// Where its programs are once they are built.
    ///
    /// # Errors
    ///
    /// Where the pins cannot be read.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let mut hasher = Sha256::new();
        for part in [
            self.read("go.mod")?.as_str(),
            &self.read("go.sum")?,
            self.tags,
            &self.linker_flags()?,
            if self.cgo { "cgo" } else { "" },
        ] {
            hasher.update(part);
            hasher.update([0]);
        }
        let key = hex::encode(&hasher.finalize()[..4]);
        Ok(workspace::user_cache()?
            .join("go")
            .join(self.name)
            .join(format!("{}-{key}", self.version()?)))
    }

    /// Whether all of its programs are there.
    pub(crate) fn is_built(&self) -> bool {
        self.folder()
            .is_ok_and(|folder| self.programs.iter().all(|(name, _)| folder.join(name).is_file()))
    }

    /// Builds what is missing and returns the folder. Another process that builds the same is waited for.
    ///
    /// # Errors
    ///
    /// Where there is no Go, or a build fails; the error has the end of its output.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        let folder = self.folder()?;
        if self.is_built() {
            return Ok(folder);
        }
        let go = workspace::find_program("go")
            .ok_or_else(|| anyhow!("no Go to build {} with: install Go 1.25 or later", self.name))?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", lock_path.display()))?;
        for (name, package) in self.programs {
            let program = folder.join(name);
            if !program.is_file() {
                self.build(&go, name, package, &program)?;
            }
        }
        Ok(folder)
    }

    fn build(&self, go: &Path, name: &str, package: &str, program: &Path) -> Result<()> {
        // Under another name first, so that an interrupted build is no program.
        let unfinished = program.with_file_name(format!("{name}.unfinished"));
        let package = if package.is_empty() {
            self.module.to_owned()
        } else {
            format!("{}/{package}", self.module)
        };
        let mut command = Command::new(go);
        command
            .args([
                "build",
                "-mod=readonly",
                "-buildvcs=false",
                "-trimpath",
                "-tags",
                self.tags,
            ])
            .arg(format!("-ldflags={}", self.linker_flags()?))
            .arg("-o")
            .arg(&unfinished)
            .arg(package)
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .env("GOWORK", "off")
            .env_remove("GOFLAGS")
            .current_dir(self.pins());
        progress::execute(&format!("go build {name} {}", self.version()?), &mut command)?;
        fs::rename(&unfinished, program).with_context(|| format!("cannot write {}", program.display()))
    }

    fn linker_flags(&self) -> Result<String> {
        let version = self.version()?;
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let mut flags = "-s -w".to_owned();
        for (variable, value) in self.variables {
            let value = value
                .replace("{version}", &version)
                .replace("{major}", major)
                .replace("{minor}", minor);
            flags.push_str(&format!(" -X {variable}={value}"));
        }
        Ok(flags)
    }

    fn pins(&self) -> PathBuf {
        workspace::root().join("xtask/go").join(self.name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.pins().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Makes `link` a symbolic link to a folder or program of the cache, in the place of whatever is there.
///
/// # Errors
///
/// Where it cannot be made.
pub(crate) fn link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let removed = match link.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(link),
        Ok(_) => fs::remove_file(link),
        Err(_) => Ok(()),
    };
    removed
        .and_then(|()| std::os::unix::fs::symlink(target, link))
        .with_context(|| format!("cannot link {} to {}", link.display(), target.display()))
}

/// The version of a module that a go.mod requires.
fn version_in(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module))
            .then(|| words.next())
            .flatten()
            .filter(|word| word.starts_with('v'))
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        catalogue::{ALL, CLUSTER},
        *,
    };

    #[test]
    fn a_required_version_is_told_from_a_replaced_one_and_from_a_longer_path() {
        let go_mod = "module x\n\nreplace a.io/b => a.io/b v0.1.0\n\nrequire (\n\ta.io/b/c v9.9.9\n\ta.io/b v1.2.3 // indirect\n)\n";
        assert_eq!(version_in(go_mod, "a.io/b").as_deref(), Some("v1.2.3"));
        assert_eq!(version_in("require d v0.1.0\n", "d").as_deref(), Some("v0.1.0"));
        assert_eq!(version_in(go_mod, "a.io"), None);
    }

    #[test]
    fn every_module_is_pinned_with_the_hash_of_its_bytes() {
        for module in ALL {
            let version = module.version().unwrap();
            let sums = module.read("go.sum").unwrap();
            assert!(
                sums.contains(&format!("{} {version} h1:", module.module)),
                "go.sum of {} has no hash of {} {version}",
                module.name,
                module.module
            );
            let tools = module.read("go.mod").unwrap();
            for (name, package) in module.programs {
                let path = [module.module, package].join("/");
                assert!(
                    tools.contains(path.trim_end_matches('/')),
                    "go.mod of {} lists no tool {name}",
                    module.name
                );
            }
        }
    }

    #[test]
    fn a_version_reaches_the_linker_and_another_flag_another_folder() {
        let flags = KUBERNETES.linker_flags().unwrap();
        let version = KUBERNETES.version().unwrap();
        assert!(flags.contains(&format!("version.gitVersion={version}")), "{flags}");
        assert!(!flags.contains('{'), "{flags}");
        let other = GoModule { tags: "other", ..ETCD };
        assert_ne!(other.folder().unwrap(), ETCD.folder().unwrap());
        assert!(CLUSTER.iter().any(|module| module.name == KUBERNETES.name));
    }

    #[test]
    fn a_link_takes_the_place_of_a_folder_and_of_another_link() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second, place) = (
            folder.path().join("1"),
            folder.path().join("2"),
            folder.path().join("tools/x"),
        );
        fs::create_dir_all(place.join("old")).unwrap();
        for target in [&first, &second, &second] {
            fs::create_dir_all(target).unwrap();
            link(target, &place).unwrap();
            assert_eq!(fs::read_link(&place).unwrap(), *target);
        }
    }
}
