//! One connection to central, from Hello to its end.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lattice_api::v1::{
    self, AgentMessage, Applied, EventBatch, agent_hub_client::AgentHubClient, agent_message, hub_message,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::{
    Connection, PolicySink, Settings, Uplink, UplinkError, denylist::CentralDenylist, last_good, policy_set::PolicySet,
};
use crate::{error_chain::ErrorChain, spool::Spool};

/// Messages that wait for the network; behind them the spool waits.
const QUEUE: usize = 4;
const BATCH_EVENTS: usize = 512;
const BATCH_BYTES: usize = 256 << 10;
/// A set of some thousand policies with some hundred entries each.
const MESSAGE_BYTES: usize = 256 << 20;
/// How long central may leave events without an acknowledgement.
const SILENCE: Duration = Duration::from_secs(30);
const SILENCE_CHECK: Duration = Duration::from_secs(5);

pub(super) async fn run(
    endpoint: Endpoint,
    uplink: &Uplink,
    spool: &Arc<Spool>,
    sink: &Arc<dyn PolicySink>,
) -> Result<Infallible, UplinkError> {
    let Uplink {
        settings,
        connection,
        standings,
        scraping: _,
    } = uplink;
    let central = &settings.central;
    let connect = endpoint.connect().await;
    let channel = connect.map_err(|source| UplinkError::Connect {
        central: central.clone(),
        source,
    })?;
    let mut client = AgentHubClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
    let (outgoing, queue) = mpsc::channel(QUEUE);
    // The queue is new: the first message always fits.
    let _ = outgoing.try_send(message(agent_message::Kind::Hello(settings.hello.clone())));
    let answer = client.connect(ReceiverStream::new(queue)).await;
    let mut incoming = answer
        .map_err(|status| UplinkError::Ended(Box::new(status)))?
        .into_inner();

    let unacknowledged = Arc::new(AtomicU64::new(0));
    let mut last_progress = Instant::now();
    // Ends with this function, however that ends.
    let mut sending = JoinSet::new();
    sending.spawn(send_events(
        Arc::clone(spool),
        outgoing.clone(),
        Arc::clone(&unacknowledged),
    ));
    if let Some(source) = standings {
        let telling = super::standings::send(Arc::clone(source), outgoing.clone());
        sending.spawn(async {
            telling.await;
            Ok(())
        });
    }
    let mut look = tokio::time::interval(SILENCE_CHECK);
    loop {
        let received = tokio::select! {
            received = incoming.message() => received.map_err(|status| UplinkError::Ended(Box::new(status)))?,
            Some(ended) = sending.join_next() => match ended {
                Ok(Err(error)) => return Err(error.into()),
                _ => return Err(UplinkError::Closed),
            },
            _ = look.tick() => {
                if unacknowledged.load(Ordering::Relaxed) == 0 {
                    last_progress = Instant::now();
                } else if last_progress.elapsed() > SILENCE {
                    return Err(UplinkError::Silent(SILENCE));
                }
                continue;
            }
        };
        match received.ok_or(UplinkError::Closed)?.kind {
            Some(hub_message::Kind::Policies(set)) => {
                let applied = take_policies(set, settings, sink).await;
                if connection.send_replace(Connection::Connected) == Connection::Away {
                    tracing::info!(central, "connected to central");
                }
                let applied = message(agent_message::Kind::Applied(applied));
                outgoing.send(applied).await.map_err(|_| UplinkError::Closed)?;
            }
            Some(hub_message::Kind::Denylist(list)) => {
                let applied = take_denylist(list, settings, sink).await;
                let applied = message(agent_message::Kind::DenylistApplied(applied));
                outgoing.send(applied).await.map_err(|_| UplinkError::Closed)?;
            }
            Some(hub_message::Kind::Acknowledgement(acknowledgement)) => {
                let count = acknowledgement.sequences.len() as u64;
                let spool = Arc::clone(spool);
                // It may remove files.
                let acknowledged = tokio::task::spawn_blocking(move || {
                    spool.acknowledge(&acknowledgement.boot_id, &acknowledgement.sequences);
                });
                acknowledged.await.map_err(|_| UplinkError::Closed)?;
                // Never below zero, whatever central says.
                let less = |now: u64| Some(now.saturating_sub(count));
                let _ = unacknowledged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                last_progress = Instant::now();
            }
            None => tracing::debug!("central said something that this release does not know"),
        }
    }
}

fn message(kind: agent_message::Kind) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

/// Checks a set, puts it in force and keeps it. The answer says what central shows its users.
async fn take_policies(set: v1::PolicySet, settings: &Settings, sink: &Arc<dyn PolicySink>) -> Applied {
    let revision = set.revision;
    let (sink, state) = (Arc::clone(sink), settings.state.clone());
    let taken = tokio::task::spawn_blocking(move || {
        let set = PolicySet::try_from(set).map_err(|error| ErrorChain(&error).to_string())?;
        let applied = sink.apply(set.policies.clone(), set.namespace_modes.clone());
        // Kept also where a part could not be loaded: the rest is in force, and the same is to be so after a restart.
        if let Err(error) = last_good::save(&state, &set) {
            tracing::error!(error = %ErrorChain(&error), "a restart without central would come up with older policies");
        }
        applied
    });
    let result = taken
        .await
        .unwrap_or_else(|error| Err(format!("the agent failed while it applied them: {error}")));
    match &result {
        Ok(()) => tracing::info!(revision, "policies of central are in force"),
        Err(error) => tracing::error!(revision, error, "policies of central are not all in force"),
    }
    Applied {
        revision,
        error: result.err().unwrap_or_default(),
    }
}

/// Puts a denylist in force and keeps it.
async fn take_denylist(list: v1::Denylist, settings: &Settings, sink: &Arc<dyn PolicySink>) -> Applied {
    let revision = list.revision;
    let (sink, state) = (Arc::clone(sink), settings.state.clone());
    let taken = tokio::task::spawn_blocking(move || {
        let (understood, problems) = CentralDenylist::read(&list);
        let applied = sink.deny(understood);
        if let Err(error) = last_good::save_denylist(&state, &list) {
            tracing::error!(error = %ErrorChain(&error), "a restart without central would come up with an older denylist");
        }
        match (applied, problems.is_empty()) {
            (Ok(()), true) => Ok(()),
            (Ok(()), false) => Err(format!("not all of it is understood, the rest is in force: {problems}")),
            (Err(error), _) => Err(error),
        }
    });
    let result = taken
        .await
        .unwrap_or_else(|error| Err(format!("the agent failed while it applied it: {error}")));
    if let Err(error) = &result {
        tracing::error!(revision, error, "central's denylist is not all in force");
    }
    Applied {
        revision,
        error: result.err().unwrap_or_default(),
    }
}

/// Sends what the spool has, the most important first, as it comes.
async fn send_events(
    spool: Arc<Spool>,
    outgoing: mpsc::Sender<AgentMessage>,
    unacknowledged: Arc<AtomicU64>,
) -> Result<(), crate::spool::SpoolError> {
    spool.rewind();
    loop {
        let reader = Arc::clone(&spool);
        let batch = tokio::task::spawn_blocking(move || reader.next_batch(BATCH_EVENTS, BATCH_BYTES));
        let Ok(batch) = batch.await else { return Ok(()) };
        let events = batch?;
        if events.is_empty() {
            spool.appended().await;
            continue;
        }
        unacknowledged.fetch_add(events.len() as u64, Ordering::Relaxed);
        if outgoing
            .send(message(agent_message::Kind::Events(EventBatch { events })))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}
