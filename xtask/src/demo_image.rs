//! `cargo xtask demo-image`: the demo's image as files, for suites that start containers of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::demo::{image, programs};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder whose files make one more layer, on top
    #[arg(long, value_name = "DIR")]
    add: Option<PathBuf>,
    /// Unpack the layers to folders here, named 0 (the lowest), 1 and so on
    #[arg(long, value_name = "DIR")]
    layers: Option<PathBuf>,
    /// Write the image to this file, in OCI's layout
    #[arg(long, value_name = "FILE", requires = "name")]
    archive: Option<PathBuf>,
    /// The image's name in the archive
    #[arg(long)]
    name: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let layers = image::layers(&programs::server()?, arguments.add.as_deref())?;
    if let Some(folder) = &arguments.layers {
        for (number, layer) in layers.iter().enumerate() {
            unpack(layer, &folder.join(number.to_string()))?;
        }
    }
    if let (Some(file), Some(name)) = (&arguments.archive, &arguments.name) {
        let archive = image::assemble(layers)?.archive(name)?;
        fs::write(file, archive).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn unpack(layer: &[u8], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut archive = tar::Archive::new(layer);
    archive.set_preserve_permissions(true);
    archive
        .unpack(folder)
        .with_context(|| format!("cannot unpack a layer to {}", folder.display()))
}
