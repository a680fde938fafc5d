//! Everything that is denied on this node, put together: by the node's own file and by central. What holds is in the kernel at once; of
//! containers of a denied image that run already each makes an event, and is killed where that is asked for.
//!
//! ```text
//!   --denylist FILE ──┐
//!                     ├──► Denials ──► enforcement (maps, flags of containers)
//!   central ──────────┘        └─────► ContainerNotice denied-image, cgroup.kill
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lattice_api::v1::{self, ContainerNotice};
use lattice_policy::{Denied, ImageDigest};

use crate::{
    backend::container_message,
    containers::ContainerInfo,
    denylist::{Denylist, MAX_FILES},
    enforcement::tasks_below,
    error_chain::ErrorChain,
    notices::NoticeSender,
    state::Shared,
    uplink::denylist::CentralDenylist,
};

/// The node's own list, and whether it kills.
#[derive(Debug, Clone, Default)]
pub struct FileDenials {
    /// Where it comes from.
    pub source: String,
    /// What it names.
    pub list: Denylist,
    /// Whether what runs of its images is killed.
    pub kill_running: bool,
}

#[derive(Debug, Clone, Default)]
struct Told {
    file: FileDenials,
    central: CentralDenylist,
}

/// A container by its cgroup and its runtime's name, and whether it was killed.
type Reported = BTreeMap<(u64, String), bool>;

/// All denials of the node.
pub struct Denials {
    told: Mutex<(Told, Reported)>,
    notices: Arc<NoticeSender>,
}

/// How many digests are denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DenialCounts {
    /// Of files.
    pub files: u64,
    /// Of images.
    pub images: u64,
}

impl Told {
    fn merged(&self) -> Denylist {
        let mut list = self.file.list.clone();
        for denied in self.central.denials.keys() {
            match denied {
                Denied::File(digest) => drop(list.files.insert(*digest)),
                Denied::Image(digest) => drop(list.images.insert(*digest)),
            }
        }
        list
    }

    /// Whether what runs of an image is killed, and why it is denied; `None` where it is not.
    fn of(&self, image: Option<ImageDigest>) -> Option<(bool, String)> {
        let image = image?;
        let by_file = self.file.list.images.contains(&image);
        let by_central = self.central.denials.get(&Denied::Image(image));
        if !by_file && by_central.is_none() {
            return None;
        }
        let kills = (by_file && self.file.kill_running) || by_central.is_some_and(|denial| denial.kill_running);
        Some((
            kills,
            by_central.map(|denial| denial.reason.clone()).unwrap_or_default(),
        ))
    }
}

impl Denials {
    /// Nothing is denied yet.
    pub fn new(notices: Arc<NoticeSender>) -> Self {
        Self {
            told: Mutex::default(),
            notices,
        }
    }

    fn told(&self) -> MutexGuard<'_, (Told, Reported)> {
        // What a panic left behind is what the kernel had before.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was denied before the start, by both at once: none is out of force meanwhile.
    ///
    /// # Errors
    /// As [`Denials::set_file`].
    pub fn begin(&self, state: &Shared, file: FileDenials, central: CentralDenylist) -> Result<(), String> {
        self.change(state, |told| *told = Told { file, central })
    }

    /// Replaces the node's own list. What central denies stays.
    ///
    /// # Errors
    /// When both together are too many, or the kernel refuses; what was in force stays.
    pub fn set_file(&self, state: &Shared, file: FileDenials) -> Result<(), String> {
        self.change(state, |told| told.file = file)
    }

    /// Replaces central's list. What the node's file denies stays.
    ///
    /// # Errors
    /// As [`Denials::set_file`].
    pub fn set_central(&self, state: &Shared, central: CentralDenylist) -> Result<(), String> {
        self.change(state, |told| told.central = central)
    }

    fn change(&self, state: &Shared, change: impl FnOnce(&mut Told)) -> Result<(), String> {
        // Held over the change and what follows from it, so that two sources do not overtake each other.
        let mut told = self.told();
        let (told, reported) = &mut *told;
        let mut changed = told.clone();
        change(&mut changed);
        let merged = changed.merged();
        if merged.files.len() > MAX_FILES {
            return Err(format!(
                "{} denied files, by the node's file and by central together, are more than the {MAX_FILES} that the kernel side holds; \
                 what was in force stays",
                merged.files.len()
            ));
        }
        let denied = state.enforcement().set_denylist(&merged);
        let denied = denied.map_err(|error| ErrorChain(&error).to_string())?;
        *told = changed;
        tracing::info!(
            files = merged.files.len(),
            images = merged.images.len(),
            "the denylist is in force"
        );
        let present: BTreeSet<(u64, String)> = denied.iter().map(key).collect();
        reported.retain(|container, _| present.contains(container));
        for container in denied.iter().filter(|container| has_tasks(container)) {
            self.act(told, reported, container);
        }
        state.standings_changed();
        Ok(())
    }

