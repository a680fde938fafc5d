//! Loading, attaching and pinning the BPF programs, so that they outlive the agent.
//!
//! A start with the same release finds its links pinned and loads nothing. Another release attaches its programs before it removes
//! the old links: at no time is none active.

use std::{fmt, fs, io, path::Path};

use aya::{
    Btf as AyaBtf, BtfError as AyaBtfError, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{MapData, MapError, MapInfo},
    programs::{
        BtfTracePoint, Lsm, ProgramError,
        links::{FdLink, LinkError},
        loaded_programs,
    },
};
use lattice_common::abi::maps as map_names;
use sha2::{Digest as _, Sha256};

use super::{
    btf::{Btf, BtfError},
    maps::Maps,
    offsets::{Globals, globals},
    pins::{PinDirectory, PinError},
};

/// Where the kernel describes its own types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// BPF LSM: refused before the first instruction, with -EPERM.
    One,
    /// Without BPF LSM: killed at `sched_process_exec`, before the first user instruction.
    Two,
}

impl Tier {
    /// 1 or 2.
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.number())
    }
}

/// Why the programs could not be loaded, attached or pinned.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The kernel's types could not be read.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya could not read the kernel's types.
    #[error("cannot read {KERNEL_BTF}")]
    KernelBtf(#[source] AyaBtfError),
    /// The pin directory is unusable.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The object could not be loaded.
    #[error("the kernel refused the BPF object of tier {tier}")]
    Load {
        /// Which object.
        tier: Tier,
        /// What it said.
        #[source]
        source: EbpfError,
    },
    /// A program could not be loaded or attached.
    #[error("the kernel refused to {action} BPF program {program}")]
    Program {
        /// load or attach.
        action: &'static str,
        /// Which program.
        program: &'static str,
        /// What it said.
        #[source]
        source: ProgramError,
    },
    /// A link could not be pinned.
    #[error("cannot pin the link of BPF program {program}")]
    Link {
        /// Which program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The sequence counter could not be mapped.
    #[error("cannot map the sequence counter")]
    Sequence(#[source] io::Error),
    /// A map could not be opened.
    #[error("cannot open pinned map {map}")]
    Map {
        /// Which map.
        map: String,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// A pinned map has another layout than this release.
    #[error(
        "pinned map {map} has {found}, this release needs {needed}; run `lattice-agent uninstall`, then start again"
    )]
    Layout {
        /// Which map.
        map: String,
        /// Sizes of the pinned map.
        found: String,
        /// Sizes of this release.
        needed: String,
    },
}

enum Hook {
    Lsm(&'static str),
    TracePoint(&'static str),
}

/// The marks' programs, which both tiers have.
const MARKS: [(&str, Hook); 4] = [
    ("lattice_fork", Hook::TracePoint("sched_process_fork")),
    ("lattice_attach", Hook::TracePoint("cgroup_attach_task")),
    ("lattice_cgroup_made", Hook::TracePoint("cgroup_mkdir")),
    ("lattice_cgroup_removed", Hook::TracePoint("cgroup_rmdir")),
];

const TIER_ONE: [(&str, Hook); 15] = [
    // The judges before what prepares them: a program that is attached alone must not see half an exec.
    ("lattice_exec_file", Hook::Lsm("bprm_check_security")),
    ("lattice_exec_begins", Hook::Lsm("bprm_creds_for_exec")),
    // Of the programs on one hook the newest runs first.
    ("lattice_exec_thread", Hook::Lsm("bprm_creds_for_exec")),
    ("lattice_mapped", Hook::Lsm("mmap_file")),
    ("lattice_protected", Hook::Lsm("file_mprotect")),
    ("lattice_exec_committed", Hook::Lsm("bprm_committed_creds")),
    ("lattice_interpreter_opened", Hook::Lsm("file_open")),
    ("lattice_bpf", Hook::Lsm("bpf")),
    ("lattice_signalled", Hook::Lsm("task_kill")),
    ("lattice_sigio", Hook::Lsm("file_send_sigiotask")),
    ("lattice_limited", Hook::Lsm("task_setrlimit")),
    ("lattice_scheduled", Hook::Lsm("task_setscheduler")),
    ("lattice_traced", Hook::Lsm("ptrace_access_check")),
    ("lattice_unlinked", Hook::Lsm("inode_unlink")),
    ("lattice_renamed", Hook::Lsm("inode_rename")),
];

const TIER_TWO: [(&str, Hook); 1] = [("lattice_exec_done", Hook::TracePoint("sched_process_exec"))];

fn programs(tier: Tier) -> impl Iterator<Item = (&'static str, &'static Hook)> {
    let judges: &'static [(&str, Hook)] = match tier {
        Tier::One => &TIER_ONE,
        Tier::Two => &TIER_TWO,
    };
    const MARKS_STATIC: &[(&str, Hook)] = &MARKS;
    MARKS_STATIC.iter().chain(judges).map(|(name, hook)| (*name, hook))
}

/// Maps that are pinned; `.rodata` belongs to one load.
fn pinned_maps(tier: Tier) -> impl Iterator<Item = &'static str> {
    let of_tier: &'static [&'static str] = match tier {
        Tier::One => &[map_names::DIGESTS],
        Tier::Two => &[map_names::INODES],
    };
    [
        map_names::NODE,
        map_names::CGROUPS,
        map_names::CONTAINERS,
        map_names::STARTED,
        map_names::POLICIES,
        map_names::NAMESPACES,
        map_names::ENTRIES,
        map_names::SIZES,
        map_names::PATHS,
        map_names::APPLETS,
        map_names::DENYLIST,
        map_names::COUNTERS,
        map_names::SEQUENCE,
        map_names::WINDOW,
        map_names::REPEATS,
        map_names::EVENTS,
        map_names::TASKS,
    ]
    .into_iter()
    .chain(of_tier.iter().copied())
}

