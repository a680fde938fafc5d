//! Holds the `vm` verb to its promise: exit statuses, output, 125, and a guest in which containers can run.
//!
//! Every test of the kernel side trusts this verb. If it called a crashed kernel a success, or lost a status, all of
//! them would lie; so it has a suite of its own, on real kernels.

use std::{
    fs,
    process::{Command, ExitCode, Output, Stdio},
};

use anyhow::{Context, Result};

use crate::setup::kernels;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernel series to boot
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: String,
}

/// One boot, what it must print, and how it must end.
struct Case {
    name: &'static str,
    options: &'static [&'static str],
    command: &'static [&'static str],
    status: i32,
    /// The whole stdout; None where only part of it is known.
    stdout: Option<&'static str>,
    /// Must stand in stdout or stderr.
    mentions: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "output_and_status_come_through_unchanged",
        options: &[],
        command: &["sh", "-c", "printf 'out\\r\\n\\000\\377'; printf err >&2; exit 42"],
        status: 42,
        stdout: None,
        mentions: &["out\r\n\0\u{fffd}err"],
    },
    Case {
        name: "death_by_a_signal_is_128_and_its_number",
        options: &[],
        command: &["sh", "-c", "kill -9 $$"],
        status: 137,
        stdout: None,
        mentions: &["Killed"],
    },
    Case {
        name: "the_guest_is_a_node",
        options: &[],
        command: &[NODE_SCRIPT],
        status: 0,
        stdout: Some("node ok\n"),
        mentions: &[],
    },
    Case {
        name: "overlay_roots_and_runc_containers_work",
        options: &["--copy", "/usr/sbin/runc:/usr/bin/runc"],
        command: &[CONTAINER_SCRIPT],
        status: 3,
        stdout: Some("in the container: root of an overlay\n"),
        mentions: &[],
    },
    Case {
        name: "a_background_process_does_not_keep_the_vm",
        options: &[],
        command: &["sleep 1000 & echo started"],
        status: 0,
        stdout: Some("started\n"),
        mentions: &[],
    },
    Case {
        name: "a_crash_of_the_kernel_is_125",
        options: &[],
        command: &["echo before; sleep 1; echo c >/proc/sysrq-trigger; echo after"],
        status: 125,
        stdout: Some("before\n"),
        mentions: &["the kernel reported", "sysrq triggered crash", "console"],
    },
    Case {
        name: "a_warning_of_the_kernel_is_125_though_the_command_succeeds",
        options: &[],
        command: &["echo 'WARNING: CPU: 0 PID: 1 at a test' >/dev/kmsg; echo done"],
        status: 125,
        stdout: Some("done\n"),
        mentions: &["the kernel reported"],
    },
    Case {
        name: "a_command_that_hangs_is_125",
        options: &["--timeout", "12"],
        command: &["echo waiting; sleep 1000"],
        status: 125,
        stdout: Some("waiting\n"),
        mentions: &["did not end within 12 s"],
    },
    Case {
        name: "a_kernel_without_bpf_lsm_is_125",
        options: &["--append", "lsm=capability"],
        command: &["echo never"],
        status: 125,
        stdout: Some(""),
        mentions: &["does not name bpf"],
    },
    Case {
        name: "instructions_are_the_clock_where_asked",
        options: &["--icount"],
        command: &["nproc"],
        status: 0,
        stdout: Some("1\n"),
        mentions: &[],
    },
];

const NODE_SCRIPT: &str = r#"
fail() { echo "$*"; exit 1; }
while read -r path type; do
    awk -v path="$path" -v type="$type" '$2 == path && $3 == type { found = 1 } END { exit !found }' /proc/mounts ||
        fail "no $type on $path"
done <<'END'
/proc proc
/sys sysfs
/dev devtmpfs
/tmp tmpfs
/run tmpfs
/sys/fs/bpf bpf
/sys/fs/cgroup cgroup2
/sys/kernel/security securityfs
/sys/kernel/tracing tracefs
END
grep -q overlay /proc/filesystems || fail "overlay is not loaded"
test -r /sys/kernel/btf/vmlinux || fail "no BTF"
command -v lattice-agent latticectl busybox >/dev/null || fail "the product is not on PATH"
mkdir /sys/fs/cgroup/test && echo $$ >/sys/fs/cgroup/test/cgroup.procs || fail "cgroups cannot be made"
test -c /dev/null && test -e /dev/fd/0 || fail "/dev is incomplete"
test ! -t 1 || fail "stdout is a terminal"
ping -c 1 -W 2 127.0.0.1 >/dev/null || fail "no loopback"
echo "node ok"
"#;

