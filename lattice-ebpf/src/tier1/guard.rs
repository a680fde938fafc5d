//! Nobody turns Lattice off from inside a container: no bpf(2), no signal to the agent, no look into it, no hand on its pins.

use lattice_common::{
    abi::{NodeConfig, namespace_flag},
    verdict::{Act, Effect, Facts, Identity, Role},
};

use crate::{
    arguments::NOWHERE,
    caller::{Caller, current},
    count::decided,
    kernel::{INODE_I_INO, INODE_I_SB, Pointer, SUPER_BLOCK_S_DEV, TASK_STRUCT_TGID, probe},
    maps::{CONTAINERS, NAMESPACES, NODE},
    report::{FileFacts, Report, report},
};

/// A role that no file has.
const NO_ROLE: Role = Role(0xff);

#[inline(always)]
fn node() -> Option<NodeConfig> {
    NODE.get(0).copied()
}

/// Whether a task belongs to the agent's process.
#[inline(always)]
pub(crate) fn is_agent(task: Pointer) -> bool {
    node().is_some_and(|node| {
        node.agent_process != 0 && probe::<u32>(task, TASK_STRUCT_TGID.load()) == node.agent_process
    })
}

/// Whether a folder (`struct inode`) is one of those that hold the pins.
#[inline(always)]
pub(crate) fn holds_pins(folder: Pointer) -> bool {
    let Some(node) = node() else { return false };
    let number: u64 = probe(folder, INODE_I_INO.load());
    if number != node.links_inode && number != node.maps_inode {
        return false;
    }
    let super_block = probe::<u64>(folder, INODE_I_SB.load()) as Pointer;
    node.pins_device != 0 && probe::<u32>(super_block, SUPER_BLOCK_S_DEV.load()) == node.pins_device
}

/// The current task reaches for something of Lattice's. Returns whether it may.
#[inline(always)]
pub(crate) fn may(act: Act, hook: u32) -> bool {
    let Some(caller) = Caller::current() else { return true };
    // The runtime at work in a container's cgroup, and the agent itself, wherever it runs.
    if caller.entering != 0 || is_agent(current().cast_const().cast()) {
        return true;
    }
    let is_granted = act == Act::BPF
        && CONTAINERS
            .get(caller.container)
            .and_then(|container| NAMESPACES.get(container.namespace))
            .is_some_and(|namespace| namespace.flags & namespace_flag::BPF != 0);
    let decision = decided(Facts {
        act,
        membership: caller.membership,
        identity: Identity::UNLISTED,
        allowed_origins: u32::from(is_granted),
        other_role: false,
        other_name: false,
        origin: caller.origin,
        denylisted: false,
        mode: caller.mode,
        fail: caller.fail,
    });
    if decision.effect == Effect::RUN {
        return true;
    }
    report(
        &Report {
            caller: &caller,
            decision,
            hook,
            role: NO_ROLE,
            flags: 0,
            signal_result: 0,
            entry: 0,
            digest: [0; 4],
            name: core::ptr::null(),
            arguments: NOWHERE,
            file: FileFacts {
                inode: 0,
                size_bytes: 0,
                device: 0,
                file_system: 0,
            },
        },
        |_| -1,
    );
    decision.runs()
}
