//! Files by which a client finds the API server and proves who it is.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{certificates::Pair, place::Place};

/// Writes a file that holds all it needs, so that it can be copied.
///
/// # Errors
///
/// Where a certificate cannot be read or the file not be written.
pub(super) fn write(place: &Place, holder: &str, server: &str, path: &Path) -> Result<()> {
    let encoded = |file: &Path| -> Result<String> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(BASE64_STANDARD.encode(bytes))
    };
    let pair = Pair::of(place, holder);
    let name = &place.name;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\ncontexts:\n- name: {name}\n  context: {{cluster: {name}, \
         user: {holder}}}\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: \
         {}\nusers:\n- name: {holder}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encoded(&Pair::of(place, "ca").certificate)?,
        encoded(&pair.certificate)?,
        encoded(&pair.key)?,
    );
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
