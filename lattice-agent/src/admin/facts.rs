//! What the metrics are made of.

use std::{collections::BTreeMap, fs};

use crate::spool::Metrics as SpoolMetrics;

/// What the agent and the kernel count.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Release of the agent.
    pub version: String,
    /// Release of the kernel.
    pub kernel_release: String,
    /// 1 or 2.
    pub tier: u32,
    /// From the start of the program until it was ready; absent before.
    pub start_seconds: Option<f64>,
    /// Verdicts by reason.
    pub verdicts: Vec<(&'static str, u64)>,
    /// Other counters, by their whole names.
    pub named: BTreeMap<String, u64>,
    /// Known containers by the mode that holds; `none` where no policy does.
    pub containers: BTreeMap<String, u64>,
    /// Policies in force.
    pub policies: u64,
    /// Policies that are not, because the kernel cannot be given them.
    pub policies_rejected: u64,
    /// Policy files that cannot be understood as they are now.
    pub policy_files_broken: u64,
    /// Sources of policies of which something is not known that may have held before the start.
    pub policy_sources_unknown: u64,
    /// Containers that stay as they were before the start for that reason.
    pub containers_held: u64,
    /// Denied digests: of files, of images.
    pub denied: [u64; 2],
    /// Events of programs that were not to start.
    pub violation_events: u64,
    /// Events of whole containers.
    pub notice_events: u64,
    /// Events of losses.
    pub gap_events: u64,
    /// Events that those say were lost.
    pub lost_events: u64,
    /// The spool.
    pub spool: SpoolMetrics,
    /// Whether central's policies are being received; absent without a central.
    pub central_connected: Option<bool>,
    /// Whether containerd's containers are being watched; absent without one.
    pub containerd_connected: Option<bool>,
    /// Whether scripts are asked for; absent in tier 1.
    pub front_running: Option<bool>,
    /// What the front counts; empty in tier 1.
    pub front: Vec<(&'static str, u64)>,
}

/// What the process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AgentFacts {
    /// VmRSS.
    pub resident_bytes: u64,
    /// User and system time.
    pub cpu_seconds: f64,
}

impl AgentFacts {
    /// Of this process now; zero where /proc is not to be read.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            resident_bytes: resident_bytes(&status).unwrap_or(0),
            cpu_seconds: cpu_seconds(&stat).unwrap_or(0.0),
        }
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let text = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = text.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Fields 14 and 15, in ticks of which the kernel shows 100 a second on x86-64.
fn cpu_seconds(stat: &str) -> Option<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    // The name may hold anything, and ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (ticks.next()?.parse().ok()?, ticks.next()?.parse().ok()?);
    Some((user + system) / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12 << 10));
        assert_eq!(resident_bytes("VmRSS: many"), None);
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 5 6 7 8 150 50 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("1 (a) S"), None);
        assert!(AgentFacts::now().resident_bytes > 0);
    }
}
