//! `cargo xtask fuzz`: the fuzz targets, each for its share of the time, from what earlier runs found and from the tests' own inputs.
//!
//! libFuzzer is compiled from source with the targets, and the compiler that builds all else instruments them, so nothing has to be
//! installed. A target ends well only where it ran its time and nothing was found; what was found stays in `target/fuzz`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{build, process, workspace};

/// A target of `fuzz/Cargo.toml`.
struct Target {
    name: &'static str,
    /// Folders of inputs to begin with, in the workspace.
    seeds: &'static [&'static str],
    /// A file of words, in `fuzz`.
    dictionary: Option<&'static str>,
    /// Inputs up to so many bytes.
    input_bytes: u32,
}

const TARGETS: [Target; 4] = [
    Target {
        name: "exec_policy",
        seeds: &["lattice-policy/tests"],
        dictionary: Some("policy.dict"),
        input_bytes: 16 << 10,
    },
    Target {
        name: "tracing_policy",
        seeds: &["lattice-policy/tests/tracing_policy/read"],
        dictionary: Some("policy.dict"),
        input_bytes: 16 << 10,
    },
    Target {
        name: "record",
        seeds: &[],
        dictionary: None,
        input_bytes: 8 << 10,
    },
    Target {
        name: "spool_segment",
        seeds: &[],
        dictionary: None,
        input_bytes: 8 << 10,
    },
];

/// Lines of a target's log that are shown where it failed; the whole of it is in `target/fuzz`.
const LINES_SHOWN: usize = 60;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each target
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Only targets whose name holds one of these words
    #[arg(value_name = "TARGET")]
    only: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.seconds > 0,
        "--seconds {}: a run without time finds nothing",
        arguments.seconds
    );
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| arguments.only.is_empty() || arguments.only.iter().any(|word| target.name.contains(word)))
        .collect();
    ensure!(!chosen.is_empty(), "no target of that name");
    build_targets(arguments.seconds)?;
    let mut failed = 0;
    for target in &chosen {
        match fuzz(target, arguments.seconds) {
            Ok(inputs) => println!("ok fuzz {} ({} s, {inputs} inputs)", target.name, arguments.seconds),
            Err(error) => {
                failed += 1;
                println!("FAILED: fuzz {}: {error:#}", target.name);
            }
        }
    }
    println!("{} passed, {failed} failed, 0 skipped", chosen.len() - failed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// Where cargo puts the targets, and the runs what they find: beside all else that is built.
fn output() -> PathBuf {
    workspace::target().join("fuzz")
}

/// Shorter runs are not worth the minutes that optimising takes.
const OPTIMISED_FROM_SECONDS: u32 = 60;

fn build_targets(seconds: u32) -> Result<()> {
    let mut cargo = build::cargo();
    if seconds < OPTIMISED_FROM_SECONDS {
        cargo
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    }
    // The flags that instrument the code are in its `.cargo/config.toml`, and one of them is not stable. What the caller's own flags
    // would add, or the toolchain's choice, is of another build.
    cargo
        .args(["build", "--release", "--locked", "--bins"])
        .current_dir(folder())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", output())
        .env_remove("RUSTFLAGS");
    process::execute(&mut cargo)
}

/// Returns how many inputs were tried.
fn fuzz(target: &Target, seconds: u32) -> Result<u64> {
    let corpus = output().join("corpus").join(target.name);
    let found = output().join("found").join(target.name);
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let program = output().join("x86_64-unknown-linux-gnu/release").join(target.name);
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.input_bytes))
        // An input that takes longer is a finding, on a busy machine too.
        .args([
            "-timeout=25",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .arg(format!("-artifact_prefix={}/", found.display()));
    if let Some(dictionary) = target.dictionary {
        command.arg(format!("-dict={}", folder().join(dictionary).display()));
    }
    command.arg(&corpus);
    for seeds in target.seeds {
        command.arg(seed_folder(seeds)?);
    }
    let log = output().join(target.name).with_extension("log");
    let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    command.stderr(file);
    let result = process::execute(&mut command);
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if result.is_err() {
        let lines: Vec<&str> = text.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
    }
    result?;
    let inputs =
        executed(&text).with_context(|| format!("{} does not say how many inputs were tried", log.display()))?;
    ensure!(inputs >= u64::from(seconds), "{inputs} inputs in {seconds} s");
    Ok(inputs)
}

/// What libFuzzer says at its end.
fn executed(log: &str) -> Option<u64> {
    log.lines().find_map(|line| {
        line.strip_prefix("stat::number_of_executed_units:")?
            .trim()
            .parse()
            .ok()
    })
}

fn seed_folder(seeds: &str) -> Result<PathBuf> {
    let folder: PathBuf = workspace::root().join(Path::new(seeds));
    ensure!(folder.is_dir(), "{} is not there", folder.display());
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read() {
        assert_eq!(executed("x\nstat::number_of_executed_units: 17\ny"), Some(17));
        assert_eq!(executed("stat::average_exec_per_sec: 17"), None);
    }

    #[test]
    fn every_target_of_the_manifest_is_run_and_has_its_seeds() {
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("fuzz/Cargo.toml is there");
        let named: Vec<&str> = manifest
            .split("[[bin]]")
            .skip(1)
            .filter_map(|section| section.split('"').nth(1))
            .collect();
        assert_eq!(named, TARGETS.map(|target| target.name));
        for target in TARGETS {
            for seeds in target.seeds {
                assert!(seed_folder(seeds).is_ok(), "{seeds}");
            }
        }
    }
}
