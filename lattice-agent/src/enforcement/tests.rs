//! The state of enforcement against tables in memory: what the kernel would see after every step.

use std::collections::{BTreeMap, BTreeSet};

use lattice_common::{
    abi::{CgroupEntry, Container, Namespace, NodeConfig, Policy, Started, TaskState, cgroup_kind, container_flag},
    verdict,
};
use lattice_policy::{CodeLoading, Entry, FailAction, FailSemantics, FileDigest, Origin, Role, Scope, Target};

use super::{compile::EntrySet, *};
use crate::{containers::identity::SANDBOX_NAME, denylist::Denylist};

/// Tables as the kernel's maps hold them; `room` is the number of digests that fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    containers: BTreeMap<u32, Container>,
    cgroups: BTreeMap<u64, CgroupEntry>,
    policies: BTreeMap<u32, Policy>,
    namespaces: BTreeMap<u32, Namespace>,
    sets: BTreeMap<u32, EntrySet>,
    started: BTreeMap<u32, Started>,
    denied: BTreeSet<abi::DigestWords>,
    node: NodeConfig,
    room: usize,
}

impl Memory {
    fn with_room(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// What the kernel would find for a cgroup: the mode and whether a digest is listed; `None` where nothing is known.
    fn judge(&self, cgroup_id: u64, digest: u8) -> Option<(u32, bool)> {
        let entry = self
            .cgroups
            .get(&cgroup_id)
            .filter(|entry| entry.kind == cgroup_kind::CONTAINER)?;
        let container = self
            .containers
            .get(&entry.index)
            .filter(|container| container.epoch == entry.epoch)?;
        let policy = self.policies.get(&container.policy)?;
        let namespace = self.namespaces.get(&container.namespace).copied().unwrap_or_default();
        let mode = abi::effective_mode(namespace.mode, policy.mode).0;
        let is_listed = self
            .sets
            .get(&policy.set)?
            .digests
            .contains_key(&abi::digest_words(&[digest; 32]));
        Some((mode, is_listed))
    }
}

impl Tables for Memory {
    fn put_container(&mut self, index: u32, container: Container) -> Result<(), TableError> {
        self.containers.insert(index, container);
        Ok(())
    }

    fn container(&self, index: u32) -> Result<Container, TableError> {
        Ok(self.containers.get(&index).copied().unwrap_or_default())
    }

    fn put_task(&mut self, _process: u32, _state: TaskState) -> Result<(), TableError> {
        Ok(())
    }

    fn put_denied(&mut self, digest: abi::DigestWords) -> Result<(), TableError> {
        self.denied.insert(digest);
        Ok(())
    }

    fn remove_denied(&mut self, digest: abi::DigestWords) -> Result<(), TableError> {
        self.denied.remove(&digest);
        Ok(())
    }

    fn denied(&self) -> Result<BTreeSet<abi::DigestWords>, TableError> {
        Ok(self.denied.clone())
    }

    fn put_started(&mut self, index: u32, started: Started) -> Result<(), TableError> {
        self.started.insert(index, started);
        Ok(())
    }

    fn containers(&self) -> Result<BTreeMap<u32, Container>, TableError> {
        Ok(self
            .containers
            .iter()
            .filter(|(_, container)| container.epoch != 0)
            .map(|(index, slot)| (*index, *slot))
            .collect())
    }

    fn container_slots(&self) -> u32 {
        8
    }

    fn put_cgroup(&mut self, cgroup_id: u64, entry: CgroupEntry) -> Result<(), TableError> {
        self.cgroups.insert(cgroup_id, entry);
        Ok(())
    }

    fn remove_cgroup(&mut self, cgroup_id: u64) -> Result<(), TableError> {
        self.cgroups.remove(&cgroup_id);
        Ok(())
    }

    fn cgroups(&self) -> Result<BTreeMap<u64, CgroupEntry>, TableError> {
        Ok(self.cgroups.clone())
    }

