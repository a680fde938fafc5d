//! P1: what one exec costs, by kind of exec.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::{Agent, BPF_FILE_SYSTEM},
    count_bpf,
    cycle::{Place, measure},
    measurement::Measurement,
    stage::{Program, Stage, TMPFS_BYTES},
    statistics::Programs,
    tell,
};

/// As in the measurement of Tetragon that ours is put beside.
const ENTRIES: u32 = 20;
/// Execs of a file that is hashed every time.
const HASHED_CYCLES: u64 = 8;

/// A kind of exec.
struct Case {
    name: &'static str,
    program: Program,
    place: Place,
    allowed: bool,
}

const fn case(name: &'static str, program: Program, place: Place, allowed: bool) -> Case {
    Case {
        name,
        program,
        place,
        allowed,
    }
}

const CASES: [Case; 7] = [
    case(
        "allowed, static program, digest kept",
        Program::Static,
        Place::Container(0),
        true,
    ),
    case(
        "allowed, with an ELF interpreter, both kept",
        Program::Dynamic,
        Place::Container(0),
        true,
    ),
    case(
        "allowed, script and its interpreter, both kept",
        Program::Script,
        Place::Container(0),
        true,
    ),
    case(
        "allowed, 4 KiB on tmpfs, hashed",
        Program::OnTmpfs(TMPFS_BYTES[0]),
        Place::Container(0),
        true,
    ),
    case("process of the host", Program::Static, Place::Host, true),
    case("refused by its digest", Program::Unlisted, Place::Container(0), false),
    case("refused by its size", Program::UnlistedSize, Place::Container(0), false),
];

pub(super) fn run(stage: &Stage, quick: bool) -> Result<()> {
    let cycles = if quick { 100 } else { 300 };
    stage.write_policy(0, "enforce", ENTRIES, ENTRIES)?;
    let agent = Agent::start(stage, 1)?;
    let programs = Programs::open(Path::new(BPF_FILE_SYSTEM))?;
    count_bpf(true)?;
    for case in &CASES {
        let cost = measure(
            case.program,
            case.place,
            cycles,
            case.allowed,
            Some(&programs),
            Some(&agent),
        )?;
        let values = [
            (
                "bpf_instructions",
                cost.programs.values().map(|program| program.instructions).sum(),
            ),
            ("bpf_runs", cost.programs.values().map(|program| program.runs).sum()),
            ("agent_instructions", cost.agent_nanos),
        ];
        tell(&Measurement {
            requirement: "P1".to_owned(),
            case: case.name.to_owned(),
            entries: ENTRIES,
            containers: 1,
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
            programs: cost.programs,
            note: String::new(),
        })?;
    }
    hashing(&programs)?;
    drop(programs);
    agent.remove()
}

/// A file on tmpfs is read and hashed at every exec: what a MiB costs, beside sha256sum over the same file.
fn hashing(programs: &Programs) -> Result<()> {
    let [_, small, large] = TMPFS_BYTES;
    let mut bpf = Vec::new();
    let mut tool = Vec::new();
    for bytes in [small, large] {
        let program = Program::OnTmpfs(bytes);
        let cost = measure(program, Place::Container(0), HASHED_CYCLES, true, Some(programs), None)?;
        bpf.push(cost.programs.values().map(|program| program.instructions).sum::<f64>());
        // Once to have it in memory, once to measure.
        sha256sum(&program.path())?;
        tool.push(sha256sum(&program.path())?);
    }
    let mebibytes = (large - small) as f64 / f64::from(1 << 20);
    let (bpf, tool) = ((bpf[1] - bpf[0]) / mebibytes, (tool[1] - tool[0]) / mebibytes);
    let values = [
        ("bpf_instructions_per_mib", bpf),
        ("sha256sum_instructions_per_mib", tool),
        ("ratio", bpf / tool),
    ];
    tell(&Measurement {
        requirement: "P1".to_owned(),
        case: "hashing at exec, beside coreutils' sha256sum".to_owned(),
        entries: ENTRIES,
        containers: 1,
        values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Measurement::default()
    })
}

/// Nanoseconds of one run over a file.
fn sha256sum(file: &Path) -> Result<f64> {
    let started = Instant::now();
    let status = Command::new("/opt/bench/sha256sum")
        .arg(file)
        .stdout(Stdio::null())
        .status()
        .context("cannot start sha256sum")?;
    ensure!(status.success(), "sha256sum ended with {status}");
    Ok(started.elapsed().as_nanos() as f64)
}
