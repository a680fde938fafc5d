//! The suites, in the order in which they run: the quick and the telling ones first.

use std::{process::Command, time::Duration};

use super::SUITE_LIMIT;
use crate::{build, setup::kernels, workspace};

/// A program that prints what it does and ends with a sum that `report` understands.
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) command: Command,
    /// After this long it counts as hanging.
    pub(super) limit: Duration,
    /// Whether it runs only where it is named: what takes too long to be part of every run.
    pub(super) is_on_demand: bool,
    /// The suite at whose time it runs, where both run: an emulator leaves a processor idle half of the time.
    pub(super) beside: Option<String>,
}

/// Every suite. What a suite runs was built before; `xtask` suites are verbs of this program.
pub(super) fn all() -> Vec<Suite> {
    let mut suites = vec![suite("host", host_tests())];
    for series in kernels::SERIES {
        suites.push(suite(
            &format!("vm harness {series}"),
            xtask(&["vm-check", "--kernel", series]),
        ));
    }
    let mut beside = None;
    for series in kernels::SERIES {
        let mut command = Command::new(workspace::host_program("lattice-vm-test"));
        command.args(["--kernel", series]);
        let name = format!("tier 1 on {series}");
        suites.push(Suite {
            beside: beside.replace(name.clone()),
            ..suite(&name, command)
        });
    }
    // Its counts of the witness and of the verdicts are not those of tier 1 yet; in tier 2 it is one of the host's tests.
    for series in kernels::SERIES {
        suites.push(Suite {
            is_on_demand: true,
            ..suite(&format!("first execs on {series}"), first_execs(series))
        });
    }
    suites.push(suite(
        "native",
        Command::new(workspace::host_program("lattice-native-suite")),
    ));
    suites.push(suite("demo", xtask(&["demo", "--no-build"])));
    // A minute of all; `soak` gives each ten.
    suites.push(suite("fuzz", xtask(&["fuzz", "--seconds", "15"])));
    // From empty caches it builds Kubernetes first.
    suites.push(Suite {
        is_on_demand: true,
        limit: CLUSTER_LIMIT,
        ..suite("cluster", xtask(&["cluster", "check"]))
    });
    suites
}

/// Three times what the builds take on two processors.
const CLUSTER_LIMIT: Duration = Duration::from_secs(60 * 60);

fn suite(name: &str, command: Command) -> Suite {
    Suite {
        name: name.to_owned(),
        command,
        limit: SUITE_LIMIT,
        is_on_demand: false,
        beside: None,
    }
}

/// All tests that need nothing but this machine. What a test prints is shown even where it passes, so that the reason
/// of a skip is seen.
fn host_tests() -> Command {
    let mut cargo = build::tests();
    cargo.arg("--no-fail-fast");
    cargo.args(["--", "--show-output"]);
    cargo
}

/// The test of first execs by containerd with NRI, in a VM: in tier 1 there, where this machine may give only the other. Under emulation a
/// container takes seconds.
fn first_execs(series: &str) -> Command {
    const CONTAINERS: &str = "20";
    let runner = workspace::host_program("lattice-vm-runner");
    let mut cargo = build::cargo();
    cargo.args([
        "test",
        "--workspace",
        "--exclude",
        "lattice-ebpf",
        "--exclude",
        "lattice-tests",
    ]);
    cargo.args(["--test", "nri", "--", "--show-output"]);
    cargo.env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
        format!("{} --kernel {series}", runner.display()),
    );
    cargo.env("LATTICE_TEST_CONTAINERS", CONTAINERS);
    cargo
}

/// A verb of this program.
fn xtask(arguments: &[&str]) -> Command {
    // The running program's own file can be found on every Linux; the alias serves where it was moved meanwhile.
    let mut command = std::env::current_exe().map_or_else(
        |_| {
            let mut cargo = build::cargo();
            cargo.arg("xtask");
            cargo
        },
        Command::new,
    );
    command.args(arguments);
    command
}
