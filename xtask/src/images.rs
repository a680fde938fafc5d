//! `cargo xtask images`: the images of Lattice's own programs, made without a builder.
//!
//! ```text
//!   cargo build --release ──► program ──┐
//!   its interpreter and libraries ──────┴─► two layers ──► target/images/NAME.tar (OCI) ──► ctr import, skopeo copy, …
//! ```
//!
//! An image has the program, what its loader needs, a list of users, and nothing else: no shell, no package manager, no program
//! that starts others. The same programs and libraries make the same bytes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    build, build_ebpf, cluster,
    oci::{
        self, Image,
        files::{self, Entry, Files},
    },
    process,
    vm::libraries::LibraryResolver,
    workspace,
};

/// Where a certificate for a public registry is looked up.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Belongs to nobody on the node.
const UNPRIVILEGED: &str = "65532:65532";

/// A program of ours and how its image starts it.
struct Recipe {
    program: &'static str,
    user: &'static str,
    /// Whether it speaks to servers that public authorities vouch for.
    needs_authorities: bool,
}

const RECIPES: [Recipe; 3] = [
    // Root with few capabilities: BPF wants it.
    Recipe {
        program: "lattice-agent",
        user: "0:0",
        needs_authorities: false,
    },
    Recipe {
        program: "lattice-central",
        user: UNPRIVILEGED,
        needs_authorities: true,
    },
    Recipe {
        program: "latticectl",
        user: UNPRIVILEGED,
        needs_authorities: false,
    },
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only those of these programs
    #[arg(value_name = "PROGRAM", value_parser = RECIPES.map(|recipe| recipe.program))]
    only: Vec<String>,
    /// Take the programs as `cargo xtask build` left them, instead of building them for release
    #[arg(long)]
    as_built: bool,
    /// Folder for the archives [default: target/images]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// What stands before each image's name
    #[arg(long, value_name = "REGISTRY", default_value = "localhost")]
    registry: String,
    /// Import them into this running cluster too
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let programs = if arguments.as_built {
        workspace::target().join("debug")
    } else {
        build_for_release()?
    };
    let output = arguments
        .output
        .clone()
        .unwrap_or_else(|| workspace::target().join("images"));
    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    for recipe in RECIPES {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|name| name == recipe.program) {
            continue;
        }
        let image = recipe.build(&programs.join(recipe.program))?;
        let name = reference(&arguments.registry, recipe.program);
        let archive = image.archive(&name)?;
        let file = output.join(format!("{}.tar", recipe.program));
        fs::write(&file, &archive).with_context(|| format!("cannot write {}", file.display()))?;
        println!(
            "{name}@{}  {:.1} MiB  {}",
            image.digest(),
            archive.len() as f64 / f64::from(1 << 20),
            file.display()
        );
        if let Some(cluster) = &arguments.cluster {
            cluster::import(cluster, &name, &image)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of a program's image, with the version that this checkout has.
fn reference(registry: &str, program: &str) -> String {
    format!("{registry}/{program}:{}", version())
}

/// The version of this checkout's images.
pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Paths of this machine stay out of the programs.
fn build_for_release() -> Result<PathBuf> {
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let mut cargo = build::cargo();
    cargo.args(["build", "--release"]).env(
        "RUSTFLAGS",
        format!(
            "--remap-path-prefix={}=/lattice --remap-path-prefix={}=/cargo",
            workspace::root().display(),
            cargo_home.display()
        ),
    );
    for recipe in RECIPES {
        cargo.args(["--package", recipe.program]);
    }
    process::execute(&mut cargo)?;
    Ok(workspace::target().join("release"))
}

impl Recipe {
    fn build(&self, program: &Path) -> Result<Image> {
        let mut seen = BTreeSet::new();
        let layers = [self.base(program)?, self.top(program)?];
        let archives = layers
            .iter()
            .map(|layer| files::archive(layer, &mut seen))
            .collect::<Result<Vec<_>>>()?;
        oci::assemble(
            archives,
            &json!({
                "Entrypoint": [self.place()],
                "User": self.user,
                "WorkingDir": "/",
                "Env": ["PATH=/usr/bin"],
                "Labels": {
                    "org.opencontainers.image.title": self.program,
                    "org.opencontainers.image.version": version(),
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            }),
        )
    }

    fn place(&self) -> String {
        format!("/usr/bin/{}", self.program)
    }

    /// What changes seldom, and is the same for programs that need the same.
    fn base(&self, program: &Path) -> Result<Files> {
        let text = |content: &str| Entry::File {
            content: content.as_bytes().to_vec(),
            mode: 0o644,
        };
        let mut base = files::merged_folders();
        base.insert(
            "etc/passwd".into(),
            text("root:x:0:0:root:/:/\nlattice:x:65532:65532:lattice:/:/\n"),
        );
        base.insert("etc/group".into(), text("root:x:0:\nlattice:x:65532:\n"));
        base.insert("tmp".into(), Entry::Folder { mode: 0o1777 });
        if self.needs_authorities {
            files::add_as(&mut base, AUTHORITIES, Path::new(AUTHORITIES))?;
        }
        files::add_all(&mut base, &LibraryResolver::for_this_machine().resolve(program)?)?;
        Ok(base)
    }

    fn top(&self, program: &Path) -> Result<Files> {
        let mut top = Files::new();
        files::add_as(&mut top, &self.place(), program)?;
        Ok(top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any dynamic program will do.
    fn program() -> PathBuf {
        workspace::find_program("curl").unwrap_or_else(|| std::env::current_exe().unwrap())
    }

    #[test]
    fn the_same_program_makes_the_same_image() {
        for recipe in RECIPES {
            let (one, two) = (recipe.build(&program()).unwrap(), recipe.build(&program()).unwrap());
            assert_eq!(one.digest(), two.digest(), "{}", recipe.program);
        }
    }

    #[test]
    fn an_image_has_one_program_that_can_be_started() {
        for recipe in RECIPES {
            let mut files = recipe.base(&program()).unwrap();
            files.extend(recipe.top(&program()).unwrap());
            let executables: Vec<String> = files
                .iter()
                .filter(|(path, entry)| {
                    // Libraries are mapped, not started, and a loader alone starts nothing that is not there.
                    matches!(entry, Entry::File { mode, .. } if mode & 0o111 != 0)
                        && !path.starts_with("usr/lib")
                        && !path.starts_with("usr/lib64")
                })
                .map(|(path, _)| format!("/{}", path.display()))
                .collect();
            assert_eq!(executables, [recipe.place()], "{}", recipe.program);
        }
    }
}
