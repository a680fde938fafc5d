//! What both suites bring to their kernel: compiled canaries, and the demo's image with one more layer of them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{canary_build, guest::canaries};

/// The image's name, for a runtime that imports it.
pub const IMAGE: &str = "lattice.test/payment-service:1.0";
/// Applets that the added layer has links to.
const APPLETS: [&str; 6] = ["cp", "mv", "cat", "touch", "ln", "mkdir"];
/// Static canaries of the added layer, by name and content; all of one size.
pub const CANARIES: [&str; 4] = ["good", "probe", "worker", "bad"];
/// A canary of a size that no listed one has.
pub const LONGER: &str = "longer";

/// Makes `canary` and `layers`, and where asked the archive `image.tar`, in a folder.
///
/// # Errors
/// When a program is missing, or a step fails.
pub fn build(folder: &Path, xtask: &Path, suite: &Path, with_archive: bool) -> Result<()> {
    let compiled = folder.join("canary");
    fs::create_dir_all(&compiled)?;
    canary_build::build(&compiled)?;
    let added = folder.join("added");
    let bin = added.join("usr/bin");
    for name in CANARIES {
        canaries::write_from(&compiled, &bin.join(name), "static", name)?;
    }
    let mut bytes = fs::read(bin.join("bad"))?;
    bytes.push(0);
    canaries::write(&bin.join(LONGER), &bytes)?;
    canaries::write_from(&compiled, &bin.join("evil-loader"), "loader", "evil loader")?;
    canaries::write(&bin.join("busybox"), &fs::read(find("busybox")?)?)?;
    for applet in APPLETS {
        symlink("busybox", bin.join(applet))?;
    }
    let app = added.join("app");
    fs::create_dir_all(&app)?;
    for shell in ["ash", "sh"] {
        symlink("../usr/bin/busybox", app.join(shell))?;
    }
    scripts(&added)?;
    let actor = bin.join("actor");
    run(Command::new(find("strip")?).arg("-o").arg(&actor).arg(suite))?;
    fs::set_permissions(&actor, fs::Permissions::from_mode(0o755))?;
    let library = Path::new("usr/lib/x86_64-linux-gnu/libgcc_s.so.1");
    canaries::write(&added.join(library), &fs::read(Path::new("/").join(library))?)?;
    let mut image = Command::new(xtask);
    image.arg("demo-image").arg("--add").arg(&added);
    image.arg("--layers").arg(folder.join("layers"));
    if with_archive {
        image
            .args(["--name", IMAGE])
            .arg("--archive")
            .arg(folder.join("image.tar"));
    }
    run(&mut image)?;
    Ok(fs::remove_dir_all(added)?)
}

/// Scripts of the image: each starts a canary as its last act, so that the mark tells whether it ran.
fn scripts(added: &Path) -> Result<()> {
    for (name, text) in [
        ("listed-script", "#!/usr/bin/dash\nexec /usr/bin/good\n"),
        ("unlisted-script", "#!/usr/bin/dash\nexec /usr/bin/good # unlisted\n"),
        ("script-of-a-script", "#!/app/unlisted-script\n"),
        ("without-a-start", "exec /usr/bin/good\n"),
        ("script-of-ash", "#!/app/ash\nexec /usr/bin/good\n"),
        ("script-of-sh", "#!/app/sh\nexec /usr/bin/good\n"),
    ] {
        canaries::write(&added.join("app").join(name), text.as_bytes())?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A program of this machine.
///
/// # Errors
/// When it is not on PATH.
pub fn find(name: &str) -> Result<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} on PATH: run `cargo xtask setup`"))
}
