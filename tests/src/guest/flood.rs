//! Workers that start programs in a container's cgroup as fast as they can: refused ones, half of them on fresh inodes, and listed ones.
//!
//! A worker is this suite's own program. It stays outside of what it judges: it enters the cgroup once, and what it starts are children.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{actor::BROKEN, host::host, trial::path_word};

/// First argument of a worker.
pub const VERB: &str = "flood";

/// A worker's orders.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The processor that it stays on.
    pub cpu: usize,
    /// Where it lives.
    pub cgroup: PathBuf,
    /// Programs to start.
    pub count: u64,
    /// The program.
    pub program: PathBuf,
    /// Where every other try has a new file of the same bytes; `None` where all are of the one file.
    pub fresh: Option<PathBuf>,
}

/// What came of all its tries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended by SIGKILL.
    pub killed: u64,
    /// Not started: EPERM.
    pub denied: u64,
    /// Ended with 0.
    pub ran: u64,
    /// Anything else.
    pub other: u64,
}

impl Orders {
    /// Starts a worker; where its programs leave their marks is in `mark`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, mark: &Path) -> Result<Child> {
        let fresh = self.fresh.as_deref().map_or_else(|| "-".to_owned(), path_word);
        host()
            .program("lattice-vm-suite")
            .args([VERB, &self.cpu.to_string(), &self.count.to_string(), &fresh])
            .arg(&self.cgroup)
            .arg(&self.program)
            .env("LATTICE_MARK", mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")
    }

    fn parse(words: &[String]) -> Result<Self> {
        let [cpu, count, fresh, cgroup, program] = words else {
            bail!("CPU COUNT FRESH CGROUP PROGRAM are missing");
        };
        Ok(Self {
            cpu: cpu.parse()?,
            cgroup: cgroup.into(),
            count: count.parse()?,
            program: program.into(),
            fresh: (fresh != "-").then(|| fresh.into()),
        })
    }

    fn carry_out(&self) -> Result<Tally> {
        let mut cpus = CpuSet::new();
        cpus.set(self.cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
        fs::write(self.cgroup.join("cgroup.procs"), "0").context("cannot enter the cgroup")?;
        let bytes = fs::read(&self.program)?;
        let mut tally = Tally::default();
        for number in 0..self.count {
            match &self.fresh {
                Some(folder) if number % 2 == 1 => {
                    let path = folder.join(format!("fresh-{}-{number}", self.cpu));
                    let mut file = fs::File::options()
                        .write(true)
                        .create_new(true)
                        .mode(0o755)
                        .open(&path)?;
                    file.write_all(&bytes)?;
                    file.set_permissions(fs::Permissions::from_mode(0o755))?;
                    drop(file);
                    tally.add(&path);
                    fs::remove_file(&path)?;
                }
                _ => tally.add(&self.program),
            }
        }
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, program: &Path) {
        let status = Command::new(program).stdin(Stdio::null()).status();
        match status {
            Ok(status) if status.signal() == Some(9) => self.killed += 1,
            Ok(status) if status.success() => self.ran += 1,
            Err(error) if error.raw_os_error() == Some(1) => self.denied += 1,
            _ => self.other += 1,
        }
    }

    /// What a worker said at its end.
    ///
    /// # Errors
    /// When it failed.
    pub fn of(worker: Child) -> Result<Self> {
        let output = worker.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "a worker ended with {}: {said}", output.status);
        let numbers: Vec<u64> = said
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("a worker said {said:?}"))?;
        match numbers[..] {
            [killed, denied, ran, other] => Ok(Self {
                killed,
                denied,
                ran,
                other,
            }),
            _ => bail!("a worker said {said:?}"),
        }
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            killed: self.killed + other.killed,
            denied: self.denied + other.denied,
            ran: self.ran + other.ran,
            other: self.other + other.other,
        }
    }
}

/// Runs a worker.
pub fn work(words: &[String]) -> ExitCode {
    match Orders::parse(words).and_then(|orders| orders.carry_out()) {
        Ok(tally) => {
            println!("{} {} {} {}", tally.killed, tally.denied, tally.ran, tally.other);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::from(BROKEN)
        }
    }
}
