//! The threads that judge. One that hangs is given up, and replaced up to a limit.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use super::{Answer, Judge, counters::Counters, pending::Pending, place::Placer, warn, watched::Watched};

/// Questions judged at once: one large file that is hashed must not hold up the others.
const THREADS: usize = 4;
/// Hanging threads that are replaced.
const REPLACED: isize = 12;

#[derive(Debug)]
pub(super) struct Workers {
    queue: Sender<Arc<Pending>>,
    shared: Arc<Shared>,
}

struct Shared {
    judge: Arc<dyn Judge>,
    watched: Arc<Watched>,
    placer: Placer,
    counters: Arc<Counters>,
    queue: Mutex<Receiver<Arc<Pending>>>,
    crew: Mutex<Crew>,
}

#[derive(Debug, Default)]
struct Crew {
    working: usize,
    /// Threads that were late and have not come back. Below 0 for the moment in which one comes back before it was given up.
    hanging: isize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("crew", &self.crew)
            .finish_non_exhaustive()
    }
}

impl Workers {
    pub(super) fn start(
        judge: Arc<dyn Judge>,
        watched: Arc<Watched>,
        placer: Placer,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let (queue, receiver) = mpsc::channel();
        let crew = Mutex::new(Crew {
            working: THREADS,
            hanging: 0,
        });
        let shared = Arc::new(Shared {
            judge,
            watched,
            placer,
            counters,
            queue: Mutex::new(receiver),
            crew,
        });
        for _ in 0..THREADS {
            shared.clone().start()?;
        }
        Ok(Self { queue, shared })
    }

    /// Gives a question to the next free thread; `false` where all of them hang.
    pub(super) fn judge(&self, pending: Arc<Pending>) -> bool {
        self.shared.crew().working > 0 && self.queue.send(pending).is_ok()
    }

    /// A thread is late with a question.
    pub(super) fn replace(&self) {
        let mut crew = self.shared.crew();
        crew.hanging += 1;
        crew.working = crew.working.saturating_sub(1);
        if crew.hanging > REPLACED {
            return;
        }
        match self.shared.clone().start() {
            Ok(()) => crew.working += 1,
            Err(error) => warn("cannot replace a judging thread that hangs", &error),
        }
    }
}

impl Shared {
    fn start(self: Arc<Self>) -> io::Result<()> {
        thread::Builder::new()
            .name("front-judge".to_owned())
            .spawn(move || self.run())
            .map(drop)
    }

    fn run(&self) {
        while let Some(pending) = self.next() {
            let was_in_time = self.judge(&pending);
            // The descriptors close now, not with the next question.
            drop(pending);
            if !was_in_time && !self.come_back() {
                return;
            }
        }
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After being given up: whether this thread is needed.
    fn come_back(&self) -> bool {
        let mut crew = self.crew();
        crew.hanging -= 1;
        let is_needed = crew.working < THREADS;
        crew.working += usize::from(is_needed);
        is_needed
    }

    /// `None` when the front has ended.
    fn next(&self) -> Option<Arc<Pending>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    /// `false` where the clock was faster.
    fn judge(&self, pending: &Pending) -> bool {
        let Some(flushes) = pending.begin() else { return true };
        let counters = &self.counters;
        match catch_unwind(AssertUnwindSafe(|| self.ask(pending))) {
            Ok(Ok(answer)) => pending.settle(answer, flushes),
            Ok(Err(error)) => {
                warn("cannot find out which file is to be executed", &error);
                pending.fail(&counters.unplaced).is_some()
            }
            Err(_) => pending.fail(&counters.panicked).is_some(),
        }
    }

    fn ask(&self, pending: &Pending) -> io::Result<Answer> {
        let (device, inode) = self.placer.place(&self.watched, pending.file())?;
        Ok(self.judge.judge(pending.pid, pending.file(), device, inode))
    }
}
