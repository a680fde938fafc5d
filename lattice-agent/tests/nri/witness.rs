//! The witness of execs, which is not Lattice: the kernel's own tracepoint, in a trace instance of the test's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub(crate) struct Witness {
    tracing: PathBuf,
    instance: PathBuf,
}

impl Witness {
    /// Watches execs of files whose path, as it is passed to execve, begins with `prefix`.
    ///
    /// # Errors
    /// Where this host gives no trace instance.
    pub(crate) fn start(folder: &Path, prefix: &str) -> io::Result<Self> {
        let tracing = folder.join("tracing");
        fs::create_dir(&tracing)?;
        mount(Some("none"), &tracing, Some("tracefs"), MsFlags::empty(), None::<&str>)?;
        let instance = tracing.join(format!("instances/lattice-nri-{}", std::process::id()));
        let witness = Self { tracing, instance };
        fs::create_dir(&witness.instance)?;
        let event = witness.instance.join("events/sched/sched_process_exec");
        fs::write(event.join("filter"), format!("filename ~ \"{prefix}*\""))?;
        fs::write(event.join("enable"), "1")?;
        Ok(witness)
    }

    /// How often each path was executed, from the start on. The tracepoint comes before the program's first instruction, so a program
    /// that was killed there is among them.
    pub(crate) fn count(&self, path: &str) -> usize {
        let trace = fs::read_to_string(self.instance.join("trace")).unwrap();
        let lost = trace.lines().any(|line| line.contains("LOST"));
        assert!(!lost, "the witness lost events: {trace}");
        let wanted = format!("filename={path} ");
        trace.lines().filter(|line| line.contains(&wanted)).count()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = fs::write(self.instance.join("events/sched/sched_process_exec/enable"), "0");
        if let Err(error) = fs::remove_dir(&self.instance) {
            println!("{} stays: {error}", self.instance.display());
        }
        let _ = umount2(&self.tracing, MntFlags::MNT_DETACH);
    }
}
