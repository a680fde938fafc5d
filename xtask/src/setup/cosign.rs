//! cosign: signs the demo's images as its users would. Optional, since it takes Go to build.

use std::{env, process::Command};

use anyhow::Result;

use super::{progress, say};
use crate::workspace;

const MODULE: &str = "github.com/sigstore/cosign/v3/cmd/cosign";
const VERSION: &str = "3.1.3";
const WITHOUT: &str = "images are signed by the small signer in xtask, and the tests that hold it against cosign are \
                       skipped";

/// Builds cosign where it is missing and Go is there. That it cannot be had is said, and is no error.
pub(crate) fn ensure() -> Result<()> {
    if let Some(cosign) = workspace::find_program("cosign") {
        say(&format!("cosign: {} is there", cosign.display()));
        return Ok(());
    }
    let Some(go) = workspace::find_program("go") else {
        say(&format!("cosign: absent, and no Go to build it with: {WITHOUT}"));
        return Ok(());
    };
    say(&format!("cosign: building {VERSION} with Go (two to six minutes)"));
    let mut command = Command::new(go);
    command
        .args(["install", &format!("{MODULE}@v{VERSION}")])
        .env("GOBIN", workspace::tools_bin())
        .env("CGO_ENABLED", "0")
        // The folder that we run in may have a go.work or a vendor folder of its own.
        .current_dir(env::temp_dir());
    if let Err(error) = progress::execute("go install cosign", &mut command) {
        say(&format!("cosign: could not be built: {WITHOUT}\n{error:#}"));
    }
    Ok(())
}