    fn put_policy(&mut self, index: u32, policy: Policy) -> Result<(), TableError> {
        self.policies.insert(index, policy);
        Ok(())
    }

    fn policies(&self) -> Result<BTreeMap<u32, Policy>, TableError> {
        Ok(self
            .policies
            .iter()
            .filter(|(_, policy)| policy.set != 0)
            .map(|(index, policy)| (*index, *policy))
            .collect())
    }

    fn policy_slots(&self) -> u32 {
        8
    }

    fn put_namespace(&mut self, index: u32, namespace: Namespace) -> Result<(), TableError> {
        self.namespaces.insert(index, namespace);
        Ok(())
    }

    fn namespace_slots(&self) -> u32 {
        8
    }

    fn put_set(&mut self, number: u32, set: &EntrySet) -> Result<(), TableError> {
        let used: usize = self.sets.values().map(|set| set.digests.len()).sum();
        if used + set.digests.len() > self.room {
            return Err(TableError::Full { map: "ENTRIES" });
        }
        self.sets.insert(number, set.clone());
        Ok(())
    }

    fn remove_set(&mut self, number: u32, _set: &EntrySet) -> Result<(), TableError> {
        self.sets.remove(&number);
        Ok(())
    }

    fn sets(&self) -> Result<BTreeMap<u32, EntrySet>, TableError> {
        Ok(self.sets.clone())
    }

