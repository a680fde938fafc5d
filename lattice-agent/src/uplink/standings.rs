//! What holds for the node's containers, told to central: all of it when a stream begins, then what is different.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lattice_api::v1::{self, AgentMessage, ContainerStatus, agent_message};
use tokio::sync::{mpsc, watch};

/// Containers in one message; central takes no more.
const MESSAGE_CONTAINERS: usize = 512;
/// Changes within this time go together: a mode that flips for a namespace changes all its containers.
const COLLECT: Duration = Duration::from_millis(200);

/// Who knows what holds for the node's containers.
pub trait StandingSource: Send + Sync {
    /// All of them. Called where it may block.
    fn all(&self) -> Vec<ContainerStatus>;

    /// Says when `all` may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Sends until the stream or the source ends.
pub(super) async fn send(source: Arc<dyn StandingSource>, outgoing: mpsc::Sender<AgentMessage>) {
    let mut changes = source.changes();
    let mut told: Option<BTreeMap<u64, ContainerStatus>> = None;
    loop {
        // Marked as seen before the look: a change during it wakes the wait below.
        changes.borrow_and_update();
        let looking = Arc::clone(&source);
        let Ok(all) = tokio::task::spawn_blocking(move || looking.all()).await else {
            return;
        };
        let now: BTreeMap<u64, ContainerStatus> = all.into_iter().map(|status| (cgroup_id(&status), status)).collect();
        for message in differences(told.as_ref(), &now) {
            let kind = Some(agent_message::Kind::Standings(message));
            if outgoing.send(AgentMessage { kind }).await.is_err() {
                return;
            }
        }
        told = Some(now);
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(COLLECT).await;
    }
}

fn cgroup_id(status: &ContainerStatus) -> u64 {
    status.container.as_ref().map_or(0, |container| container.cgroup_id)
}

/// What to say to one who was told `told`; to one who was told nothing, everything, and that it is everything.
fn differences(
    told: Option<&BTreeMap<u64, ContainerStatus>>,
    now: &BTreeMap<u64, ContainerStatus>,
) -> Vec<v1::Standings> {
    let before = |id: &u64| told.and_then(|told| told.get(id));
    let changed: Vec<ContainerStatus> = now
        .iter()
        .filter(|(id, status)| before(id) != Some(*status))
        .map(|(_, status)| status.clone())
        .collect();
    let gone: Vec<u64> = told
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter(|id| !now.contains_key(id))
        .copied()
        .collect();
    let mut messages: Vec<v1::Standings> = changed
        .chunks(MESSAGE_CONTAINERS)
        .map(|containers| v1::Standings {
            containers: containers.to_vec(),
            ..v1::Standings::default()
        })
        .collect();
    if messages.is_empty() && (told.is_none() || !gone.is_empty()) {
        messages.push(v1::Standings::default());
    }
    if let Some(first) = messages.first_mut() {
        first.clear = told.is_none();
        first.gone = gone;
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(containers: impl IntoIterator<Item = (u64, &'static str)>) -> BTreeMap<u64, ContainerStatus> {
        let status = |id, mode: &str| ContainerStatus {
            container: Some(v1::Container {
                cgroup_id: id,
                ..v1::Container::default()
            }),
            mode: mode.into(),
            ..ContainerStatus::default()
        };
        containers
            .into_iter()
            .map(|(id, mode)| (id, status(id, mode)))
            .collect()
    }

    #[track_caller]
    fn check(told: Option<&[(u64, &'static str)]>, now: &[(u64, &'static str)], expected: &[(bool, &[u64], &[u64])]) {
        let told = told.map(|told| standings(told.iter().copied()));
        let found = differences(told.as_ref(), &standings(now.iter().copied()));
        let found: Vec<(bool, Vec<u64>, Vec<u64>)> = found
            .into_iter()
            .map(|message| {
                let containers = message.containers.iter().map(cgroup_id).collect();
                (message.clear, containers, message.gone)
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(clear, containers, gone)| (*clear, containers.to_vec(), gone.to_vec()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_said_is_all_at_first_and_then_what_differs() {
        check(None, &[], &[(true, &[], &[])]);
        check(None, &[(1, "deny"), (2, "deny")], &[(true, &[1, 2], &[])]);
        check(Some(&[(1, "deny")]), &[(1, "deny")], &[]);
        check(
            Some(&[(1, "deny"), (2, "deny")]),
            &[(1, "monitor"), (2, "deny")],
            &[(false, &[1], &[])],
        );
        check(
            Some(&[(1, "deny"), (2, "deny")]),
            &[(2, "deny"), (3, "deny")],
            &[(false, &[3], &[1])],
        );
        check(Some(&[(1, "deny")]), &[], &[(false, &[], &[1])]);
    }

    #[test]
    fn many_containers_are_several_messages() {
        let now = standings((0..1_200).map(|id| (id, "deny")));
        let messages = differences(None, &now);
        let sizes: Vec<(bool, usize)> = messages
            .iter()
            .map(|message| (message.clear, message.containers.len()))
            .collect();
        assert_eq!(sizes, [(true, 512), (false, 512), (false, 176)]);
    }
}
