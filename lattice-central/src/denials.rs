//! What is refused everywhere: set and lifted by operators, kept by the store, given to every agent at once.
//!
//! ```text
//!   latticectl deny ──► Denials ──► store (commit: who, when, why) ──► Denylist, revision + 1 ──► every agent's stream
//! ```
//!
//! Apart from the board: a denial waits for no policy, and no policy that an agent cannot take holds one up.

use std::{collections::BTreeMap, sync::Arc};

use lattice_api::v1 as wire;
use lattice_policy::Denied;
use tokio::sync::{Mutex, watch};

use crate::store::{Lifted, Remembered, Store, StoreError, StoredDenial};

/// Denials of one kind; the kernel side of an agent has room for so many files.
pub const DENIALS_MAXIMUM: usize = 4_096;
/// Bytes of a reason.
pub const REASON_BYTES_MAXIMUM: usize = 500;

/// Why a denial is not set or lifted.
#[derive(Debug, thiserror::Error)]
pub enum DenialError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No reason, or too much of one.
    #[error("reason: it has {0} bytes; say in 1 to {REASON_BYTES_MAXIMUM} why")]
    Reason(usize),
    /// Nothing to be killed.
    #[error("kill_running: a file is refused where it starts; only what runs of an image can be killed")]
    NothingToKill,
    /// No room.
    #[error(
        "{DENIALS_MAXIMUM} {0} digests are denied already, which is as many as an agent's kernel side holds; lift some"
    )]
    Full(&'static str),
    /// Not there.
    #[error("{0} is not denied")]
    NotDenied(Denied),
}

/// What holds, and who is told.
pub struct Denials {
    contents: Mutex<BTreeMap<Denied, StoredDenial>>,
    list: watch::Sender<Arc<wire::Denylist>>,
    store: Store,
}

impl Denials {
    /// Begins with what the store remembers.
    pub fn new(store: Store, remembered: &Remembered) -> Self {
        let mut contents = BTreeMap::new();
        for denial in &remembered.denials {
            match Denied::parse(&denial.kind, &denial.digest) {
                Ok(denied) => drop(contents.insert(denied, denial.clone())),
                Err(error) => tracing::error!(
                    kind = %denial.kind, digest = %denial.digest, %error,
                    "a kept denial cannot be read and does not hold; set it again"
                ),
            }
        }
        let list = watch::Sender::new(Arc::new(denylist(&contents, remembered.revision)));
        Self {
            contents: Mutex::new(contents),
            list,
            store,
        }
    }

    /// What agents are given; the newest wins.
    pub fn list(&self) -> watch::Receiver<Arc<wire::Denylist>> {
        self.list.subscribe()
    }

    /// Denies a digest, also one that is denied already: then the new reason and the new `kill_running` hold. Returns the revision that
    /// says so to the agents.
    ///
    /// # Errors
    /// When there is no reason or no room, or the store refuses; then nothing has changed.
    pub async fn deny(
        &self,
        denied: Denied,
        kill_running: bool,
        reason: &str,
        set_by: String,
        now_unix_nanos: u64,
    ) -> Result<u64, DenialError> {
        check_reason(reason)?;
        if kill_running && matches!(denied, Denied::File(_)) {
            return Err(DenialError::NothingToKill);
        }
        let mut contents = self.contents.lock().await;
        let of_its_kind = contents.keys().filter(|other| other.kind() == denied.kind()).count();
        if of_its_kind >= DENIALS_MAXIMUM && !contents.contains_key(&denied) {
            return Err(DenialError::Full(denied.kind()));
        }
        let denial = StoredDenial {
            kind: denied.kind().to_owned(),
            digest: denied.digest(),
            kill_running,
            reason: reason.to_owned(),
            set_by,
            set_unix_nanos: now_unix_nanos,
            lifted: None,
        };
        let revision = self.store.deny(denial.clone()).await?;
        tracing::warn!(%denied, kill_running, reason = %reason.escape_debug(), by = %denial.set_by, revision, "denied on every node");
        contents.insert(denied, denial);
        self.list.send_replace(Arc::new(denylist(&contents, revision)));
        Ok(revision)
    }