    fn update_node(&mut self, change: &mut dyn FnMut(&mut NodeConfig)) -> Result<(), TableError> {
        change(&mut self.node);
        Ok(())
    }
}

fn policy(namespace: &str, name: &str, digests: &[u8]) -> ExecPolicy {
    let entry = |digest: &u8| Entry {
        path: "/app".into(),
        sha256: Some(FileDigest([*digest; 32])),
        real_path: None,
        size_bytes: Some(1),
        kind: None,
        roles: vec![Role::Target],
        from: Origin::Any,
        applets: Vec::new(),
        because: Vec::new(),
    };
    ExecPolicy {
        namespace: namespace.into(),
        name: name.into(),
        target: Target {
            workload: Some(name.into()),
            ..Target::default()
        },
        mode: Mode::Monitor,
        fail: FailSemantics::default(),
        code_loading: CodeLoading::Image,
        scope: Scope::Declared,
        generation: 1,
        entries: digests.iter().map(entry).collect(),
        map: Vec::new(),
    }
}

fn container(namespace: &str, workload: &str, cgroup_id: u64) -> ContainerInfo {
    ContainerInfo {
        container_id: format!("{namespace}-{workload}"),
        namespace: namespace.into(),
        pod: String::new(),
        workload: workload.into(),
        name: "server".into(),
        service_account: String::new(),
        image_reference: String::new(),
        image_digest: None,
        cgroup_path: "/nowhere".into(),
        cgroup_id,
        pod_cgroup_id: None,
        root_device: 7,
        pid: None,
        is_running: false,
        has_own_root: true,
    }
}

const MONITOR: u32 = verdict::Mode::MONITOR.0;
const ENFORCE: u32 = verdict::Mode::ENFORCE.0;

#[track_caller]
fn apply(enforcement: &mut Enforcement<Memory>, policies: &[ExecPolicy], overrides: &[(&str, Mode)]) {
    let overrides = overrides
        .iter()
        .map(|(namespace, mode)| ((*namespace).to_owned(), *mode))
        .collect();
    let report = enforcement.apply(policies.to_vec(), overrides);
    assert!(report.errors.is_empty(), "{}", report.text());
}

fn running() -> Enforcement<Memory> {
    let mut enforcement = Enforcement::adopt(Memory::with_room(100)).unwrap();
    apply(
        &mut enforcement,
        &[policy("pay", "api", &[1]), policy("shop", "web", &[2])],
        &[],
    );
    enforcement.container_started(container("pay", "api", 11)).unwrap();
    enforcement.container_started(container("shop", "web", 22)).unwrap();
    enforcement
}

#[test]
fn an_override_flips_its_namespace_alone() {
    let mut enforcement = running();
    let policies = [policy("pay", "api", &[1]), policy("shop", "web", &[2])];
    apply(&mut enforcement, &policies, &[("pay", Mode::Enforce)]);
    assert_eq!(enforcement.tables.judge(11, 1), Some((ENFORCE, true)));
    assert_eq!(enforcement.tables.judge(22, 2), Some((MONITOR, true)));
    apply(&mut enforcement, &policies, &[]);
    assert_eq!(enforcement.tables.judge(11, 1), Some((MONITOR, true)));
}

#[test]
fn a_new_generation_replaces_the_set_and_frees_the_old_one() {
    let mut enforcement = running();
    apply(
        &mut enforcement,
        &[policy("pay", "api", &[3]), policy("shop", "web", &[2])],
        &[],
    );
    assert_eq!(enforcement.tables.judge(11, 3), Some((MONITOR, true)));
    assert_eq!(enforcement.tables.judge(11, 1), Some((MONITOR, false)));
    assert_eq!(enforcement.tables.sets.len(), 2);
}

#[test]
fn equal_sets_are_loaded_once() {
    let mut enforcement = Enforcement::adopt(Memory::with_room(100)).unwrap();
    apply(
        &mut enforcement,
        &[policy("pay", "a", &[1, 2]), policy("pay", "b", &[1, 2])],
        &[],
    );
    assert_eq!(enforcement.tables.sets.len(), 1);
    apply(&mut enforcement, &[policy("pay", "b", &[1, 2])], &[]);
    assert_eq!(enforcement.tables.sets.len(), 1);
    apply(&mut enforcement, &[], &[]);
    assert_eq!(enforcement.tables.sets.len(), 0);
}

#[test]
fn a_full_map_keeps_the_generation_before_and_closes_a_new_policy() {
    let mut enforcement = Enforcement::adopt(Memory::with_room(2)).unwrap();
    apply(&mut enforcement, &[policy("pay", "api", &[1])], &[]);
    enforcement.container_started(container("pay", "api", 11)).unwrap();
    enforcement.container_started(container("shop", "web", 22)).unwrap();
    let web = ExecPolicy {
        mode: Mode::Enforce,
        ..policy("shop", "web", &[4, 5, 6])
    };
    let report = enforcement.apply(vec![policy("pay", "api", &[1, 2, 3]), web], BTreeMap::new());
    assert_eq!(report.errors.len(), 2);
    assert!(
        report.text().contains("pay/api") && report.text().contains("ENTRIES is full"),
        "{}",
        report.text()
    );
    assert_eq!(enforcement.tables.judge(11, 1), Some((MONITOR, true)));
    let slot = enforcement.tables.cgroups[&22].index;
    assert_eq!(enforcement.tables.containers[&slot].policy, 0);
    assert_eq!(
        enforcement.tables.containers[&slot].missing,
        verdict::FailAction::CLOSED.0
    );
}

/// What a container's slot says of its failure; `None` where it has a policy.
fn missing(enforcement: &Enforcement<Memory>, cgroup_id: u64) -> Option<u32> {
    let slot = enforcement.tables.cgroups[&cgroup_id].index;
    let container = enforcement.tables.containers[&slot];
    (container.policy == 0).then_some(container.missing)
}

fn rejected_in(mode: Mode, map_full: FailAction) -> ExecPolicy {
    let mut policy = policy("pay", "api", &[1, 2, 3]);
    policy.mode = mode;
    policy.fail.map_full = map_full;
    policy.fail.missing = FailAction::Open;
    policy.fail.unknown = FailAction::Kill;
    policy
}

const CLOSED: u32 = verdict::FailAction::CLOSED.0;
const KILL: u32 = verdict::FailAction::KILL.0;
const OPEN: u32 = verdict::FailAction::OPEN.0;

#[test]
fn a_policy_that_does_not_fit_speaks_for_its_own_containers_alone() {
    for (mode, map_full, expected) in [
        (Mode::Enforce, FailAction::Closed, CLOSED),
        (Mode::Deny, FailAction::Kill, KILL),
        (Mode::Enforce, FailAction::Open, OPEN),
        (Mode::Monitor, FailAction::Open, OPEN),
        (Mode::Monitor, FailAction::Kill, KILL | abi::IN_MONITOR),
    ] {
        let mut enforcement = Enforcement::adopt(Memory::with_room(2)).unwrap();
        let in_pod = ContainerInfo {
            pod: "api-0".into(),
            pod_cgroup_id: Some(20),
            ..container("pay", "api", 11)
        };
        enforcement.container_started(in_pod).unwrap();
        enforcement.container_started(container("pay", "other", 12)).unwrap();
        let report = enforcement.apply(vec![rejected_in(mode, map_full)], BTreeMap::new());
        assert_eq!(report.errors.len(), 1);
        assert_eq!(
            (missing(&enforcement, 11), missing(&enforcement, 12)),
            (Some(expected), Some(OPEN))
        );
        let pending = enforcement.tables.cgroups[&20].pending;
        assert_eq!(
            pending & !abi::IN_MONITOR,
            KILL,
            "what it says of a new container holds too"
        );
        let of = |cgroup_id| enforcement.rejected_policy_of(&enforcement.containers[&cgroup_id].info);
        assert_eq!(of(11).map(|policy| policy.name.as_str()), Some("api"));
        assert!(of(12).is_none());
        let unguarded: Vec<_> = enforcement
            .unguarded()
            .map(|(info, why)| (info.cgroup_id, why))
            .collect();
        let own = (11, Unguarded::NotLoaded("api".into()));
        let other = (12, Unguarded::Missing);
        assert_eq!(
            unguarded,
            if expected == OPEN {
                vec![own, other]
            } else {
                vec![other]
            }
        );
    }
}

#[test]
fn the_most_specific_policy_counts_also_where_it_does_not_fit() {
    let mut enforcement = Enforcement::adopt(Memory::with_room(2)).unwrap();
    let mut wide = policy("pay", "wide", &[9]);
    wide.target = Target::default();
    enforcement.container_started(container("pay", "api", 11)).unwrap();
    let report = enforcement.apply(
        vec![wide, rejected_in(Mode::Enforce, FailAction::Closed)],
        BTreeMap::new(),
    );
    assert_eq!(report.errors.len(), 1);
    assert_eq!(missing(&enforcement, 11), Some(CLOSED));
    // An override of the namespace's is the kernel's to see; what is said in monitor is said in enforce then.
    enforcement.apply(
        vec![rejected_in(Mode::Monitor, FailAction::Closed)],
        BTreeMap::from([("pay".to_owned(), Mode::Enforce)]),
    );
    assert_eq!(missing(&enforcement, 11), Some(CLOSED));
}

#[test]
fn what_was_rejected_is_loaded_when_something_else_goes() {
    let mut enforcement = Enforcement::adopt(Memory::with_room(3)).unwrap();
    enforcement.container_started(container("pay", "api", 11)).unwrap();
    let both = vec![policy("a", "first", &[7, 8]), policy("pay", "api", &[1, 2])];
    assert_eq!(enforcement.apply(both, BTreeMap::new()).errors.len(), 1);
    assert_eq!(enforcement.rejected_count(), 1);
    // In the same step.
    apply(&mut enforcement, &[policy("pay", "api", &[1, 2])], &[]);
    assert_eq!(enforcement.tables.judge(11, 1), Some((MONITOR, true)));
    assert_eq!(enforcement.rejected_count(), 0);

    // After a restart, what nobody claims takes room until it is settled.
    let mut restarted = Enforcement::adopt(enforcement.tables.clone()).unwrap();
    restarted.container_started(container("pay", "api", 11)).unwrap();
    let report = restarted.apply(vec![policy("pay", "api", &[3, 4])], BTreeMap::new());
    assert_eq!(report.errors.len(), 1);
    restarted.settle().unwrap();
    assert_eq!(restarted.tables.judge(11, 3), Some((MONITOR, true)));
    assert_eq!(restarted.rejected_count(), 0);
}

#[test]
fn a_namespace_without_anything_in_it_takes_no_slot() {
    let mut enforcement = Enforcement::adopt(Memory::with_room(100)).unwrap();
    for number in 0..20 {
        let namespace = format!("job-{number}");
        enforcement.container_started(container(&namespace, "job", 11)).unwrap();
        assert!(enforcement.namespaces.len() <= 1);
        enforcement.container_stopped(11).unwrap();
        apply(&mut enforcement, &[], &[(namespace.as_str(), Mode::Deny)]);
        apply(&mut enforcement, &[], &[]);
    }
    assert!(enforcement.namespaces.is_empty());
    // One that is in use keeps its own.
    enforcement.container_started(container("a", "job", 11)).unwrap();
    enforcement.container_started(container("a", "job", 12)).unwrap();
    enforcement.container_stopped(11).unwrap();
    assert!(enforcement.namespaces.contains_key("a"));
}

#[test]
fn a_restart_changes_nothing_that_is_in_force_until_it_is_told() {
    let mut enforcement = running();
    let policies = [policy("pay", "api", &[1]), policy("shop", "web", &[2])];
    apply(&mut enforcement, &policies, &[("shop", Mode::Enforce)]);
    let before = enforcement.tables.clone();

    let mut restarted = Enforcement::adopt(before.clone()).unwrap();
    assert_eq!(restarted.tables, before);
    // Told in another order, step by step: at no step is a container weaker than before or after.
    let holds = |enforcement: &Enforcement<Memory>| {
        assert_eq!(enforcement.tables.judge(22, 2), Some((ENFORCE, true)));
        assert_eq!(enforcement.tables.judge(11, 1), Some((MONITOR, true)));
    };
    apply(&mut restarted, &policies, &[("shop", Mode::Enforce)]);
    holds(&restarted);
    restarted.container_started(container("pay", "api", 11)).unwrap();
    holds(&restarted);
    restarted.container_started(container("shop", "web", 22)).unwrap();
    holds(&restarted);
    restarted.settle().unwrap();
    holds(&restarted);
    assert_eq!(
        restarted.tables.cgroups[&11], before.cgroups[&11],
        "a task's mark names slot and epoch"
    );
    assert_eq!(restarted.tables.sets.len(), 2);
}

#[test]
fn what_nobody_claims_after_a_restart_goes() {
    let mut restarted = Enforcement::adopt(running().tables).unwrap();
    apply(&mut restarted, &[policy("pay", "api", &[1])], &[]);
    restarted.container_started(container("pay", "api", 11)).unwrap();
    restarted.settle().unwrap();
    assert_eq!(restarted.tables.judge(22, 2), None);
    assert_eq!(restarted.tables.judge(11, 1), Some((MONITOR, true)));
    assert_eq!(restarted.tables.sets.len(), 1);
}

#[test]
fn while_something_is_not_known_what_held_before_a_restart_holds() {
    let mut enforcement = running();
    let policies = [policy("pay", "api", &[1]), policy("shop", "web", &[2])];
    apply(&mut enforcement, &policies, &[("pay", Mode::Enforce)]);

    let mut restarted = Enforcement::adopt(enforcement.tables.clone()).unwrap();
    restarted.set_incomplete();
    // Neither the override nor the one policy is known; of the other there is a new generation.
    let told = [policy("shop", "web", &[3])];
    apply(&mut restarted, &told, &[]);
    restarted.container_started(container("pay", "api", 11)).unwrap();
    restarted.container_started(container("shop", "web", 22)).unwrap();
    restarted.container_started(container("shop", "web", 33)).unwrap();
    restarted.settle().unwrap();
    apply(&mut restarted, &told, &[]);
    assert_eq!(restarted.tables.judge(11, 1), Some((ENFORCE, true)));
    assert_eq!(restarted.tables.judge(11, 2), Some((ENFORCE, false)));
    assert_eq!(restarted.tables.judge(22, 2), Some((MONITOR, true)));
    // What is new has what is known.
    assert_eq!(restarted.tables.judge(33, 3), Some((MONITOR, true)));
    assert_eq!(restarted.held_count().unwrap(), 2);

    // Another restart in that state changes nothing.
    let mut again = Enforcement::adopt(restarted.tables.clone()).unwrap();
    again.set_incomplete();
    again.container_started(container("pay", "api", 11)).unwrap();
    again.settle().unwrap();
    assert_eq!(again.tables.judge(11, 1), Some((ENFORCE, true)));

    // All is known: the new generation holds, and what nobody claims goes.
    let report = restarted.apply_all(
        vec![policy("pay", "api", &[1]), policy("shop", "web", &[3])],
        BTreeMap::from([("pay".to_owned(), Mode::Deny)]),
    );
    assert!(report.errors.is_empty(), "{}", report.text());
    assert_eq!(restarted.held_count().unwrap(), 0);
    assert_eq!(restarted.tables.judge(11, 1), Some((verdict::Mode::DENY.0, true)));
    assert_eq!(restarted.tables.judge(22, 2), Some((MONITOR, false)));
    assert_eq!(restarted.tables.judge(22, 3), Some((MONITOR, true)));
    assert_eq!(restarted.tables.sets.len(), 2);
}

#[test]
fn a_slot_is_given_away_with_another_epoch() {
    let mut enforcement = running();
    let before = enforcement.tables.cgroups[&11];
    enforcement.container_stopped(11).unwrap();
    enforcement.container_started(container("pay", "api", 33)).unwrap();
    let after = enforcement.tables.cgroups[&33];
    assert_eq!(before.index, after.index);
    assert_ne!(before.epoch, after.epoch);
}

#[test]
fn the_most_specific_policy_wins() {
    let mut wide = policy("pay", "wide", &[9]);
    wide.target = Target::default();
    let mut enforcement = Enforcement::adopt(Memory::with_room(100)).unwrap();
    apply(&mut enforcement, &[wide, policy("pay", "api", &[1])], &[]);
    enforcement.container_started(container("pay", "api", 11)).unwrap();
    enforcement.container_started(container("pay", "other", 12)).unwrap();
    assert_eq!(enforcement.tables.judge(11, 1), Some((MONITOR, true)));
    assert_eq!(enforcement.tables.judge(12, 9), Some((MONITOR, true)));
}

#[test]
fn what_holds_a_pods_namespaces_is_the_nodes_own_unless_a_policy_names_it() {
    let sandbox = ContainerInfo {
        pod: "api-1".into(),
        name: SANDBOX_NAME.into(),
        ..container("pay", "api", 11)
    };
    let mut strict = policy("pay", "api", &[1]);
    strict.fail.missing = lattice_policy::FailAction::Closed;
    let mut enforcement = Enforcement::adopt(Memory::with_room(100)).unwrap();
    apply(&mut enforcement, std::slice::from_ref(&strict), &[]);
    enforcement.container_started(sandbox).unwrap();
    enforcement.container_started(container("pay", "api", 12)).unwrap();
    let missing = |enforcement: &Enforcement<Memory>| {
        let index = enforcement.tables.cgroups[&11].index;
        enforcement.tables.containers[&index].missing
    };
    assert_eq!(
        enforcement.tables.judge(11, 1),
        None,
        "a policy of all containers is not for it"
    );
    assert_eq!(missing(&enforcement), verdict::FailAction::OPEN.0);
    assert_eq!(enforcement.tables.judge(12, 1), Some((MONITOR, true)));
    apply(&mut enforcement, std::slice::from_ref(&strict), &[]);
    assert_eq!(
        missing(&enforcement),
        verdict::FailAction::OPEN.0,
        "nor after policies changed"
    );

    let mut named = policy("pay", "api", &[2]);
    named.target.container = Some(SANDBOX_NAME.into());
    apply(&mut enforcement, &[named], &[]);
    assert_eq!(enforcement.tables.judge(11, 2), Some((MONITOR, true)));
}

#[test]
fn what_is_new_in_a_known_pod_is_pending_as_its_namespace_says() {
    let mut enforcement = running();
    let in_pod = |workload: &str, cgroup_id| ContainerInfo {
        pod: "web-1".into(),
        pod_cgroup_id: Some(20),
        ..container("shop", workload, cgroup_id)
    };
    enforcement.container_started(in_pod("web", 23)).unwrap();
    enforcement.container_started(in_pod("sidecar", 24)).unwrap();
    let pod = enforcement.tables.cgroups[&20];
    assert_eq!(
        (pod.kind, pod.pending),
        (cgroup_kind::POD, verdict::FailAction::CLOSED.0 | abi::IN_MONITOR)
    );
    apply(&mut enforcement, &[], &[]);
    assert_eq!(enforcement.tables.cgroups[&20].pending, verdict::FailAction::OPEN.0);
    enforcement.container_stopped(23).unwrap();
    assert!(enforcement.tables.cgroups.contains_key(&20));
    enforcement.container_stopped(24).unwrap();
    assert!(!enforcement.tables.cgroups.contains_key(&20));
}

#[test]
fn a_denied_image_marks_its_containers_and_a_denied_file_is_in_the_map() {
    let mut enforcement = running();
    let image = ImageDigest([9; 32]);
    let of_image = |cgroup_id| ContainerInfo {
        image_digest: Some(image),
        ..container("pay", "worker", cgroup_id)
    };
    enforcement.container_started(of_image(33)).unwrap();
    let file = FileDigest([7; 32]);
    let list = Denylist {
        files: [file].into(),
        images: [image].into(),
    };
    let denied = |enforcement: &Enforcement<Memory>| -> Vec<u64> {
        let slots = enforcement.tables.containers.values();
        slots
            .filter(|slot| slot.flags & container_flag::DENIED != 0)
            .map(|slot| slot.cgroup_id)
            .collect()
    };
    let told = enforcement.set_denylist(&list).unwrap();
    assert_eq!(told.iter().map(|info| info.cgroup_id).collect::<Vec<_>>(), [33]);
    assert_eq!(denied(&enforcement), [33]);
    // One that comes later starts nothing either.
    enforcement.container_started(of_image(44)).unwrap();
    assert_eq!(denied(&enforcement), [33, 44]);
    assert_eq!(enforcement.tables.denied, [abi::digest_words(&file.0)].into());
    assert_eq!(enforcement.denied_files().unwrap(), [file].into());
    assert_eq!(enforcement.tables.node.denylist_entries, 1);
    let standings = |enforcement: &Enforcement<Memory>| -> BTreeSet<u64> {
        let denied = enforcement.standings().filter(|standing| standing.is_denied);
        denied.map(|standing| standing.info.cgroup_id).collect()
    };
    assert_eq!(standings(&enforcement), [33, 44].into());
    assert_eq!(enforcement.set_denylist(&list).unwrap().len(), 2);
    assert!(enforcement.set_denylist(&Denylist::default()).unwrap().is_empty());
    assert_eq!(standings(&enforcement), [].into());
    assert!(enforcement.tables.denied.is_empty());
    assert_eq!(enforcement.tables.node.denylist_entries, 0);
    assert!(denied(&enforcement).is_empty());
}