/// A container by hand: busybox as the image, an overlay as its root, runc with its own default configuration.
const CONTAINER_SCRIPT: &str = r#"
set -e
mkdir -p /srv/lower/bin /srv/lower/proc /srv/lower/sys /srv/lower/dev /srv/upper /srv/work /srv/bundle/rootfs
cp /usr/bin/busybox /srv/lower/bin/
ln -s busybox /srv/lower/bin/sh
echo "root of an overlay" >/srv/lower/what
mount -t overlay -o lowerdir=/srv/lower,upperdir=/srv/upper,workdir=/srv/work overlay /srv/bundle/rootfs
cd /srv/bundle
runc spec
sed -i -e 's/"terminal": true/"terminal": false/' -e 's/"readonly": true/"readonly": false/' \
    -e 's|"sh"$|"sh", "-c", "read what </what; echo in the container: $what; /bin/busybox rm /what; exit 3"|' config.json
status=0
runc run test || status=$?
# The lower layer is as it was, the upper one has the whiteout.
test -f /srv/lower/what
test -c /srv/upper/what
exit $status
"#;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (mut passed, mut failed) = (0, 0);
    for case in CASES {
        let output = boot(&arguments.kernel, case)?;
        match verify(case, &output) {
            Ok(()) => {
                println!("ok {}", case.name);
                passed += 1;
            }
            Err(reason) => {
                println!("FAILED: {}: {reason}", case.name);
                failed += 1;
            }
        }
    }
    match copies_a_folder(&arguments.kernel) {
        Ok(()) => {
            println!("ok a_copied_folder_keeps_modes_and_links");
            passed += 1;
        }
        Err(error) => {
            println!("FAILED: a_copied_folder_keeps_modes_and_links: {error:#}");
            failed += 1;
        }
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn boot(kernel: &str, case: &Case) -> Result<Output> {
    vm(kernel, case.options, case.command)
}

fn vm(kernel: &str, options: &[&str], command: &[&str]) -> Result<Output> {
    let mut xtask = Command::new(std::env::current_exe().context("cannot find our own program")?);
    xtask.args(["vm", "--kernel", kernel, "--no-build"]);
    if !options.contains(&"--timeout") {
        xtask.args(["--timeout", "120"]);
    }
    xtask
        .args(options)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .output()
        .context("cannot run the vm verb")
}

fn verify(case: &Case, output: &Output) -> Result<(), String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(case.status) {
        return Err(format!(
            "{} instead of {}; stdout: {stdout:?}; stderr: {stderr}",
            output.status, case.status
        ));
    }
    if case.stdout.is_some_and(|expected| expected != stdout) {
        return Err(format!("stdout was {stdout:?} instead of {:?}", case.stdout));
    }
    match case
        .mentions
        .iter()
        .find(|text| !stdout.contains(**text) && !stderr.contains(**text))
    {
        Some(missing) => Err(format!("{missing:?} is neither in {stdout:?} nor in {stderr:?}")),
        None => Ok(()),
    }
}

fn copies_a_folder(kernel: &str) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let inner = folder.path().join("a folder/inner");
    fs::create_dir_all(&inner).context("cannot create a folder")?;
    fs::write(inner.join("file"), "content").context("cannot write a file")?;
    fs::set_permissions(inner.join("file"), fs::Permissions::from_mode(0o4711)).context("cannot set a mode")?;
    symlink("inner/file", folder.path().join("a folder/link")).context("cannot create a link")?;
    let copy = format!("{}:/srv/data", folder.path().join("a folder").display());
    let script = "stat -c '%a %F' /srv/data/inner/file && readlink /srv/data/link && cat /srv/data/link";
    let output = vm(kernel, &["--copy", &copy], &[script])?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        stdout == "4711 regular file\ninner/file\ncontent",
        "stdout was {stdout:?}, stderr {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
