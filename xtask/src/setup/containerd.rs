//! A containerd that has NRI, which Debian's 1.6 has not; with its shim and `ctr`. Optional, since it takes Go to build.

use std::{env, path::Path, process::Command};

use anyhow::Result;

use super::{progress, say};
use crate::{process, workspace};

const MODULE: &str = "github.com/containerd/containerd/v2";
const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];
const VERSION: &str = "2.2.9";
/// Snapshotters that need libraries or devices.
const TAGS: &str = "no_btrfs no_devmapper no_zfs no_aufs";
const WITHOUT: &str = "the tests of the NRI plugin on a real runtime are skipped";

/// Builds it where it is missing and Go is there. That it cannot be had is said, and is no error.
pub(crate) fn ensure() -> Result<()> {
    let folder = workspace::containerd_with_nri();
    if is_there(&folder) {
        say(&format!(
            "containerd with NRI: {VERSION} is there ({})",
            folder.display()
        ));
        return Ok(());
    }
    let Some(go) = workspace::find_program("go") else {
        say(&format!(
            "containerd with NRI: absent, and no Go to build it with: {WITHOUT}"
        ));
        return Ok(());
    };
    say(&format!(
        "containerd with NRI: building {VERSION} with Go (one to four minutes)"
    ));
    let packages = PROGRAMS.map(|program| format!("{MODULE}/cmd/{program}@v{VERSION}"));
    let mut command = Command::new(go);
    command
        .args(["install", "-trimpath", "-tags", TAGS])
        .arg(format!("-ldflags=-s -w -X {MODULE}/version.Version=v{VERSION}"))
        .args(packages)
        .env("GOBIN", &folder)
        .env("CGO_ENABLED", "0")
        // The folder that we run in may have a go.work or a vendor folder of its own.
        .current_dir(env::temp_dir());
    if let Err(error) = progress::execute("go install containerd", &mut command) {
        say(&format!(
            "containerd with NRI: could not be built: {WITHOUT}\n{error:#}"
        ));
    }
    Ok(())
}

/// All of it, in the pinned version.
fn is_there(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
        && process::capture(Command::new(folder.join("containerd")).arg("--version"))
            .is_ok_and(|text| text.split_whitespace().any(|word| word == format!("v{VERSION}")))
}
