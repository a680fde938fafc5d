//! Sets of entries, shared by all policies with the same content.

use lattice_common::abi::{FIRST_POLICY_SET, RUNTIME_SET, digest_words};

use super::{
    Enforcement, EnforcementError,
    compile::EntrySet,
    tables::{TableError, Tables},
};

pub(super) struct LoadedSet {
    pub(super) set: EntrySet,
    pub(super) users: u32,
}

impl<T: Tables> Enforcement<T> {
    /// The container runtime's own programs, by digest and size.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_runtime_programs(&mut self, set: &EntrySet) -> Result<(), EnforcementError> {
        if let Some(old) = self.sets.remove(&RUNTIME_SET) {
            let stale = EntrySet {
                digests: old
                    .set
                    .digests
                    .into_iter()
                    .filter(|(digest, _)| !set.digests.contains_key(digest))
                    .collect(),
                sizes_bytes: old.set.sizes_bytes.difference(&set.sizes_bytes).copied().collect(),
                ..EntrySet::default()
            };
            self.tables.remove_set(RUNTIME_SET, &stale)?;
        }
        self.tables.put_set(RUNTIME_SET, set)?;
        self.sets.insert(
            RUNTIME_SET,
            LoadedSet {
                set: set.clone(),
                users: 1,
            },
        );
        Ok(())
    }

    /// Whether a file is one of the container runtime's own programs.
    pub fn is_runtime_program(&self, digest: &[u8; 32]) -> bool {
        self.sets
            .get(&RUNTIME_SET)
            .is_some_and(|loaded| loaded.set.digests.contains_key(&digest_words(digest)))
    }

    /// The number of an equal set that is loaded, else of a new one.
    pub(super) fn take_set(&mut self, set: EntrySet) -> Result<u32, TableError> {
        let identity = set.identity();
        if let Some(&number) = self.set_numbers.get(&identity)
            && number >= FIRST_POLICY_SET
            && let Some(loaded) = self.sets.get_mut(&number)
        {
            loaded.users += 1;
            return Ok(number);
        }
        let number = self.next_set;
        self.tables.put_set(number, &set)?;
        self.next_set += 1;
        self.set_numbers.insert(identity, number);
        self.sets.insert(number, LoadedSet { set, users: 1 });
        Ok(number)
    }

    pub(super) fn release_set(&mut self, number: u32) -> Result<(), EnforcementError> {
        let Some(loaded) = self.sets.get_mut(&number) else {
            return Ok(());
        };
        loaded.users = loaded.users.saturating_sub(1);
        if loaded.users > 0 || (self.inherited.sets.contains(&number) && !self.inherited.settled) {
            return Ok(());
        }
        self.drop_set(number)
    }

    pub(super) fn drop_set(&mut self, number: u32) -> Result<(), EnforcementError> {
        if let Some(loaded) = self.sets.remove(&number) {
            self.set_numbers.remove(&loaded.set.identity());
            self.tables.remove_set(number, &loaded.set)?;
        }
        Ok(())
    }
}
