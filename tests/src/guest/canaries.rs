//! Canaries in the guest: programs of equal size and other content, made by patching the compiled ones.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::host::host;
use crate::canary_build::INTERPRETER;

/// What every mark begins with.
pub const MARK_START: &str = "LATTICE-CANARY-VARIANT-";
/// Bytes of one mark.
pub const MARK_BYTES: usize = 32;

/// What a variant writes into its mark.
pub fn mark(variant: &str) -> String {
    let name = hex(&Sha256::digest(variant));
    format!("{MARK_START}{}", &name[..MARK_BYTES - MARK_START.len()])
}

/// Writes a static canary.
///
/// # Errors
/// When the compiled one is not as expected, or a file cannot be written.
pub fn write_static(path: &Path, variant: &str) -> Result<()> {
    write(path, &patched("static", variant, None)?)
}

/// Writes a canary that can be an ELF interpreter.
///
/// # Errors
/// As [`write_static`].
pub fn write_loader(path: &Path, variant: &str) -> Result<()> {
    write(path, &patched("loader", variant, None)?)
}

/// Writes a dynamic canary whose ELF interpreter is at `/t/interpreter-` and eight characters.
///
/// # Errors
/// As [`write_static`].
pub fn write_dynamic(path: &Path, variant: &str, interpreter: &Path) -> Result<()> {
    write(path, &patched("dynamic", variant, Some(interpreter))?)
}

/// Writes a canary of a kind (`static` or `loader`) from the compiled ones in a folder.
///
/// # Errors
/// As [`write_static`].
pub fn write_from(compiled: &Path, path: &Path, kind: &str, variant: &str) -> Result<()> {
    write(path, &patched_from(compiled, kind, variant, None)?)
}

fn patched(kind: &str, variant: &str, interpreter: Option<&Path>) -> Result<Vec<u8>> {
    patched_from(&host().material.join("canary"), kind, variant, interpreter)
}

fn patched_from(compiled: &Path, kind: &str, variant: &str, interpreter: Option<&Path>) -> Result<Vec<u8>> {
    let path = compiled.join(kind);
    let mut bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    replace(
        &mut bytes,
        format!("{MARK_START}000000000").as_bytes(),
        mark(variant).as_bytes(),
    )?;
    if let Some(interpreter) = interpreter {
        replace(
            &mut bytes,
            INTERPRETER.as_bytes(),
            interpreter.to_string_lossy().as_bytes(),
        )?;
    }
    Ok(bytes)
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> Result<()> {
    if from.len() != to.len() {
        bail!("{} is not as long as what it replaces", String::from_utf8_lossy(to));
    }
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .with_context(|| format!("the compiled canary does not hold {}", String::from_utf8_lossy(from)))?;
    bytes[at..at + to.len()].copy_from_slice(to);
    Ok(())
}

/// Writes an executable file, as a new inode.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // One that is not there is no error.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<[u8; 32]> {
    Ok(Sha256::digest(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?).into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
