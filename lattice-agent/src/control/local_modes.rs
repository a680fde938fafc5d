//! Modes that were set by namespace at the agent itself. Where there is a central, they are central's alone.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use lattice_policy::Mode;

use crate::{
    error_chain::ErrorChain,
    uplink::last_good::{self, LastGoodError},
};

/// Why a mode was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetModeError {
    /// Central says which modes hold.
    #[error(
        "this agent takes its modes from central at {central}: set it there, with latticectl --central {central} mode set \
         --namespace {namespace} {mode}"
    )]
    CentralDecides {
        /// Its URL.
        central: String,
        /// What was asked for.
        namespace: String,
        /// What was asked for.
        mode: String,
    },
    /// It could not be kept, and so was not put in force.
    #[error("the mode was not changed, since it could not be kept for the next start")]
    Store(#[from] LastGoodError),
    /// It was kept, and not all of it is in force.
    #[error("the mode is kept for the next start, but is not in force everywhere: {0}")]
    Apply(String),
}

/// The modes and where they are kept.
pub struct LocalModes {
    central: Option<String>,
    state: PathBuf,
    modes: Mutex<(u64, BTreeMap<String, Mode>)>,
    damage: Option<String>,
}

impl LocalModes {
    /// Reads back what was set before. What is damaged is not used, and said so in the log. With `central` there are none.
    pub fn load(state: &Path, central: Option<String>) -> Self {
        let mut damage = None;
        let modes = match &central {
            Some(_) => (0, BTreeMap::new()),
            None => last_good::load_modes(state).unwrap_or_else(|error| {
                let error = ErrorChain(&error).to_string();
                tracing::error!(
                    error,
                    "modes that were set before are not known any more: set them again"
                );
                damage = Some(format!(
                    "the modes that were set at this agent are not known: {error}; set one again"
                ));
                (0, BTreeMap::new())
            }),
        };
        Self {
            central,
            state: state.into(),
            modes: Mutex::new(modes),
            damage,
        }
    }

    /// Why what was set before is not known; `None` where it is.
    pub fn damage(&self) -> Option<String> {
        self.damage.clone()
    }

    /// The modes, to be put in force at the start.
    pub fn all(&self) -> BTreeMap<String, Mode> {
        self.modes.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Sets or clears the mode of a namespace, keeps it, and puts all in force by `apply`. Returns the new revision.
    ///
    /// # Errors
    /// When central decides, when it cannot be kept, or when `apply` fails.
    pub fn set(
        &self,
        namespace: &str,
        mode: Option<Mode>,
        apply: impl FnOnce(BTreeMap<String, Mode>) -> Result<(), String>,
    ) -> Result<u64, SetModeError> {
        if let Some(central) = &self.central {
            return Err(SetModeError::CentralDecides {
                central: central.clone(),
                namespace: namespace.into(),
                mode: mode.map_or("\"\"", Mode::word).into(),
            });
        }
        // Held over file and maps, so that two changes come out in one order. A poisoned lock guards what is on disk.
        let mut modes = self.modes.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, mut changed) = (modes.0 + 1, modes.1.clone());
        match mode {
            Some(mode) => changed.insert(namespace.into(), mode),
            None => changed.remove(namespace),
        };
        last_good::save_modes(&self.state, revision, &changed)?;
        *modes = (revision, changed.clone());
        apply(changed).map_err(SetModeError::Apply)?;
        Ok(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_survives_a_restart_until_it_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let modes = LocalModes::load(folder.path(), None);
        let expected = BTreeMap::from([("payments".to_owned(), Mode::Enforce)]);
        let mut applied = None;
        let apply = |modes| {
            applied = Some(modes);
            Ok(())
        };
        assert_eq!(modes.set("payments", Some(Mode::Enforce), apply).unwrap(), 1);
        assert_eq!(applied, Some(expected.clone()));
        let modes = LocalModes::load(folder.path(), None);
        assert_eq!(modes.all(), expected);
        let error = modes
            .set("payments", None, |_| Err("the map is full".into()))
            .unwrap_err();
        assert!(error.to_string().contains("the map is full"));
        assert_eq!(LocalModes::load(folder.path(), None).all(), BTreeMap::new());
    }

    #[test]
    fn what_cannot_be_kept_is_not_put_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let modes = LocalModes::load(&folder.path().join("none"), None);
        let result = modes.set("payments", Some(Mode::Deny), |_| panic!("put in force"));
        assert!(matches!(result, Err(SetModeError::Store(_))));
        assert!(modes.all().is_empty());
    }

    #[test]
    fn central_decides_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let modes = LocalModes::load(folder.path(), Some("https://central:7443".into()));
        let error = modes
            .set("payments", Some(Mode::Deny), |_| panic!("put in force"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("latticectl --central https://central:7443 mode set --namespace payments deny"),
            "{error}"
        );
    }
}
