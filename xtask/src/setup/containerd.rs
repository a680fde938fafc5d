//! A containerd that has NRI, which Debian's 1.6 has not; with its shim and `ctr`. Optional, since it takes Go to build.

use anyhow::Result;

use super::say;
use crate::{
    go_modules::{self, CONTAINERD},
    workspace,
};

const WITHOUT: &str = "the tests of the NRI plugin on a real runtime are skipped";

/// Builds it where it is missing and Go is there. That it cannot be had is said, and is no error.
pub(crate) fn ensure() -> Result<()> {
    let version = CONTAINERD.version()?;
    if CONTAINERD.is_built() {
        say(&format!("containerd with NRI: {version} is there"));
    } else if workspace::find_program("go").is_none() {
        say(&format!(
            "containerd with NRI: absent, and no Go to build it with: {WITHOUT}"
        ));
        return Ok(());
    } else {
        say(&format!(
            "containerd with NRI: building {version} with Go (one to four minutes)"
        ));
    }
    match CONTAINERD.ensure() {
        Ok(folder) => go_modules::link(&folder, &workspace::containerd_with_nri()),
        Err(error) => {
            say(&format!(
                "containerd with NRI: could not be built: {WITHOUT}\n{error:#}"
            ));
            Ok(())
        }
    }
}
