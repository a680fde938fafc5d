//! The maps, typed. Thin: what goes into them is decided in [`enforcement`](crate::enforcement).

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use lattice_common::{
    abi::{
        AppletKey, CgroupEntry, Container, DigestWords, EntryKey, EntryRule, InodeKey, KnownInode, Namespace,
        NodeConfig, PathKey, Policy, SizeKey, Started, counter, maps as names,
    },
    repeat::{Repeat, RepeatKey},
};

use crate::{
    enforcement::tables::{TableError, absent_is_fine, refused},
    events::repeats::Repeats,
};

use super::{
    object::{ObjectError, open},
    pins::PinDirectory,
    tasks::TaskTable,
};

/// Handles on the pinned maps.
pub struct Maps {
    node: Array<MapData, NodeConfig>,
    /// What each cgroup is.
    pub cgroups: HashMap<MapData, u64, CgroupEntry>,
    /// Container slots.
    pub containers: Array<MapData, Container>,
    /// Epochs whose first program has started, by container slot.
    pub started: Array<MapData, Started>,
    /// Policies by index.
    pub policies: Array<MapData, Policy>,
    /// Namespaces by index.
    pub namespaces: Array<MapData, Namespace>,
    /// Digests by set.
    pub entries: HashMap<MapData, EntryKey, EntryRule>,
    /// Sizes by set.
    pub sizes: HashMap<MapData, SizeKey, u32>,
    /// Paths by set.
    pub paths: HashMap<MapData, PathKey, EntryRule>,
    /// Names of programs of many applets by set.
    pub applets: HashMap<MapData, AppletKey, EntryRule>,
    /// Digests that are refused everywhere.
    pub denylist: HashMap<MapData, DigestWords, u32>,
    /// Marks of tasks.
    pub tasks: TaskTable,
    counters: PerCpuArray<MapData, u64>,
    sequence: Array<MapData, u64>,
}

/// Files by inode; only tier 2 has it.
pub struct InodeTable(HashMap<MapData, InodeKey, KnownInode>);

impl InodeTable {
    /// Opens the pinned map.
    ///
    /// # Errors
    /// When it is not pinned.
    pub fn open(pins: &PinDirectory) -> Result<Self, ObjectError> {
        typed(pins, names::INODES).map(Self)
    }

    /// Tells what a file is.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    pub fn insert(&mut self, key: InodeKey, known: KnownInode) -> Result<(), TableError> {
        self.0.insert(key, known, 0).map_err(refused("write", "INODES"))
    }

    /// What was told of a file.
    pub fn get(&self, key: InodeKey) -> Option<KnownInode> {
        self.0.get(&key, 0).ok()
    }

    /// Forgets a file; one that is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, key: InodeKey) -> Result<(), TableError> {
        absent_is_fine(self.0.remove(&key), "INODES")
    }
}

/// Refusals that the kernel side counts, and the window that it counts in.
pub struct RepeatTable {
    window: Array<MapData, u64>,
    repeats: HashMap<MapData, RepeatKey, Repeat>,
}

impl RepeatTable {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// When they are not pinned.
    pub fn open(pins: &PinDirectory) -> Result<Self, ObjectError> {
        Ok(Self {
            window: typed(pins, names::WINDOW)?,
            repeats: typed(pins, names::REPEATS)?,
        })
    }
}

impl Repeats for RepeatTable {
    fn next_window(&mut self) -> Result<u64, TableError> {
        let window = self.window.get(&0, 0).map_err(refused("read", "WINDOW"))? + 1;
        self.window.set(0, window, 0).map_err(refused("write", "WINDOW"))?;
        Ok(window)
    }

    fn all(&self) -> Result<Vec<(RepeatKey, Repeat)>, TableError> {
        self.repeats
            .iter()
            .collect::<Result<_, _>>()
            .map_err(refused("read", "REPEATS"))
    }

    fn put(&mut self, key: RepeatKey, repeat: Repeat) -> Result<(), TableError> {
        self.repeats.insert(key, repeat, 0).map_err(refused("write", "REPEATS"))
    }

    fn remove(&mut self, key: RepeatKey) -> Result<(), TableError> {
        absent_is_fine(self.repeats.remove(&key), "REPEATS")
    }
}

