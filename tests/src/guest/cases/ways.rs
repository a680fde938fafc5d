//! Ways to start a program that are not a plain execve of a path.

use crate::guest::{
    actor::Way,
    policy::Policy,
    trial::{Case, Expected, Place, cause, path_word},
};

use super::content::NOT_IN_IMAGE;

fn good_and_bad(place: &Place) -> anyhow::Result<Policy> {
    place.canary("bad", "bad")?;
    Policy::enforce().allow(&place.canary("good", "good")?)
}

/// One case a way: the listed program runs so, the unlisted one dies.
macro_rules! both {
    ($name:literal, $way:expr, $cause:expr) => {
        Case {
            name: $name,
            prepare: good_and_bad,
            run: |trial| {
                trial.start($way, &[path_word(&trial.path("good"))], Expected::Runs)?;
                trial.start($way, &[path_word(&trial.path("bad"))], Expected::Killed($cause))
            },
        }
    };
}

pub(super) const CASES: &[Case] = &[
    both!("by_descriptor_with_at_empty_path", Way::Descriptor, NOT_IN_IMAGE),
    both!("by_proc_self_fd", Way::ProcDescriptor, NOT_IN_IMAGE),
    both!("from_a_thread_that_is_not_the_first", Way::Thread, NOT_IN_IMAGE),
    both!("by_a_vforked_child", Way::Child, NOT_IN_IMAGE),
    both!(
        "from_a_deleted_file",
        Way::Deleted,
        cause("unlisted", "target", "deleted")
    ),
    both!(
        "from_sealed_memory",
        Way::SealedMemory,
        cause("unlisted", "target", "memfd")
    ),
    Case {
        name: "from_unlisted_memory_of_another_size",
        prepare: |place| {
            let bytes = std::fs::read(place.canary("bad", "bad")?)?;
            crate::guest::canaries::write(&place.path("bad"), &[bytes, vec![0; 100]].concat())?;
            Policy::enforce().allow(&place.canary("good", "good")?)
        },
        run: |trial| {
            let words = [path_word(&trial.path("bad"))];
            trial.start(
                Way::Memory,
                &words,
                Expected::Killed(cause("unlisted", "target", "memfd")),
            )
        },
    },
    Case {
        // Nobody counts who may write to a memfd: what was hashed can be changed before it is mapped.
        name: "listed_bytes_in_memory_that_can_still_be_written_are_unresolved",
        prepare: good_and_bad,
        run: |trial| {
            let words = [path_word(&trial.path("good"))];
            trial.start(
                Way::Memory,
                &words,
                Expected::Denied(cause("unresolved", "target", "unresolved")),
            )
        },
    },
];
