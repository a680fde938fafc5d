//! The agent's seccomp profile, as container runtimes read it, to a filter of this kernel's.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde::Deserialize;
use serde_json::json;

/// The part of the OCI's form that the profile uses; anything else in it is an error, so that it says what is tried here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: i32,
    architectures: Vec<String>,
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: String,
}

/// Compiles the profile.
///
/// # Errors
/// When it is of another form, names a system call that the compiler does not know, or refuses by another errno than ENOSYS.
pub(crate) fn filter(file: &Path) -> Result<BpfProgram> {
    let text = fs::read(file).with_context(|| format!("cannot read the seccomp profile {}", file.display()))?;
    let profile: Profile =
        serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", file.display()))?;
    ensure!(
        profile.default_action == "SCMP_ACT_ERRNO" && profile.default_errno_ret == Errno::ENOSYS as i32,
        "defaultAction {} with {} is not SCMP_ACT_ERRNO with ENOSYS",
        profile.default_action,
        profile.default_errno_ret
    );
    ensure!(
        profile.architectures.iter().any(|name| name == "SCMP_ARCH_X86_64"),
        "architectures: SCMP_ARCH_X86_64 is not among them"
    );
    let mut names = Vec::new();
    for rule in &profile.syscalls {
        ensure!(
            rule.action == "SCMP_ACT_ALLOW",
            "action {} is not SCMP_ACT_ALLOW",
            rule.action
        );
        names.extend(&rule.names);
    }
    let rules: Vec<_> = names.iter().map(|name| json!({"syscall": name})).collect();
    let document = json!({"agent": {
        "mismatch_action": {"errno": profile.default_errno_ret},
        "match_action": "allow",
        "filter": rules,
    }});
    let mut programs = compile_from_json(document.to_string().as_bytes(), TargetArch::x86_64)
        .context("cannot compile the seccomp profile")?;
    programs.remove("agent").context("the compiler has made no filter")
}
