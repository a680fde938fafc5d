//! The latest events in memory, for who looks and who follows.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lattice_api::{
    event::event_namespace,
    v1::{Event, event::Kind},
};
use tokio::sync::broadcast;

/// Events that a slow follower may lag behind.
const LAG: usize = 1024;

struct State {
    kept: VecDeque<Arc<Event>>,
    /// `None` once closed.
    followers: Option<broadcast::Sender<Arc<Event>>>,
}

/// At most so many events, the newest.
pub struct RecentEvents {
    capacity: usize,
    state: Mutex<State>,
}

/// Whether an event belongs to what a user asked for. A gap may hide events of any namespace.
pub(super) fn is_of(event: &Event, namespace: &str) -> bool {
    match &event.kind {
        Some(Kind::Violation(_) | Kind::Notice(_)) if !namespace.is_empty() => event_namespace(event) == namespace,
        _ => true,
    }
}

impl RecentEvents {
    /// Keeps up to `capacity` events; begins with what is still in the spool.
    pub fn new(capacity: usize, earlier: Vec<Event>) -> Self {
        let excess = earlier.len().saturating_sub(capacity);
        let kept = earlier.into_iter().skip(excess).map(Arc::new).collect();
        let followers = Some(broadcast::Sender::new(LAG));
        Self {
            capacity: capacity.max(1),
            state: Mutex::new(State { kept, followers }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event, after the spool has it.
    pub fn push(&self, event: Event) {
        let event = Arc::new(event);
        let mut state = self.state();
        if state.kept.len() >= self.capacity {
            state.kept.pop_front();
        }
        state.kept.push_back(Arc::clone(&event));
        if let Some(followers) = &state.followers {
            // Without followers there is nobody to tell.
            let _ = followers.send(event);
        }
    }

    /// The newest events of a namespace (of all where it is empty), oldest first, at most `limit`, all where that is 0; and
    /// what comes after exactly these.
    pub(super) fn look(
        &self,
        limit: usize,
        namespace: &str,
    ) -> (Vec<Arc<Event>>, Option<broadcast::Receiver<Arc<Event>>>) {
        let state = self.state();
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut events: Vec<_> = state
            .kept
            .iter()
            .rev()
            .filter(|event| is_of(event, namespace))
            .take(limit)
            .map(Arc::clone)
            .collect();
        events.reverse();
        (events, state.followers.as_ref().map(broadcast::Sender::subscribe))
    }

    /// Ends all who follow.
    pub(super) fn close(&self) {
        self.state().followers = None;
    }
}

#[cfg(test)]
mod tests {
    use lattice_api::v1::{Container, Gap, Violation};

    use super::*;

    fn event(sequence: u64, namespace: &str) -> Event {
        let container = Container {
            namespace: namespace.into(),
            ..Container::default()
        };
        let violation = Violation {
            container: Some(container),
            ..Violation::default()
        };
        Event {
            sequence,
            kind: Some(Kind::Violation(violation)),
            ..Event::default()
        }
    }

    #[track_caller]
    fn check(recent: &RecentEvents, limit: usize, namespace: &str, expected: &[u64]) {
        let found: Vec<u64> = recent
            .look(limit, namespace)
            .0
            .iter()
            .map(|event| event.sequence)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn keeps_the_newest_and_tells_who_follows() {
        let recent = RecentEvents::new(3, (1..=5).map(|sequence| event(sequence, "a")).collect());
        check(&recent, 0, "", &[3, 4, 5]);
        let (_, follower) = recent.look(0, "");
        recent.push(event(6, "b"));
        recent.push(Event {
            sequence: 7,
            kind: Some(Kind::Gap(Gap::default())),
            ..Event::default()
        });
        check(&recent, 0, "", &[5, 6, 7]);
        check(&recent, 2, "", &[6, 7]);
        check(&recent, 0, "a", &[5, 7]);
        let mut follower = follower.unwrap();
        assert_eq!(follower.try_recv().unwrap().sequence, 6);
        recent.close();
        assert_eq!(follower.try_recv().unwrap().sequence, 7);
        assert!(matches!(
            follower.try_recv(),
            Err(broadcast::error::TryRecvError::Closed)
        ));
        assert!(recent.look(0, "").1.is_none());
    }
}
