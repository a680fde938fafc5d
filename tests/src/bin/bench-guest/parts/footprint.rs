//! P3: what the agent holds and takes with 250 containers of 100 entries, and how soon it protects.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};

use crate::{
    agent::{Agent, logged_errors},
    cycle::{Place, idle_rate, measure},
    measurement::Measurement,
    stage::{Program, Stage},
    statistics, tell,
};

const CONTAINERS: u32 = 250;
const ENTRIES: u32 = 100;
/// Sizes that the files of one image have, where the kernel's table of sizes does not hold one a file.
const FEWER_SIZES: u32 = 50;

pub(super) fn run(stage: &Stage, quick: bool) -> Result<()> {
    let idle_span = Duration::from_secs(if quick { 10 } else { 30 });
    stage.write_policy(0, "enforce", 20, 20)?;
    one(stage, 1, 20, 20, idle_span)?;
    for sizes in [ENTRIES, FEWER_SIZES] {
        stage.clear_policies()?;
        for container in 0..CONTAINERS {
            stage.write_policy(container, "enforce", ENTRIES, sizes)?;
        }
        if one(stage, CONTAINERS, ENTRIES, sizes, idle_span)? {
            break;
        }
    }
    Ok(())
}

/// Only how long the start takes, with one container and with many.
pub(super) fn start(stage: &Stage) -> Result<()> {
    for (containers, entries) in [(1, 20), (CONTAINERS, ENTRIES)] {
        for container in 0..containers {
            stage.write_policy(container, "enforce", entries, FEWER_SIZES)?;
        }
        let agent = Agent::start(stage, containers)?;
        let first = agent.start_duration.as_secs_f64();
        measure(
            Program::UnlistedSize,
            Place::Container(containers - 1),
            1,
            false,
            None,
            None,
        )
        .context("the agent said that it was ready")?;
        agent.kill()?;
        let again = Agent::start(stage, containers)?;
        let second = again.start_duration.as_secs_f64();
        again.remove()?;
        tell(&Measurement {
            requirement: "P3".to_owned(),
            case: "start".to_owned(),
            entries,
            containers,
            values: [
                ("start_seconds".to_owned(), first),
                ("restart_seconds".to_owned(), second),
            ]
            .into(),
            programs: BTreeMap::new(),
            note: String::new(),
        })?;
    }
    Ok(())
}

/// Returns whether all policies were taken.
fn one(stage: &Stage, containers: u32, entries: u32, sizes: u32, idle_span: Duration) -> Result<bool> {
    let agent = Agent::start(stage, containers)?;
    let errors = logged_errors();
    let note = match errors.first() {
        None => format!("{sizes} file sizes a policy"),
        Some(first) => format!("{sizes} file sizes a policy: not all were taken: {}", shortened(first)),
    };
    let mut values = BTreeMap::from([
        ("start_seconds".to_owned(), agent.start_duration.as_secs_f64()),
        ("start_cpu_seconds".to_owned(), agent.start_cpu.as_secs_f64()),
    ]);
    if errors.is_empty() {
        // Ready means protected: at once, and for the container that was told last.
        measure(
            Program::UnlistedSize,
            Place::Container(containers - 1),
            1,
            false,
            None,
            None,
        )
        .context("the agent said that it was ready")?;
        agent.wait_until_quiet()?;
        let rss = agent.status_kib("VmRSS")?;
        values.insert("rss_mib".to_owned(), rss as f64 / 1024.0);
        values.insert(
            "rss_anonymous_mib".to_owned(),
            agent.status_kib("RssAnon")? as f64 / 1024.0,
        );
        values.insert("rss_peak_mib".to_owned(), agent.status_kib("VmHWM")? as f64 / 1024.0);
        values.insert("idle_cpu_percent".to_owned(), 100.0 * idle_rate(idle_span)?);
        let maps = statistics::map_bytes()?;
        let total: u64 = maps.values().sum();
        values.insert("maps_mib".to_owned(), mebibytes(total));
        for (name, bytes) in maps {
            values.insert(format!("map_{name}_mib"), mebibytes(bytes));
        }
        // Once more, with everything found pinned.
        agent.kill()?;
        let again = Agent::start(stage, containers)?;
        values.insert("restart_seconds".to_owned(), again.start_duration.as_secs_f64());
        again.wait_until_quiet()?;
        values.insert("restart_rss_mib".to_owned(), again.status_kib("VmRSS")? as f64 / 1024.0);
        again.remove()?;
    } else {
        agent.remove()?;
    }
    tell(&Measurement {
        requirement: "P3".to_owned(),
        case: "footprint".to_owned(),
        entries,
        containers,
        values,
        programs: BTreeMap::new(),
        note,
    })?;
    Ok(errors.is_empty())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn shortened(line: &str) -> String {
    line.chars().take(300).collect()
}
