//! The denylist in the maps.

use std::collections::BTreeSet;

use lattice_common::abi::{Container, container_flag, digest_words};
use lattice_policy::FileDigest;

use super::{Enforcement, EnforcementError, tables::Tables};
use crate::{containers::ContainerInfo, denylist::Denylist};

impl<T: Tables> Enforcement<T> {
    /// Files that the kernel side holds as denied, also those of an earlier start.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn denied_files(&self) -> Result<BTreeSet<FileDigest>, EnforcementError> {
        let digest = |words: [u64; 4]| {
            let mut bytes = [0; 32];
            for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *to = word.to_ne_bytes();
            }
            FileDigest(bytes)
        };
        Ok(self.tables.denied()?.into_iter().map(digest).collect())
    }

    /// Replaces the denylist: it holds from the next exec on, in every mode. Returns the containers whose image is on it.
    ///
    /// # Errors
    /// When the kernel refuses; what was added until then is in force.
    pub fn set_denylist(&mut self, list: &Denylist) -> Result<Vec<ContainerInfo>, EnforcementError> {
        let wanted: BTreeSet<_> = list.files.iter().map(|file| digest_words(&file.0)).collect();
        let present = self.tables.denied()?;
        for digest in wanted.difference(&present) {
            self.tables.put_denied(*digest)?;
        }
        // The number spares the look-up: it rises after the first element is there and falls before the last is gone.
        let entries = wanted.len() as u32;
        self.tables.update_node(&mut |node| node.denylist_entries = entries)?;
        for digest in present.difference(&wanted) {
            self.tables.remove_denied(*digest)?;
        }
        self.denied_images = list.images.clone();
        let mut denied = Vec::new();
        let known: Vec<(u32, ContainerInfo)> = self
            .containers
            .values()
            .map(|known| (known.index, known.info.clone()))
            .collect();
        for (index, info) in known {
            let container = self.tables.container(index)?;
            let flags = self.container_flags(&info);
            if container.flags != flags {
                self.tables.put_container(index, Container { flags, ..container })?;
            }
            if flags & container_flag::DENIED != 0 {
                denied.push(info);
            }
        }
        Ok(denied)
    }
}
