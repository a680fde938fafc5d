//! Keeps the services of new packages down: Debian starts and enables them when they are installed.
//!
//! A start is asked of /usr/sbin/policy-rc.d, whose answer 101 means no (Debian policy, invoke-rc.d(8)). It is put there
//! for the time of the installation. What a package enabled for the next boot is disabled afterwards.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{setup::say, workspace};

const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
/// Where a policy of the machine's own waits.
const SAVED_POLICY_FILE: &str = "/usr/sbin/policy-rc.d.before-lattice-setup";
const OUR_POLICY: &str =
    "#!/bin/sh\n# Written by `cargo xtask setup` of Lattice for the time of an installation.\nexit 101\n";

/// The packages that bring a service, and its name.
const SERVICES: [(&str, &str); 2] = [("containerd", "containerd"), ("docker-registry", "docker-registry")];

/// While this lives, no service is started; dropping it puts the machine's own policy back.
pub(super) struct ServicesStayDown {
    policy_file: PathBuf,
    saved_file: PathBuf,
}

impl ServicesStayDown {
    pub(super) fn begin() -> Result<Self> {
        Self::begin_at(Path::new(POLICY_FILE), Path::new(SAVED_POLICY_FILE))
    }

    fn begin_at(policy_file: &Path, saved_file: &Path) -> Result<Self> {
        // Ours may have been left by a run that was killed: it is overwritten, not saved.
        let is_foreign = fs::read_to_string(policy_file).is_ok_and(|text| text != OUR_POLICY);
        if is_foreign {
            fs::rename(policy_file, saved_file)
                .with_context(|| format!("cannot move {} aside", policy_file.display()))?;
        }
        let guard = Self {
            policy_file: policy_file.to_path_buf(),
            saved_file: saved_file.to_path_buf(),
        };
        fs::write(policy_file, OUR_POLICY)
            .and_then(|()| fs::set_permissions(policy_file, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", policy_file.display()))?;
        Ok(guard)
    }

    /// Disables what the new packages enabled, and puts the policy back.
    pub(super) fn end(self, installed: &[&str]) -> Result<()> {
        for (_, service) in SERVICES.iter().filter(|(package, _)| installed.contains(package)) {
            if workspace::find_program("systemctl").is_some() {
                disable(Command::new("systemctl").args(["--quiet", "disable", &format!("{service}.service")]))?;
            }
            if Path::new("/etc/init.d").join(service).exists() {
                disable(Command::new("update-rc.d").args([*service, "disable"]))?;
            }
            say(&format!(
                "packages: the machine's own {service} service stays down and disabled"
            ));
        }
        Ok(())
    }
}

/// A failure is no reason to stop: without the unit there is nothing that could be enabled.
fn disable(command: &mut Command) -> Result<()> {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot disable a service")?;
    Ok(())
}

impl Drop for ServicesStayDown {
    fn drop(&mut self) {
        let restored = if self.saved_file.exists() {
            fs::rename(&self.saved_file, &self.policy_file)
        } else {
            fs::remove_file(&self.policy_file)
        };
        if let Err(error) = restored {
            eprintln!(
                "setup: cannot put {} back as it was: {error}",
                self.policy_file.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_policy_comes_back_and_a_leftover_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (policy, saved) = (folder.path().join("policy-rc.d"), folder.path().join("saved"));

        fs::write(&policy, "#!/bin/sh\nexit 0\n").unwrap();
        let guard = ServicesStayDown::begin_at(&policy, &saved).unwrap();
        assert_eq!(
            Command::new(&policy).status().unwrap().code(),
            Some(101),
            "every start is refused"
        );
        drop(guard);
        assert_eq!(fs::read_to_string(&policy).unwrap(), "#!/bin/sh\nexit 0\n");

        fs::write(&policy, OUR_POLICY).unwrap();
        drop(ServicesStayDown::begin_at(&policy, &saved).unwrap());
        assert!(!policy.exists(), "a policy that a killed run left is not the machine's");
    }

    #[test]
    fn where_there_was_no_policy_there_is_none_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (policy, saved) = (folder.path().join("policy-rc.d"), folder.path().join("saved"));
        drop(ServicesStayDown::begin_at(&policy, &saved).unwrap());
        assert!(!policy.exists() && !saved.exists());
    }
}
