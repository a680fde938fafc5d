//! The agents: which are connected, what they said of themselves, and which revision each has applied.

use std::collections::BTreeMap;

use tokio::sync::{oneshot, watch};

/// More names than this are not remembered; a client CA that signs for more nodes needs more than one central.
const NODES_MAXIMUM: usize = 10_000;

/// What an agent says of itself at the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Introduction {
    /// The node's boot.
    pub boot_id: String,
    /// Version of the agent.
    pub agent_version: String,
    /// 1 or 2.
    pub tier: u32,
    /// Release of the kernel.
    pub kernel_release: String,
}

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// What its agent said of itself, last time.
    pub introduction: Introduction,
    /// Whether a stream is open now.
    pub connected: bool,
    /// The last revision of the policy set that its agent has put into its maps.
    pub applied_revision: u64,
    /// Why it could not apply a revision; empty where it could.
    pub apply_error: String,
    /// The last revision of the denylist that its agent has put into its maps.
    pub denylist_revision: u64,
    /// Why it could not a later one; empty where it could.
    pub denylist_error: String,
    /// The highest sequence of this boot that is stored.
    pub last_sequence: u64,
    session: u64,
}

/// What agents are given, each with revisions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Policies and modes.
    Policies,
    /// The denylist.
    Denylist,
}

/// How far the connected agents are with a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Agents that applied it.
    pub applied: u32,
    /// Connected agents.
    pub connected: u32,
    /// Those that did not, each with its reason where it gave one.
    pub waiting: Vec<String>,
}

/// All nodes; what changes is seen by whoever watches.
pub struct Nodes {
    nodes: watch::Sender<BTreeMap<String, Node>>,
    sessions: std::sync::Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    last: u64,
    /// Ends the stream of a node when a newer one takes its place.
    ending: BTreeMap<String, (u64, oneshot::Sender<()>)>,
}

/// An agent's stream. Only the newest of a node counts.
pub struct Session {
    /// The node's name.
    pub node: String,
    number: u64,
    /// Answers when a newer stream of the same node has taken over.
    pub replaced: oneshot::Receiver<()>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            nodes: watch::Sender::new(BTreeMap::new()),
            sessions: std::sync::Mutex::default(),
        }
    }
}

impl Nodes {
    /// Begins a session, which ends an older one of the same node. `None` where there are too many nodes.
    pub fn connect(&self, name: &str, introduction: Introduction, last_sequence: u64) -> Option<Session> {
        let mut sessions = self.sessions();
        if self.nodes.borrow().len() >= NODES_MAXIMUM && !self.nodes.borrow().contains_key(name) {
            return None;
        }
        sessions.last += 1;
        let number = sessions.last;
        let (end, replaced) = oneshot::channel();
        if let Some((_, older)) = sessions.ending.insert(name.to_owned(), (number, end)) {
            // The older stream may have ended by itself.
            let _ = older.send(());
        }
        self.nodes.send_modify(|nodes| {
            let node = nodes.entry(name.to_owned()).or_default();
            *node = Node {
                introduction,
                connected: true,
                last_sequence,
                session: number,
                ..Node::default()
            };
        });
        Some(Session {
            node: name.to_owned(),
            number,
            replaced,
        })
    }

    /// Ends a session; a newer one of the same node is left alone.
    pub fn disconnect(&self, session: &Session) {
        let mut sessions = self.sessions();
        if sessions
            .ending
            .get(&session.node)
            .is_some_and(|(number, _)| *number == session.number)
        {
            sessions.ending.remove(&session.node);
        }
        self.change(session, |node| node.connected = false);
    }

    /// Notes what an agent has applied.
    pub fn applied(&self, session: &Session, given: Given, revision: u64, error: String) {
        self.change(session, |node| match given {
            Given::Policies => {
                node.applied_revision = revision;
                node.apply_error = error;
            }
            Given::Denylist => {
                node.denylist_revision = revision;
                node.denylist_error = error;
            }
        });
    }

    /// Notes what was stored for a node.
    pub fn stored(&self, session: &Session, sequence: u64) {
        self.change(session, |node| node.last_sequence = node.last_sequence.max(sequence));
    }

    /// Whether no newer stream of the node has taken over.
    pub fn is_current(&self, session: &Session) -> bool {
        let nodes = self.nodes.borrow();
        nodes
            .get(&session.node)
            .is_some_and(|node| node.session == session.number)
    }

    fn change(&self, session: &Session, change: impl FnOnce(&mut Node)) {
        self.nodes.send_if_modified(|nodes| match nodes.get_mut(&session.node) {
            Some(node) if node.session == session.number => {
                change(node);
                true
            }
            _ => false,
        });
    }

