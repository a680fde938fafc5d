//! cosign: signs the demo's images as its users would. Optional, since it takes Go to build.

use anyhow::Result;

use super::say;
use crate::{
    go_modules::{self, COSIGN},
    workspace,
};

const WITHOUT: &str = "images are signed by the small signer in xtask, and the tests that hold it against cosign are \
                       skipped";

/// Builds cosign where it is missing and Go is there. That it cannot be had is said, and is no error.
pub(crate) fn ensure() -> Result<()> {
    if let Some(cosign) = workspace::find_program("cosign") {
        say(&format!("cosign: {} is there", cosign.display()));
        return Ok(());
    }
    if !COSIGN.is_built() {
        if workspace::find_program("go").is_none() {
            say(&format!("cosign: absent, and no Go to build it with: {WITHOUT}"));
            return Ok(());
        }
        say(&format!(
            "cosign: building {} with Go (two to six minutes)",
            COSIGN.version()?
        ));
    }
    match COSIGN.ensure() {
        Ok(folder) => go_modules::link(&folder.join("cosign"), &workspace::tools_bin().join("cosign")),
        Err(error) => {
            say(&format!("cosign: could not be built: {WITHOUT}\n{error:#}"));
            Ok(())
        }
    }
}