    /// A container that is newly known and runs already.
    pub fn adopted(&self, container: &ContainerInfo) {
        let mut told = self.told();
        let (told, reported) = &mut *told;
        self.act(told, reported, container);
    }

    fn act(&self, told: &Told, reported: &mut Reported, container: &ContainerInfo) {
        let Some((kills, reason)) = told.of(container.image_digest) else {
            return;
        };
        let before = reported.get(&key(container)).copied();
        if before.is_some_and(|was_killed| was_killed || !kills) {
            return;
        }
        let killed = kills.then(|| kill(&container.cgroup_path));
        if let Some(Err(error)) = &killed {
            tracing::error!(container = container.container_id, %error, "a container of a denied image could not be killed");
        }
        let was_killed = matches!(killed, Some(Ok(())));
        reported.insert(key(container), was_killed);
        self.notices.send(ContainerNotice {
            notice: "denied-image".into(),
            container: Some(container_message(container)),
            effective_action: if was_killed { "kill" } else { "none" }.into(),
            cause: if kills && !was_killed { "kill-failed" } else { "running" }.into(),
            reason,
            message: String::new(),
        });
    }

    /// How many digests are denied.
    pub fn counts(&self) -> DenialCounts {
        let merged = self.told().0.merged();
        DenialCounts {
            files: merged.files.len() as u64,
            images: merged.images.len() as u64,
        }
    }

    /// What is in force, for people; and central's revision.
    pub fn all(&self) -> (u64, Vec<v1::Denial>) {
        let told = self.told();
        let (told, _) = &*told;
        let FileDenials {
            source,
            list,
            kill_running,
        } = &told.file;
        let of_file = |denied: Denied, kill_running: bool| v1::Denial {
            kind: denied.kind().into(),
            digest: denied.digest(),
            kill_running,
            set_by: format!("file {source}"),
            ..v1::Denial::default()
        };
        let files = list.files.iter().map(|digest| of_file(Denied::File(*digest), false));
        let images = list.images.iter();
        let images = images.map(|digest| of_file(Denied::Image(*digest), *kill_running));
        let central = told.central.denials.values().cloned();
        (told.central.revision, files.chain(images).chain(central).collect())
    }
}

fn key(container: &ContainerInfo) -> (u64, String) {
    (container.cgroup_id, container.container_id.clone())
}

fn has_tasks(container: &ContainerInfo) -> bool {
    tasks_below(&container.cgroup_path).into_iter().next().is_some()
}

/// The kernel's own way: all processes of the cgroup and of those below it, at once (from 5.14).
fn kill(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn central(images: &[(u8, bool, &str)]) -> CentralDenylist {
        let denial = |(digest, kill_running, reason): &(u8, bool, &str)| {
            let denied = Denied::Image(ImageDigest([*digest; 32]));
            let message = v1::Denial {
                kind: denied.kind().into(),
                digest: denied.digest(),
                kill_running: *kill_running,
                reason: (*reason).into(),
                ..v1::Denial::default()
            };
            (denied, message)
        };
        CentralDenylist {
            revision: 1,
            denials: images.iter().map(denial).collect(),
        }
    }

    fn told(file: &[u8], kill_running: bool, images: &[(u8, bool, &str)]) -> Told {
        Told {
            file: FileDenials {
                source: "deny".into(),
                list: Denylist {
                    images: file.iter().map(|digest| ImageDigest([*digest; 32])).collect(),
                    ..Denylist::default()
                },
                kill_running,
            },
            central: central(images),
        }
    }

    #[test]
    fn either_source_denies_and_either_may_ask_to_kill() {
        let image = |digest: Option<u8>| digest.map(|digest| ImageDigest([digest; 32]));
        let told = told(&[1, 2], false, &[(2, true, "CVE"), (3, false, "recall")]);
        assert_eq!(told.merged().images.len(), 3);
        for (digest, expected) in [
            (Some(1), Some((false, ""))),
            (Some(2), Some((true, "CVE"))),
            (Some(3), Some((false, "recall"))),
            (Some(4), None),
            (None, None),
        ] {
            let expected = expected.map(|(kills, reason)| (kills, reason.to_owned()));
            assert_eq!(told.of(image(digest)), expected, "{digest:?}");
        }
    }
}
