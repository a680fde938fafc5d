//! Path entries: for what has no image.

use anyhow::Result;

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    canaries,
    policy::Policy,
    trial::{Case, Expected, Place},
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

pub(super) const CASES: &[Case] = &[
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