fn typed<Typed: TryFrom<Map, Error = MapError>>(pins: &PinDirectory, name: &str) -> Result<Typed, ObjectError> {
    let as_error = |source| ObjectError::Map {
        map: name.into(),
        source,
    };
    Map::from_map_data(open(pins, name)?)
        .map_err(as_error)?
        .try_into()
        .map_err(as_error)
}

impl Maps {
    /// Names with the sizes of keys and values in bytes, as this release has them.
    pub const LAYOUTS: &[(&'static str, u32, u32)] = &[
        (names::NODE, 4, size_of::<NodeConfig>() as u32),
        (names::CGROUPS, 8, size_of::<CgroupEntry>() as u32),
        (names::CONTAINERS, 4, size_of::<Container>() as u32),
        (names::STARTED, 4, size_of::<Started>() as u32),
        (names::POLICIES, 4, size_of::<Policy>() as u32),
        (names::NAMESPACES, 4, size_of::<Namespace>() as u32),
        (
            names::ENTRIES,
            size_of::<EntryKey>() as u32,
            size_of::<EntryRule>() as u32,
        ),
        (names::SIZES, size_of::<SizeKey>() as u32, 4),
        (names::PATHS, size_of::<PathKey>() as u32, size_of::<EntryRule>() as u32),
        (
            names::APPLETS,
            size_of::<AppletKey>() as u32,
            size_of::<EntryRule>() as u32,
        ),
        (names::DENYLIST, size_of::<DigestWords>() as u32, 4),
        (
            names::INODES,
            size_of::<InodeKey>() as u32,
            size_of::<KnownInode>() as u32,
        ),
        (names::COUNTERS, 4, 8),
        (names::SEQUENCE, 4, 8),
        (names::WINDOW, 4, 8),
        (
            names::REPEATS,
            size_of::<RepeatKey>() as u32,
            size_of::<Repeat>() as u32,
        ),
    ];

    /// Opens the pinned maps.
    ///
    /// # Errors
    /// When a map is not pinned or has another type.
    pub fn open(pins: &PinDirectory) -> Result<Self, ObjectError> {
        Ok(Self {
            node: typed(pins, names::NODE)?,
            cgroups: typed(pins, names::CGROUPS)?,
            containers: typed(pins, names::CONTAINERS)?,
            started: typed(pins, names::STARTED)?,
            policies: typed(pins, names::POLICIES)?,
            namespaces: typed(pins, names::NAMESPACES)?,
            entries: typed(pins, names::ENTRIES)?,
            sizes: typed(pins, names::SIZES)?,
            paths: typed(pins, names::PATHS)?,
            applets: typed(pins, names::APPLETS)?,
            denylist: typed(pins, names::DENYLIST)?,
            tasks: TaskTable::new(open(pins, names::TASKS)?),
            counters: typed(pins, names::COUNTERS)?,
            sequence: typed(pins, names::SEQUENCE)?,
        })
    }

    /// The ring buffer; one reader at a time.
    ///
    /// # Errors
    /// When it is not pinned.
    pub fn events(pins: &PinDirectory) -> Result<RingBuf<MapData>, ObjectError> {
        typed(pins, names::EVENTS)
    }

    /// What holds for the whole node.
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn node(&mut self) -> Result<NodeConfig, MapError> {
        self.node.get(&0, 0)
    }

    /// Changes what holds for the whole node, in one write.
    ///
    /// # Errors
    /// When the kernel refuses the update.
    pub fn update_node(&mut self, change: impl FnOnce(&mut NodeConfig)) -> Result<(), MapError> {
        let mut node = self.node.get(&0, 0)?;
        change(&mut node);
        self.node.set(0, node, 0)
    }

    /// A counter's sum over all CPUs; `slot` is a [`Reason`](lattice_common::verdict::Reason) or one of
    /// [`counter`](lattice_common::abi::counter).
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn counter(&self, slot: u32) -> Result<u64, MapError> {
        debug_assert!(slot < counter::SLOTS);
        Ok(self.counters.get(&slot, 0)?.iter().sum())
    }

    /// Lets the kernel number on from `last`, unless it is further already: after an uninstall the counter is new, while what keeps
    /// events knows this boot's earlier numbers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn continue_sequence_after(&mut self, last: u64) -> Result<(), MapError> {
        if self.sequence.get(&0, 0)? < last {
            self.sequence.set(0, last, 0)
        } else {
            Ok(())
        }
    }

    /// The sequence number that was given last.
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn last_sequence(&self) -> Result<u64, MapError> {
        self.sequence.get(&0, 0)
    }
}
