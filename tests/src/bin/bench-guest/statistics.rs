//! What the kernel counts: runs and time of each BPF program, and the memory of each map.
//!
//! All of it is read from /proc/self/fdinfo of descriptors that this process holds. The kernel cuts program names to 15
//! bytes, which makes some of ours equal; a pinned link knows its program's id, and the pin's name is whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail};
use aya::{
    maps::loaded_maps,
    programs::{ProgramFd, links::PinnedLink, loaded_programs},
};

/// What one program has done since it was loaded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) runs: u64,
    pub(crate) nanos: u64,
}

/// Descriptors on all of our programs. They keep the programs loaded: drop them before an uninstall.
pub(crate) struct Programs {
    _programs: Vec<ProgramFd>,
    _links: Vec<PinnedLink>,
    names: BTreeMap<u64, String>,
}

impl Programs {
    /// Opens every program whose name begins as ours do.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or nothing of ours is loaded.
    pub(crate) fn open(bpf_file_system: &Path) -> Result<Self> {
        let mut programs = Vec::new();
        let mut names = BTreeMap::new();
        for info in loaded_programs() {
            let info = info.context("cannot list the BPF programs")?;
            let name = info.name_as_str().unwrap_or_default();
            if name.starts_with("lattice_") {
                names.insert(u64::from(info.id()), name.to_owned());
                programs.push(info.fd().context("cannot open a BPF program")?);
            }
        }
        let mut links = Vec::new();
        for (name, path) in pinned_links(bpf_file_system)? {
            let before = ids(&own_descriptors()?, "link_id");
            links.push(PinnedLink::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?);
            for fields in own_descriptors()? {
                if let (Some(link), Some(&program)) = (fields.get("link_id"), fields.get("prog_id"))
                    && !before.contains(link)
                {
                    names.insert(program, name.clone());
                }
            }
        }
        if programs.is_empty() || links.is_empty() {
            bail!("no BPF program of ours is loaded");
        }
        Ok(Self {
            _programs: programs,
            _links: links,
            names,
        })
    }

    /// What each program has done.
    ///
    /// # Errors
    ///
    /// Where /proc cannot be read.
    pub(crate) fn read(&self) -> Result<BTreeMap<String, Work>> {
        let mut work: BTreeMap<String, Work> = BTreeMap::new();
        for fields in own_descriptors()? {
            if let (Some(id), Some(&nanos), Some(&runs)) =
                (fields.get("prog_id"), fields.get("run_time_ns"), fields.get("run_cnt"))
                && let Some(name) = self.names.get(id)
            {
                work.insert(name.clone(), Work { runs, nanos });
            }
        }
        Ok(work)
    }
}

/// Whether any program of ours is loaded.
///
/// # Errors
///
/// Where the kernel refuses to list programs.
pub(crate) fn any_loaded() -> Result<bool> {
    for info in loaded_programs() {
        // One that goes while it is listed is none.
        if info.is_ok_and(|info| info.name_as_str().is_some_and(|name| name.starts_with("lattice_"))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Bytes of each map by the kernel's own accounting, with its elements. In a guest all maps are ours.
///
/// # Errors
///
/// Where the kernel refuses.
pub(crate) fn map_bytes() -> Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for info in loaded_maps() {
        let info = info.context("cannot list the BPF maps")?;
        let name = info.name_as_str().unwrap_or("(unnamed)").to_owned();
        let _descriptor = info.fd().with_context(|| format!("cannot open map {name}"))?;
        for fields in own_descriptors()? {
            if let (Some(&id), Some(&bytes)) = (fields.get("map_id"), fields.get("memlock"))
                && id == u64::from(info.id())
            {
                *sizes.entry(name.clone()).or_insert(0) += bytes;
            }
        }
    }
    Ok(sizes)
}

fn pinned_links(bpf_file_system: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let mut links = Vec::new();
    let versions = bpf_file_system.join("lattice");
    for version in fs::read_dir(&versions).with_context(|| format!("cannot list {}", versions.display()))? {
        let folder = version.context("cannot list the pins")?.path().join("links");
        for link in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let link = link.context("cannot list the pins")?;
            links.push((link.file_name().to_string_lossy().into_owned(), link.path()));
        }
    }
    Ok(links)
}

/// The numbers in fdinfo by field, of each descriptor of this process. Not by descriptor: the kernel gives a number anew
/// as soon as it is free.
fn own_descriptors() -> Result<Vec<BTreeMap<String, u64>>> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo").context("cannot list /proc/self/fdinfo")? {
        let entry = entry.context("cannot list /proc/self/fdinfo")?;
        // One that is closed meanwhile says nothing.
        descriptors.push(numbers(&fs::read_to_string(entry.path()).unwrap_or_default()));
    }
    Ok(descriptors)
}

fn ids(descriptors: &[BTreeMap<String, u64>], field: &str) -> BTreeSet<u64> {
    descriptors
        .iter()
        .filter_map(|fields| fields.get(field).copied())
        .collect()
}

fn numbers(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_words_passed_over() {
        let found = numbers("link_type:\ttracing\nlink_id:\t4\nprog_tag:\t00ab\nprog_id:\t17\nrun_time_ns:\t12345\n");
        assert_eq!(found.get("prog_id"), Some(&17));
        assert_eq!(found.get("run_time_ns"), Some(&12345));
        assert_eq!(found.get("link_type"), None);
    }
}
