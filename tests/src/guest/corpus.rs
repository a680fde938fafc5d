//! The evasion corpus: every trick by its name, the cases that try it, and what came of it here.
//!
//! A case tells what came of each attempt that the agent is to stop; it belongs to the trick that the case names ([`Trial::trick`]), else to
//! every trick that lists the case. `cargo xtask test` reads the lines of all suites and merges them into one table.
//!
//! [`Trial::trick`]: super::trial::Trial::trick

use std::{collections::BTreeMap, fs};

use nix::errno::Errno;

use super::host::host;

/// What came of an attempt, in the order in which one outweighs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The kernel refuses it by itself, also without an agent.
    NotApplicable(i32),
    /// It was killed before its first instruction.
    Killed,
    /// It was answered with this errno.
    Refused(i32),
    /// A program between told of it by its own exit code.
    RefusedWithCode(i32),
    /// It ran.
    Ran,
}

/// A trick, and the cases all of whose attempts are this one.
pub type Trick = (&'static str, &'static [&'static str]);

/// Every trick there is a case for.
pub const TRICKS: &[Trick] = &[
    // Bytes.
    (
        "unlisted file",
        &[
            "enforce_runs_listed_and_kills_unlisted",
            "a_size_that_no_entry_has_is_unlisted_without_a_hash",
        ],
    ),
    ("dropped file", &["an_empty_list_lets_nothing_start"]),
    (
        "changed copy of a listed program",
        &["one_changed_byte_of_an_allowed_program_dies"],
    ),
    (
        "listed file written in place after it ran",
        &["a_file_that_changes_after_it_ran_is_judged_anew"],
    ),
    ("listed file copied up", &[]),
    ("rename over a listed path", &["a_file_renamed_over_a_listed_one_dies"]),
    (
        "RENAME_EXCHANGE with a listed path",
        &["from_inside_a_listed_path_is_exchanged_with_another_file"],
    ),
    (
        "shared mapping that outlives its descriptor",
        &["a_mapping_in_the_writable_layer_whose_descriptor_is_closed_is_unresolved"],
    ),
    (
        "writer on the upper folder",
        &["a_writer_on_the_upper_folder_itself_is_unresolved"],
    ),
    (
        "open writer",
        &[
            "an_open_writer_on_tmpfs_is_refused_by_the_kernel_itself",
            "an_open_writer_in_the_writable_layer_is_refused_by_the_kernel_itself",
        ],
    ),
    (
        "mapped writer",
        &["a_mapped_writer_on_tmpfs_is_refused_by_the_kernel_itself"],
    ),
    (
        "overlay of the attacker's own",
        &["a_lower_layer_of_an_overlay_that_the_container_mounted_can_change"],
    ),
    ("listed path truncated and written anew", &[]),
    (
        "FUSE that serves two contents",
        &["a_file_system_that_serves_two_contents_has_none_to_be_known_by"],
    ),
    (
        "file system on a loop device",
        &["listed_bytes_on_a_file_system_within_a_file_are_unresolved"],
    ),
    (
        "sparse file that is too large to hash",
        &["a_file_too_large_to_hash_is_unresolved_at_once"],
    ),
    ("file on a tmpfs", &[]),
    ("file on a volume", &[]),
    // Names.
    (
        "symbolic link",
        &[
            "a_symbolic_link_is_what_it_leads_to",
            "a_listed_name_linked_to_other_bytes_dies",
            "from_inside_a_symbolic_link_is_what_it_leads_to",
        ],
    ),
    ("hard link", &["a_hard_link_is_the_same_file"]),
    ("path with dots and slashes", &[]),
    ("long path", &["a_path_that_is_longer_than_any_entry_is_unlisted"]),
    ("name that is not UTF-8", &[]),
    (
        "another name of a listed path",
        &[
            "another_name_of_a_listed_path_is_unlisted",
            "a_path_entry_allows_its_path_and_no_other",
        ],
    ),
    ("mount over a listed path", &["a_file_mounted_over_a_listed_one_dies"]),
    (
        "mount over a listed path in a mount namespace",
        &[
            "a_listed_path_in_another_mount_namespace_is_unlisted",
            "from_inside_a_listed_path_is_mounted_over_in_an_own_namespace",
        ],
    ),
    (
        "program of the container runtime, started as a session",
        &["from_inside_the_runtimes_own_program_on_a_volume"],
    ),
    (
        "listed path by /proc/PID/root of another mount namespace",
        &["from_inside_a_listed_path_by_the_root_of_a_child"],
    ),
    (
        "listed path below a chroot",
        &[
            "a_listed_path_below_another_root_is_unlisted",
            "from_inside_a_listed_path_of_an_own_root",
        ],
    ),
    // Ways.
    ("execveat with AT_EMPTY_PATH", &["by_descriptor_with_at_empty_path"]),
    ("/proc/self/fd", &["by_proc_self_fd"]),
    ("thread that is not the first", &["from_a_thread_that_is_not_the_first"]),
    ("32-bit execve", &[]),
    ("detached copy of a mount", &[]),
    ("vfork", &["by_a_vforked_child"]),
    ("argv[0] of a listed program", &[]),
    ("deleted file", &["from_a_deleted_file"]),
    ("O_TMPFILE", &[]),
    ("sealed memfd", &["from_sealed_memory"]),
    ("memfd", &["from_unlisted_memory_of_another_size"]),
    (
        "memfd with listed bytes that can still be written",
        &["listed_bytes_in_memory_that_can_still_be_written_are_unresolved"],
    ),
    // Interpreters.
    (
        "unlisted script",
        &["an_unlisted_script_is_refused_before_its_interpreter"],
    ),
    (
        "script with an unlisted interpreter",
        &[
            "a_listed_script_with_an_unlisted_interpreter_is_refused",
            "an_interpreter_that_is_listed_as_target_alone_is_refused",
            "from_inside_an_interpreter_that_is_no_interpreter",
        ],
    ),
    (
        "script of a script",
        &["a_script_that_interprets_a_script_is_judged_as_interpreter"],
    ),
    ("chain of scripts", &[]),
    (
        "interpreter of binfmt_misc",
        &["an_interpreter_of_binfmt_misc_is_judged"],
    ),
    ("script on a tmpfs", &["from_inside_a_script_on_tmpfs"]),
    (
        "script without a known start",
        &[
            "a_script_without_a_known_start_is_no_way_around",
            "from_inside_a_script_without_a_known_start",
        ],
    ),
    ("loader as a command", &["the_loader_as_target_is_refused"]),
    (
        "unlisted loader",
        &[
            "a_loader_that_is_not_listed_is_refused",
            "a_loader_that_is_listed_as_target_alone_is_refused",
            "an_unlisted_loader_of_the_read_only_layer_is_refused_cold_and_warm",
        ],
    ),
    (
        "loader replaced by a mount",
        &[
            "a_loader_replaced_by_a_mount_is_refused_cold_and_warm",
            "a_loader_of_equal_size_and_other_bytes_is_refused",
        ],
    ),
    (
        "loader replaced by a rename",
        &[
            "a_loader_replaced_by_rename_is_refused",
            "a_loader_replaced_in_the_writable_layer_is_refused",
            "a_loader_of_equal_size_in_the_writable_layer_is_refused",
        ],
    ),
    (
        "loader written in place",
        &["a_loader_overwritten_in_place_in_the_writable_layer_is_refused"],
    ),
    (
        "loader changed under the running program",
        &["a_loader_that_can_change_under_the_running_program_is_unresolved"],
    ),
    (
        "applet that is not listed",
        &[
            "an_applet_is_listed_for_its_own_origin",
            "in_a_container_an_applet_is_judged_by_both_its_names",
        ],
    ),
    // Code.
    (
        "library that is not the image's",
        &["a_library_that_the_image_did_not_bring_is_refused"],
    ),
    (
        "changed library of the image",
        &["a_library_of_the_image_loads_until_it_is_changed"],
    ),
    ("library made executable later", &[]),
    ("library by uselib", &[]),
    ("library under READ_IMPLIES_EXEC", &[]),
    ("library under remap_file_pages", &[]),
    ("memfd mapped executable", &["code_in_a_memfd_is_refused"]),
    ("System V segment attached executable", &[]),
    ("LD_PRELOAD", &["a_foreign_ld_preload_is_not_loaded"]),
    // Membership and origin.
    (
        "task that leaves its cgroup",
        &[
            "a_task_that_leaves_its_cgroup_stays_a_member",
            "children_that_leave_the_cgroup_are_members",
        ],
    ),
    (
        "task that moves to another container",
        &["a_task_that_moves_to_another_container_stays_a_member_of_the_first"],
    ),
    (
        "clone3 into the cgroup",
        &["a_task_that_is_born_in_the_cgroup_and_leaves_it_is_a_member"],
    ),
    ("nested cgroups", &["nested_cgroups_evade_nothing"]),
    ("double fork", &["grandchildren_of_a_double_fork_are_members"]),
    (
        "thread older than the agent",
        &["a_thread_of_a_process_older_than_the_agent_stays_a_member"],
    ),
    (
        "probe's program, by the application",
        &["a_probes_program_cannot_be_started_by_the_application"],
    ),
    (
        "application's program, by a session",
        &["the_applications_program_cannot_be_started_by_a_session"],
    ),
    (
        "core_pattern that names a container's file",
        &["a_kernel_helper_from_a_container_is_refused"],
    ),
    // Lattice itself.
    (
        "signal to the agent by F_SETOWN and F_SETSIG",
        &["the_agent_is_not_signalled_by_a_file_that_is_ready"],
    ),
    (
        "signal to the agent, ptrace, limits and scheduling of it",
        &[
            "the_agent_is_neither_signalled_nor_traced_from_a_container",
            "the_agent_is_neither_signalled_nor_traced_in_monitor",
        ],
    ),
    ("bpf(2)", &["bpf_is_closed_to_containers_in_every_mode"]),
    ("removed pin", &["a_pin_is_not_removed_from_a_container"]),
];

/// What came of each trick here.
#[derive(Debug, Default)]
pub struct Corpus(BTreeMap<&'static str, Vec<Outcome>>);

/// The tricks that an attempt of a case belongs to.
///
/// # Errors
/// When the case names one that is not in the corpus.
pub fn tricks_of(case: &str, named: Option<&'static str>) -> anyhow::Result<Vec<&'static str>> {
    match named {
        Some(name) => {
            anyhow::ensure!(
                TRICKS.iter().any(|(trick, _)| *trick == name),
                "the corpus has no trick {name:?}"
            );
            Ok(vec![name])
        }
        None => Ok(TRICKS
            .iter()
            .filter(|(_, cases)| cases.contains(&case))
            .map(|(trick, _)| *trick)
            .collect()),
    }
}

impl Corpus {
    /// An attempt.
    pub fn record(&mut self, trick: &'static str, outcome: Outcome) {
        let outcomes = self.0.entry(trick).or_default();
        if !outcomes.contains(&outcome) {
            outcomes.push(outcome);
        }
    }

    /// Prints a line for each trick that was tried: `evasion: TRICK | KERNEL | TIER | OUTCOME`.
    pub fn print(&self) {
        let kernel = kernel();
        for (trick, _) in TRICKS {
            if let Some(outcomes) = self.0.get(trick) {
                println!("evasion: {trick} | {kernel} | {} | {}", host().tier, said(outcomes));
            }
        }
    }
}

/// One that ran outweighs all; one that the kernel itself refuses counts only where nothing else happened.
fn said(outcomes: &[Outcome]) -> String {
    let mut outcomes = outcomes.to_vec();
    outcomes.sort();
    let judged: Vec<Outcome> = outcomes
        .iter()
        .copied()
        .filter(|outcome| !matches!(outcome, Outcome::NotApplicable(_)))
        .collect();
    let (verdict, shown) = match judged.last() {
        Some(Outcome::Ran) => return "ran".to_owned(),
        Some(_) => ("refused", judged),
        None => ("not applicable here", outcomes),
    };
    let shown: Vec<String> = shown.into_iter().map(detail).collect();
    format!("{verdict}, {}", shown.join(" and "))
}

fn detail(outcome: Outcome) -> String {
    match outcome {
        Outcome::Killed => "SIGKILL".to_owned(),
        Outcome::Refused(errno) | Outcome::NotApplicable(errno) => format!("{:?}", Errno::from_raw(errno)),
        Outcome::RefusedWithCode(code) => format!("exit code {code} of who started it"),
        Outcome::Ran => "ran".to_owned(),
    }
}

/// Series of the running kernel, as in `6.12`.
pub fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().split('.').take(2).collect::<Vec<_>>().join(".")
}
