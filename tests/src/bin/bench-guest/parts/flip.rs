//! N6: how long after an operator's word to central the kernel judges by the new mode.
//!
//! ```text
//!  latticectl mode set ─► central (commits) ─► agent ─► maps        in the container: an unlisted program, again and again
//!  └──────────────── measured: to the end of the first exec that is judged anew ────────────────┘
//! ```
//!
//! All policies of the node are of the namespace that flips, so that each flip changes every one of them. The container that is
//! watched is the one that the agent knows last. The resolution is one start of a program, a few milliseconds.

use std::{
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    agent::{self, Agent, Source},
    central::Central,
    measurement::Measurement,
    stage::{Program, Stage},
    tell,
};

const CONTAINERS: u32 = 250;
const ENTRIES: u32 = 20;
const FLIP_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

pub(super) fn run(stage: &mut Stage, quick: bool) -> Result<()> {
    let flips: u32 = if quick { 20 } else { 200 };
    stage.put_into_one_namespace();
    for container in 0..CONTAINERS {
        stage.write_policy(container, "monitor", ENTRIES, ENTRIES)?;
    }
    let central = Central::start(stage.policies())?;
    let agent = Agent::start_with(Source::Central(&central), stage, CONTAINERS)?;
    let watch = Watch::default();
    let taken = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch.run());
        let result = measure(&central, stage, &watch, flips);
        watch.stop.store(true, Ordering::Relaxed);
        let watched = watcher.join().unwrap_or_else(|_| Err(anyhow!("the watcher panicked")));
        result.and_then(|taken| watched.map(|()| taken))
    });
    agent.remove()?;
    let mut seconds = taken?;
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[((seconds.len() as f64 * share).ceil() as usize).clamp(1, seconds.len()) - 1];
    let values = [
        ("p50_seconds", at(0.5)),
        ("p99_seconds", at(0.99)),
        ("most_seconds", at(1.0)),
        ("flips", f64::from(flips)),
    ];
    tell(&Measurement {
        requirement: "N6".to_owned(),
        case: "natively: a namespace's mode, from latticectl to the kernel".to_owned(),
        entries: ENTRIES,
        containers: CONTAINERS,
        values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Measurement::default()
    })
}

/// Flips to and fro, and says how many seconds each took.
fn measure(central: &Central, stage: &Stage, watch: &Watch, flips: u32) -> Result<Vec<f64>> {
    let namespace = stage.namespace(0);
    let flip = |mode: &str, is_refused: bool| -> Result<f64> {
        let started = Instant::now();
        central.latticectl(&["mode", "set", "--namespace", &namespace, mode])?;
        let judged = watch.wait_for(started, is_refused)?;
        Ok(judged.duration_since(started).as_secs_f64())
    };
    // The first also waits until the agent has the policies at all.
    flip("enforce", true)?;
    flip("monitor", false)?;
    (0..flips)
        .map(|number| {
            if number % 2 == 0 {
                flip("enforce", true)
            } else {
                flip("monitor", false)
            }
        })
        .collect()
}

/// What the unlisted program's execs come to.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    /// Since when the answer has been what it is now: start and end of the first such exec, and whether it was refused.
    since: Mutex<Option<(Instant, Instant, bool)>>,
}

impl Watch {
    fn run(&self) -> Result<()> {
        let enter = format!(
            "echo 0 >{}/cgroup.procs; exec \"$@\"",
            agent::cgroup(CONTAINERS - 1).display()
        );
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let status = Command::new("sh")
                .args(["-c", &enter, "sh"])
                .arg(Program::Unlisted.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .context("cannot start a program")?;
            let is_refused = !status.success();
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if since.is_none_or(|(.., before)| before != is_refused) {
                *since = Some((begun, Instant::now(), is_refused));
            }
        }
        Ok(())
    }

    /// When the first exec ended that was judged so; at `from` where it is so already.
    fn wait_for(&self, from: Instant, is_refused: bool) -> Result<Instant> {
        let deadline = Instant::now() + FLIP_LIMIT;
        loop {
            let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, end, now)) = since
                && now == is_refused
            {
                return Ok(end.max(from));
            }
            ensure!(
                Instant::now() < deadline,
                "the kernel does not judge by the new mode after {} s",
                FLIP_LIMIT.as_secs()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }
}