/// Embedded objects need the alignment of an ELF header.
#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);

static TIER_ONE_OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/tier1.o")));
static TIER_TWO_OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/tier2.o")));

fn object(tier: Tier) -> &'static [u8] {
    match tier {
        Tier::One => &TIER_ONE_OBJECT.0,
        Tier::Two => &TIER_TWO_OBJECT.0,
    }
}

/// Map sizes that can be set, in elements.
#[derive(Debug, Clone)]
pub struct MapSizes(pub Vec<(&'static str, u32)>);

/// Programs that are active, and their maps.
pub struct Active {
    /// The tier whose programs they are.
    pub tier: Tier,
    /// Their maps, opened from the pins.
    pub maps: Maps,
    /// Whether they were found pinned rather than loaded now.
    pub found_pinned: bool,
}

/// Makes the programs of `tier` active and pinned.
///
/// # Errors
/// When the kernel refuses a program, a link cannot be pinned, or a pinned map has another layout. What was active before stays so.
pub fn activate(tier: Tier, pins: &PinDirectory, sizes: &MapSizes) -> Result<Active, ObjectError> {
    pins.create()?;
    let globals = globals(&Btf::from_file(Path::new(KERNEL_BTF))?)?;
    let release = release(tier, &globals);
    if is_pinned(tier, pins)
        && let Ok(mut maps) = Maps::open(pins)
        && maps.node().is_ok_and(|node| node.release == release)
    {
        return Ok(Active {
            tier,
            maps,
            found_pinned: true,
        });
    }
    let mut ebpf = load(tier, pins, sizes, &globals)?;
    attach(tier, pins, &mut ebpf)?;
    let mut maps = Maps::open(pins)?;
    maps.update_node(|node| node.release = release)
        .map_err(|source| ObjectError::Map {
            map: map_names::NODE.into(),
            source,
        })?;
    Ok(Active {
        tier,
        maps,
        found_pinned: false,
    })
}

/// Whether the kernel loads and attaches tier 1's programs; nothing stays attached.
///
/// # Errors
/// What the kernel said to the first program that it refused.
pub fn try_tier_one() -> Result<(), ObjectError> {
    let globals = globals(&Btf::from_file(Path::new(KERNEL_BTF))?)?;
    let mut loader = EbpfLoader::new();
    let btf = kernel_btf()?;
    loader
        .btf(Some(&btf))
        .allow_unsupported_maps()
        .verifier_log_level(VerifierLogLevel::STATS);
    for (name, value) in &globals {
        loader.override_global(name, value, false);
    }
    let mut ebpf = loader.load(object(Tier::One)).map_err(|source| ObjectError::Load {
        tier: Tier::One,
        source,
    })?;
    for (name, hook) in programs(Tier::One) {
        load_and_attach(&mut ebpf, &btf, name, hook)?;
    }
    Ok(())
}

fn kernel_btf() -> Result<AyaBtf, ObjectError> {
    AyaBtf::from_sys_fs().map_err(ObjectError::KernelBtf)
}

fn release(tier: Tier, globals: &Globals) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(object(tier));
    for (name, value) in globals {
        hasher.update(name.as_bytes());
        hasher.update(value.to_ne_bytes());
    }
    let digest = hasher.finalize();
    u64::from_ne_bytes(std::array::from_fn(|index| digest[index]))
}

/// Programs of the tier whose links are not pinned.
pub fn missing_links(tier: Tier, pins: &PinDirectory) -> Vec<&'static str> {
    programs(tier)
        .map(|(name, _)| name)
        .filter(|name| !pins.link(name).exists())
        .collect()
}

fn is_pinned(tier: Tier, pins: &PinDirectory) -> bool {
    programs(tier).all(|(name, _)| pins.link(name).exists() && !pins.next_link(name).exists())
}