    /// Takes a denial back, and returns the revision that says so to the agents.
    ///
    /// # Errors
    /// When there is no reason, the digest is not denied, or the store refuses; then nothing has changed.
    pub async fn lift(
        &self,
        denied: Denied,
        reason: &str,
        lifted_by: String,
        now_unix_nanos: u64,
    ) -> Result<u64, DenialError> {
        check_reason(reason)?;
        let mut contents = self.contents.lock().await;
        let lifted = Lifted {
            unix_nanos: now_unix_nanos,
            by: lifted_by,
            reason: reason.to_owned(),
        };
        let kept = self
            .store
            .lift_denial(denied.kind().to_owned(), denied.digest(), lifted.clone());
        let Some(revision) = kept.await? else {
            return Err(DenialError::NotDenied(denied));
        };
        tracing::warn!(%denied, reason = %reason.escape_debug(), by = %lifted.by, revision, "no longer denied");
        contents.remove(&denied);
        self.list.send_replace(Arc::new(denylist(&contents, revision)));
        Ok(revision)
    }
}

fn check_reason(reason: &str) -> Result<(), DenialError> {
    match reason.trim().len() {
        1.. if reason.len() <= REASON_BYTES_MAXIMUM => Ok(()),
        _ => Err(DenialError::Reason(reason.len())),
    }
}

fn denylist(contents: &BTreeMap<Denied, StoredDenial>, revision: u64) -> wire::Denylist {
    wire::Denylist {
        revision,
        denials: contents.values().map(message).collect(),
    }
}

/// The wire's form of a denial.
pub fn message(denial: &StoredDenial) -> wire::Denial {
    let lifted = denial.lifted.clone();
    let (lifted_unix_nanos, lifted_by, lift_reason) = lifted
        .map(|lifted| (lifted.unix_nanos, lifted.by, lifted.reason))
        .unwrap_or_default();
    wire::Denial {
        kind: denial.kind.clone(),
        digest: denial.digest.clone(),
        kill_running: denial.kill_running,
        reason: denial.reason.clone(),
        set_by: denial.set_by.clone(),
        set_unix_nanos: denial.set_unix_nanos,
        lifted_unix_nanos,
        lifted_by,
        lift_reason,
    }
}

#[cfg(test)]
mod tests {
    use lattice_policy::{FileDigest, ImageDigest};

    use super::*;

    const IMAGE: Denied = Denied::Image(ImageDigest([1; 32]));

    fn open(directory: &tempfile::TempDir) -> (Store, Denials) {
        let (store, remembered) = Store::open(directory.path()).unwrap();
        (store.clone(), Denials::new(store, &remembered))
    }

    fn given(denials: &Denials) -> (u64, Vec<String>) {
        let list = denials.list().borrow().clone();
        let text = |denial: &wire::Denial| format!("{} {} {}", denial.kind, denial.reason, denial.kill_running);
        (list.revision, list.denials.iter().map(text).collect())
    }

    #[tokio::test]
    async fn who_when_and_why_are_kept_also_of_what_was_lifted() {
        let directory = tempfile::tempdir().unwrap();
        let (_, denials) = open(&directory);
        let first = denials.deny(IMAGE, false, "CVE", "ann".into(), 5).await.unwrap();
        let again = denials.deny(IMAGE, true, "worse", "bob".into(), 6).await.unwrap();
        assert!(again > first);
        assert_eq!(given(&denials), (again, vec!["image worse true".to_owned()]));
        drop(denials);
        let (store, denials) = open(&directory);
        assert_eq!(given(&denials), (again, vec!["image worse true".to_owned()]));
        let lifted = denials.lift(IMAGE, "fixed", "eve".into(), 7).await.unwrap();
        assert_eq!(given(&denials), (lifted, Vec::new()));
        let error = denials.lift(IMAGE, "fixed", "eve".into(), 8).await.unwrap_err();
        assert!(error.to_string().ends_with("is not denied"), "{error}");
        let history: Vec<String> = store
            .denials(10)
            .await
            .unwrap()
            .into_iter()
            .map(|denial| {
                format!(
                    "{} {} {:?}",
                    denial.set_by,
                    denial.set_unix_nanos,
                    denial.lifted.map(|lifted| (lifted.by, lifted.reason))
                )
            })
            .collect();
        assert_eq!(
            history,
            [
                "bob 6 Some((\"eve\", \"fixed\"))",
                "ann 5 Some((\"bob\", \"set again\"))",
            ]
        );
    }

    #[tokio::test]
    async fn what_makes_no_sense_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (_, denials) = open(&directory);
        let file = Denied::File(FileDigest([2; 32]));
        for (denied, kill, reason, expected) in [
            (IMAGE, false, " ".to_owned(), "reason: it has 1 bytes"),
            (IMAGE, false, "x".repeat(501), "reason: it has 501 bytes"),
            (file, true, "why".to_owned(), "kill_running: a file is refused"),
        ] {
            let error = denials.deny(denied, kill, &reason, "ann".into(), 1).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(given(&denials), (0, Vec::new()));
    }
}
