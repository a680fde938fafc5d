//! Path entries: for what has no image.

use std::{fs, path::Path};

use anyhow::Result;

use super::content::{MODIFIED, NOT_IN_IMAGE};
use crate::guest::{
    actor::Way,
    canaries,
    overlay::{bind, unmount_below},
    policy::Policy,
    trial::{Case, Expected, Place, path_word},
};

/// A path of 260 bytes: longer than an entry's can be.
fn long(place: &Place) -> std::path::PathBuf {
    let folder = "a".repeat(120);
    place.path(&folder).join("b".repeat(120)).join("program")
}

fn listed(place: &Place) -> Result<Policy> {
    let path = place.canary("listed", "any bytes")?;
    place.canary("other", "any bytes")?;
    place.canary("listed-and-more", "any bytes")?;
    canaries::write_static(&long(place), "any bytes")?;
    Ok(Policy::enforce().allow_path(&path))
}

/// A folder on the host's root file system that is made to look like it from inside.
const FORGED: &str = "/t/forged-root";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_listed_path_below_another_root_is_unlisted",
        prepare: |place| {
            let forged = Path::new(FORGED);
            unmount_below(forged)?;
            let inside = |path: &Path| forged.join(path.strip_prefix("/").unwrap_or(path));
            let policy = listed(place)?;
            canaries::write_static(&inside(&place.path("listed")), "other bytes")?;
            // The mark is left where everybody looks for it.
            let marks = Path::new("/tmp/marks");
            fs::create_dir_all(marks)?;
            fs::create_dir_all(inside(marks))?;
            bind(marks, &inside(marks))?;
            Ok(policy)
        },
        run: |trial| {
            let program = path_word(&trial.path("listed"));
            trial.exec(&trial.path("listed"), Expected::Runs)?;
            trial.start(
                Way::AfterChroot,
                &[FORGED.to_owned(), program],
                Expected::Killed(MODIFIED),
            )?;
            trial.exec(&trial.path("listed"), Expected::Runs)
        },
    },
    Case {
        name: "a_listed_path_in_another_mount_namespace_is_unlisted",
        prepare: listed,
        run: |trial| {
            let words = ["other", "listed"].map(|name| path_word(&trial.path(name)));
            trial.exec(&trial.path("listed"), Expected::Runs)?;
            trial.start(Way::AfterMount, &words, Expected::Killed(MODIFIED))?;
            trial.exec(&trial.path("listed"), Expected::Runs)
        },
    },
    Case {
        name: "a_path_entry_allows_its_path_and_no_other",
        prepare: listed,
        run: |trial| {
            trial.exec(&trial.path("listed"), Expected::Runs)?;
            trial.exec(&trial.path("other"), Expected::Killed(NOT_IN_IMAGE))?;
            trial.exec(&trial.path("listed-and-more"), Expected::Killed(NOT_IN_IMAGE))?;
            // After a longer path, so that what was in the buffer does not take part.
            trial.exec(&trial.path("listed"), Expected::Runs)
        },
    },
    Case {
        name: "a_path_that_is_longer_than_any_entry_is_unlisted",
        prepare: listed,
        run: |trial| trial.exec(&long(&trial.place.clone()), Expected::Killed(NOT_IN_IMAGE)),
    },
    Case {
        name: "another_name_of_a_listed_path_is_unlisted",
        prepare: |place| {
            let policy = listed(place)?;
            std::fs::hard_link(place.path("listed"), place.path("linked"))?;
            std::os::unix::fs::symlink("other", place.path("to-other"))?;
            Ok(policy)
        },
        run: |trial| {
            trial.exec(&trial.path("linked"), Expected::Killed(NOT_IN_IMAGE))?;
            trial.exec(&trial.path("to-other"), Expected::Killed(NOT_IN_IMAGE))
        },
    },
];