fn load(tier: Tier, pins: &PinDirectory, sizes: &MapSizes, globals: &Globals) -> Result<Ebpf, ObjectError> {
    let btf = kernel_btf()?;
    let mut loader = EbpfLoader::new();
    // Task storage is a map type that aya passes through without an API of its own.
    loader
        .btf(Some(&btf))
        .allow_unsupported_maps()
        .verifier_log_level(VerifierLogLevel::STATS);
    for (name, value) in globals {
        loader.override_global(name, value, false);
    }
    for &(name, elements) in &sizes.0 {
        loader.map_max_entries(name, elements);
    }
    for name in pinned_maps(tier) {
        loader.map_pin_path(name, pins.map(name));
    }
    let ebpf = loader
        .load(object(tier))
        .map_err(|source| ObjectError::Load { tier, source })?;
    check_layouts(pins)?;
    Ok(ebpf)
}

/// aya takes a pinned map as it finds it: a layout of another build under the same schema version would be read as ours.
fn check_layouts(pins: &PinDirectory) -> Result<(), ObjectError> {
    for (map, key_bytes, value_bytes) in Maps::LAYOUTS {
        let path = pins.map(map);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|source| ObjectError::Map {
            map: (*map).into(),
            source,
        })?;
        let found = (info.key_size(), info.value_size());
        if found != (*key_bytes, *value_bytes) {
            let text = |(key, value): (u32, u32)| format!("keys of {key} and values of {value} bytes");
            return Err(ObjectError::Layout {
                map: (*map).into(),
                found: text(found),
                needed: text((*key_bytes, *value_bytes)),
            });
        }
    }
    Ok(())
}

fn attach(tier: Tier, pins: &PinDirectory, ebpf: &mut Ebpf) -> Result<(), ObjectError> {
    let btf = kernel_btf()?;
    let mut links = Vec::new();
    for (name, hook) in programs(tier) {
        links.push((name, load_and_attach(ebpf, &btf, name, hook)?));
    }
    // All are active: from here on nothing that the kernel refuses leaves half of them behind.
    let mut pinned = Vec::new();
    for (name, link) in links {
        let next = pins.next_link(name);
        remove_if_there(&next).map_err(|source| ObjectError::Link { program: name, source })?;
        link.pin(&next).map_err(|error| ObjectError::Link {
            program: name,
            source: io::Error::other(error),
        })?;
        pinned.push(name);
    }
    // A link that is replaced here goes with its pin.
    for name in pinned {
        fs::rename(pins.next_link(name), pins.link(name))
            .map_err(|source| ObjectError::Link { program: name, source })?;
    }
    // What an older release had besides, or another tier.
    for entry in fs::read_dir(pins.links()).into_iter().flatten().flatten() {
        let known = entry
            .file_name()
            .to_str()
            .is_some_and(|file| programs(tier).any(|(name, _)| name == file));
        if !known {
            remove_if_there(&entry.path()).map_err(|source| ObjectError::Link {
                program: "of another release",
                source,
            })?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn load_and_attach(ebpf: &mut Ebpf, btf: &AyaBtf, name: &'static str, hook: &Hook) -> Result<FdLink, ObjectError> {
    let refused = |action| {
        move |source| ObjectError::Program {
            action,
            program: name,
            source,
        }
    };
    let program = ebpf.program_mut(name).ok_or(ObjectError::Program {
        action: "find",
        program: name,
        source: ProgramError::NotLoaded,
    })?;
    let link: Result<FdLink, LinkError> = match hook {
        Hook::Lsm(hook) => {
            let program: &mut Lsm = program.try_into().map_err(refused("take"))?;
            program.load(hook, btf).map_err(refused("load"))?;
            let link = program.attach().map_err(refused("attach"))?;
            Ok(program.take_link(link).map_err(refused("attach"))?.into())
        }
        Hook::TracePoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(refused("take"))?;
            program.load(tracepoint, btf).map_err(refused("load"))?;
            let link = program.attach().map_err(refused("attach"))?;
            Ok(program.take_link(link).map_err(refused("attach"))?.into())
        }
    };
    if let Some(program) = ebpf.program(name)
        && let Ok(info) = program.info()
    {
        tracing::debug!(
            program = name,
            verified_instructions = info.verified_instruction_count(),
            "attached"
        );
    }
    link.map_err(|error| ObjectError::Link {
        program: name,
        source: io::Error::other(error),
    })
}

/// Whether a program of ours is loaded, by its name. The kernel takes a removed pin's program down a moment later.
pub fn is_any_loaded() -> bool {
    programs(Tier::One).chain(programs(Tier::Two)).any(|(name, _)| {
        // The kernel keeps 15 bytes of a name.
        let kept = name.get(..15).unwrap_or(name);
        loaded_programs()
            .flatten()
            .any(|program| program.name_as_str() == Some(kept))
    })
}

/// Opens one pinned map.
pub(super) fn open(pins: &PinDirectory, name: &str) -> Result<MapData, ObjectError> {
    MapData::from_pin(pins.map(name)).map_err(|source| ObjectError::Map {
        map: name.into(),
        source,
    })
}
