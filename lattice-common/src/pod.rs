//! What aya needs in order to copy these types to and from maps.

use aya::Pod;

use crate::{
    abi::{
        AppletKey, CgroupEntry, Container, EntryKey, EntryRule, InodeKey, KnownInode, Namespace, NodeConfig, PathKey,
        Policy, SizeKey, Started, TaskState,
    },
    repeat::{Repeat, RepeatKey},
};

macro_rules! pod {
    ($($name:ident),+) => {
        // SAFETY: repr(C), made of integers alone, without padding (their sizes are asserted beside them): any bytes are a value and
        // every byte is initialised.
        $(unsafe impl Pod for $name {})+
    };
}

pod!(
    AppletKey,
    CgroupEntry,
    Container,
    EntryKey,
    EntryRule,
    InodeKey,
    KnownInode,
    Namespace,
    NodeConfig,
    PathKey,
    Policy,
    Repeat,
    RepeatKey,
    SizeKey,
    Started,
    TaskState
);