    /// All nodes as they are now.
    pub fn all(&self) -> BTreeMap<String, Node> {
        self.nodes.borrow().clone()
    }

    /// How many there are, by documented name.
    pub fn counts(&self) -> [(String, u64); 3] {
        let nodes = self.nodes.borrow();
        let count = |counts: fn(&Node) -> bool| nodes.values().filter(|node| counts(node)).count() as u64;
        let of_state = |state: &str| format!("lattice_central_nodes{{state=\"{state}\"}}");
        [
            (of_state("connected"), count(|node| node.connected)),
            (of_state("away"), count(|node| !node.connected)),
            (
                "lattice_central_nodes_not_applied".to_owned(),
                count(|node| !node.apply_error.is_empty() || !node.denylist_error.is_empty()),
            ),
        ]
    }

    /// How far the connected agents are with a revision.
    pub fn progress(&self, given: Given, revision: u64) -> Progress {
        progress(&self.nodes.borrow(), given, revision)
    }

    /// Waits until every connected agent has applied the revision; forever, if one never does.
    pub async fn wait_for(&self, given: Given, revision: u64) -> Progress {
        let mut watching = self.nodes.subscribe();
        let reached = watching
            .wait_for(|nodes| progress(nodes, given, revision).waiting.is_empty())
            .await;
        // The sender is `self`, which is borrowed, so that the channel cannot be closed.
        reached
            .map(|nodes| progress(&nodes, given, revision))
            .unwrap_or_default()
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        // Nothing panics while it is held that would leave it half changed.
        self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn progress(nodes: &BTreeMap<String, Node>, given: Given, revision: u64) -> Progress {
    let mut progress = Progress::default();
    for (name, node) in nodes.iter().filter(|(_, node)| node.connected) {
        let (applied, error) = match given {
            Given::Policies => (node.applied_revision, &node.apply_error),
            Given::Denylist => (node.denylist_revision, &node.denylist_error),
        };
        progress.connected += 1;
        if applied >= revision && error.is_empty() {
            progress.applied += 1;
        } else if error.is_empty() {
            progress.waiting.push(format!("{name} is at revision {applied}"));
        } else {
            progress.waiting.push(format!("{name}: {error}"));
        }
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_connected_agents_only() {
        let nodes = Nodes::default();
        assert_eq!(nodes.wait_for(Given::Policies, 5).await, Progress::default());
        let first = nodes.connect("a", Introduction::default(), 0).unwrap();
        let second = nodes.connect("b", Introduction::default(), 0).unwrap();
        nodes.applied(&first, Given::Policies, 5, String::new());
        assert_eq!(nodes.progress(Given::Policies, 5).waiting, ["b is at revision 0"]);
        nodes.applied(&second, Given::Policies, 5, "map is full".to_owned());
        assert_eq!(nodes.progress(Given::Policies, 5).waiting, ["b: map is full"]);
        assert_eq!(nodes.counts().map(|(_, count)| count), [2, 0, 1]);
        let (done, ()) = tokio::join!(nodes.wait_for(Given::Policies, 5), async { nodes.disconnect(&second) });
        assert_eq!((done.applied, done.connected), (1, 1));
        assert_eq!(nodes.counts().map(|(_, count)| count), [1, 1, 1]);
        // The denylist has revisions of its own.
        assert_eq!(nodes.progress(Given::Denylist, 5).waiting, ["a is at revision 0"]);
        nodes.applied(&first, Given::Denylist, 6, String::new());
        assert_eq!(nodes.wait_for(Given::Denylist, 5).await.applied, 1);
    }

    #[tokio::test]
    async fn a_newer_stream_of_a_node_ends_the_older_one() {
        let nodes = Nodes::default();
        let mut older = nodes.connect("a", Introduction::default(), 0).unwrap();
        assert!(older.replaced.try_recv().is_err());
        let newer = nodes.connect("a", Introduction::default(), 7).unwrap();
        (&mut older.replaced).await.unwrap();
        nodes.applied(&older, Given::Policies, 9, String::new());
        nodes.disconnect(&older);
        assert!(nodes.is_current(&newer) && !nodes.is_current(&older));
        let node = nodes.all()["a"].clone();
        assert!(node.connected);
        assert_eq!((node.applied_revision, node.last_sequence), (0, 7));
        nodes.stored(&newer, 8);
        nodes.stored(&newer, 3);
        nodes.disconnect(&newer);
        let node = nodes.all()["a"].clone();
        assert_eq!((node.connected, node.last_sequence), (false, 8));
    }
}
