//! Drains the ring buffer for as long as the agent runs.

use std::{sync::Arc, time::Duration};

use aya::maps::{MapData, RingBuf};
use lattice_api::v1::{Event, event::Kind};
use tokio::{
    sync::mpsc::{Receiver, UnboundedSender},
    time::{MissedTickBehavior, interval},
};

use lattice_common::repeat::{Repeat, RepeatKey};

use super::{
    EventSink,
    clock::{boot_offset_nanos, now_nanos},
    explain::{Node, explain},
    gaps::Gaps,
    record::{Record, decode},
    repeats::{self, Names, Repeats as _},
};
use crate::{
    admin::health::Heartbeat,
    error_chain::ErrorChain,
    kernel::{
        maps::RepeatTable,
        ring::{RingPositions, pollable},
        sequence::SequenceCounter,
    },
    state::Shared,
};

/// How often the sequence is checked for holes, and the ring buffer for what its wake-ups missed.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How many checks a window lasts in which equal refusals are counted.
const CHECKS_A_WINDOW: u32 = 4;
/// Wait before a record that could not be kept is offered again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Reads records and hands events on; ends only with an error.
pub struct Reader {
    /// The ring buffer.
    pub ring: RingBuf<MapData>,
    /// Containers and policies.
    pub state: Arc<Shared>,
    /// Who keeps the events.
    pub sink: Arc<dyn EventSink>,
    /// Who is told of new cgroups.
    pub cgroups: UnboundedSender<u64>,
    /// Events that the agent itself makes, numbered by the kernel's counter.
    pub own_events: Receiver<Event>,
    /// What the kernel side counts instead of telling.
    pub repeats: RepeatTable,
    /// Numbers the events that say so.
    pub sequence: SequenceCounter,
    /// Who is speaking.
    pub node: Node,
    /// Its sign of life.
    pub heartbeat: Heartbeat,
    /// The sequence number up to which all was kept before this start.
    pub last_sequence: u64,
}

impl Reader {
    /// Runs until the ring buffer fails.
    ///
    /// # Errors
    /// When the ring buffer cannot be waited for.
    pub async fn run(self) -> std::io::Result<()> {
        let Self {
            ring,
            state,
            sink,
            cgroups,
            mut own_events,
            repeats,
            sequence,
            node,
            heartbeat,
            last_sequence,
        } = self;
        let mut gaps = Gaps::after(last_sequence, state.last_sequence().unwrap_or(0));
        let mut counted = Counted {
            repeats,
            sequence,
            names: Names::default(),
        };
        let mut checks = 0_u32;
        match repeats::numbered(&counted.repeats) {
            Ok(numbered) => counted.tell(numbered, &state, &node, &mut gaps, &*sink).await,
            Err(error) => tracing::error!(error = %ErrorChain(&error), "counted refusals cannot be read"),
        }
        let positions = RingPositions::of(&ring)?;
        let mut ring = pollable(ring)?;
        let mut check = interval(CHECK_INTERVAL);
        // After a stall, two checks at once would be one.
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut is_check = false;
            tokio::select! {
                guard = ring.readable_mut() => { guard?.clear_ready(); }
                _ = check.tick() => {
                    is_check = true;
                    heartbeat.beat();
                }
                Some(event) = own_events.recv() => {
                    if gaps.saw(event.sequence) {
                        keep(&*sink, &event).await;
                    }
                    continue;
                }
            }
            // In this order, and before the drain: the kernel side reserves room and then numbers, so the record of each number so far
            // lies before the end, or there was no room for it.
            let last = state.last_sequence();
            let end = positions.end();
            let offset = boot_offset_nanos();
            while let Some(item) = ring.get_mut().next() {
                match decode(&item) {
                    Ok(Record::Exec(record)) => {
                        if gaps.saw(record.sequence) {
                            let event = state.with_names(&record, |container, policy| {
                                explain(&record, &node, container, policy, offset)
                            });
                            state.finish_kill(&record);
                            // The item leaves the buffer when it is dropped, after the event is kept.
                            keep(&*sink, &event).await;
                            counted.names.remember(&event);
                        }
                    }
                    Ok(Record::Cgroup { cgroup_id, made }) => {
                        if made {
                            let _ = cgroups.send(cgroup_id);
                        }
                    }
                    Err(error) => tracing::error!(%error, "a record in the ring buffer is not of this release"),
                }
            }
            checks += u32::from(is_check);
            if checks >= CHECKS_A_WINDOW {
                checks = 0;
                counted.next_window(&state, &node, &mut gaps, &*sink).await;
            }
            // Where a record is still being written, what is behind it was not read.
            let is_read = positions.read_to() >= end;
            if is_check
                && is_read
                && let Some(last) = last
            {
                while let Ok(event) = own_events.try_recv() {
                    if gaps.saw(event.sequence) {
                        keep(&*sink, &event).await;
                    }
                }
                for gap in gaps.found_empty(last) {
                    tracing::warn!(
                        first = gap.first_sequence,
                        last = gap.last_sequence,
                        cause = gap.cause,
                        "events were lost: the ring buffer was full"
                    );
                    let event = Event {
                        node: node.name.clone(),
                        boot_id: node.boot_id.clone(),
                        sequence: gap.first_sequence,
                        time_unix_nanos: now_nanos(),
                        kind: Some(Kind::Gap(gap)),
                    };
                    keep(&*sink, &event).await;
                }
            }
        }
    }
}

/// What is counted rather than told one by one.
struct Counted {
    repeats: RepeatTable,
    sequence: SequenceCounter,
    names: Names,
}

impl Counted {
    async fn next_window(&mut self, state: &Shared, node: &Node, gaps: &mut Gaps, sink: &dyn EventSink) {
        let Self { repeats, sequence, .. } = self;
        match repeats::due(repeats, || sequence.next()) {
            Ok(due) => self.tell(due, state, node, gaps, sink).await,
            Err(error) => tracing::error!(error = %ErrorChain(&error), "counted refusals stay where they are"),
        }
    }

    async fn tell(
        &mut self,
        due: Vec<(RepeatKey, Repeat)>,
        state: &Shared,
        node: &Node,
        gaps: &mut Gaps,
        sink: &dyn EventSink,
    ) {
        // All of them are seen before any wait: none is taken for a hole.
        let is_new: Vec<bool> = due.iter().map(|(_, repeat)| gaps.saw(repeat.sequence)).collect();
        for ((key, repeat), is_new) in due.into_iter().zip(is_new) {
            if is_new {
                let record = repeats::as_judged(&key, &repeat);
                let offset = boot_offset_nanos();
                let event = state.with_names(&record, |container, policy| {
                    explain(&record, node, container, policy, offset)
                });
                keep(sink, &self.names.counted(event, &key, &repeat, offset)).await;
            }
            if let Err(error) = self.repeats.remove(key) {
                tracing::error!(error = %ErrorChain(&error), sequence = repeat.sequence, "a count that was told stays");
            }
        }
    }
}

/// Offers an event until it is kept: while it is not, the ring buffer holds what follows, and counts what it cannot.
async fn keep(sink: &dyn EventSink, event: &Event) {
    let mut said = false;
    while let Err(error) = sink.accept(event) {
        if !said {
            tracing::error!(%error, "an event cannot be kept; trying again");
            said = true;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
