//! Developer tasks: what a developer, the test runs and CI all call as `cargo xtask <verb>`.
//!
//! ```text
//!  setup ──► build-ebpf ──► build ──► vm ──► test
//!    │ packages, linker,      one kernel,      every suite,
//!    │ kernels, cosign        one command      one sum
//!    └─ all of it cached under the target folder
//! ```
//!
//! Each verb is a module; a verb that others build on (`vm`, `setup`) says in its module text what it promises.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod build_ebpf;
mod cgroup_mounts;
mod cluster;
mod codegen;
mod demo;
mod demo_image;
mod fuzz;
mod go_modules;
mod images;
mod install_file;
mod oci;
mod process;
mod setup;
mod test;
mod tidy;
mod vm;
mod vm_check;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code for a command line that cannot be understood (EX_USAGE of sysexits.h).
const EXIT_USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of Lattice", version)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install everything the other verbs need; does nothing where all is there
    Setup(setup::Arguments),
    /// Build the BPF objects, one a tier, into target/bpf-objects
    BuildEbpf(build_ebpf::Arguments),
    /// Set up, build the BPF objects, then every host crate
    Build(build::Arguments),
    /// Boot a kernel in QEMU, run one command in it, and exit with its status
    Vm(vm::Arguments),
    /// Run every test there is, and close with the sum
    Test(test::Arguments),
    /// Play the whole chain on real parts, from a signed image to a refused exec, and compare with what is expected
    Demo(demo::Arguments),
    /// Bring up a real Kubernetes node of this machine, with folders and a network of its own
    Cluster(cluster::Arguments),
    /// Build the images of Lattice's own programs, as OCI archives
    Images(images::Arguments),
    /// Measure what an exec costs with the agent, in VMs that count instructions
    Bench(bench::Arguments),
    /// Run the fuzz targets of parsers, ten minutes each
    Fuzz(fuzz::Arguments),
    /// Check formatting, lints, forbidden words, and that generated code is current
    Tidy(tidy::Arguments),
    /// Write the generated code anew, and deploy/install.yaml
    Codegen(codegen::Arguments),
    /// Write the demo's image to files (for the suites of `test`)
    #[command(hide = true)]
    DemoImage(demo_image::Arguments),
    /// Test the `vm` verb itself on one kernel (a suite of `test`)
    #[command(hide = true)]
    VmCheck(vm_check::Arguments),
}

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // Printing fails only where the terminal is gone; there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match &command_line.verb {
        Verb::Setup(arguments) => setup::run(arguments).map(|()| ExitCode::SUCCESS),
        Verb::BuildEbpf(arguments) => build_ebpf::run(arguments).map(|()| ExitCode::SUCCESS),
        Verb::Build(arguments) => build::run(arguments).map(|()| ExitCode::SUCCESS),
        Verb::Vm(arguments) => return vm::run(arguments),
        Verb::Test(arguments) => test::run(arguments),
        Verb::Demo(arguments) => demo::run(arguments),
        Verb::Cluster(arguments) => cluster::run(arguments),
        Verb::Images(arguments) => images::run(arguments),
        Verb::Bench(arguments) => bench::run(arguments),
        Verb::Fuzz(arguments) => fuzz::run(arguments),
        Verb::Tidy(arguments) => tidy::run(arguments).map(|()| ExitCode::SUCCESS),
        Verb::Codegen(arguments) => codegen::run(arguments).map(|()| ExitCode::SUCCESS),
        Verb::DemoImage(arguments) => demo_image::run(arguments).map(|()| ExitCode::SUCCESS),
        Verb::VmCheck(arguments) => vm_check::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
