//! The event thread: takes questions, hands them out, keeps the time, and closes the group when it ends.
//!
//! Never waits for anything but fanotify, never opens a file, never starts a program.

use std::{
    collections::VecDeque,
    io::{self, PipeReader},
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    Options,
    counters::Counters,
    group::SharedGroup,
    pending::{Common, Pending},
    warn,
    watchdog::{BEAT, Heartbeat},
    workers::Workers,
};
use crate::kernel::fanotify::Batch;

/// Questions whose descriptors are held at once. Further ones wait in the kernel, which has no limit; were the descriptors to run
/// out, it would refuse execs.
const HELD_AT_MOST: usize = 256;
/// How soon it is looked again while that many are held.
const HELD_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct EventLoop {
    common: Arc<Common>,
    workers: Workers,
    answer_within: Duration,
    heartbeat: Option<Heartbeat>,
    /// Ends when the front is dropped.
    stopped: PipeReader,
    /// In the order of their deadlines. Weak, so that descriptors close with the answer and not with the deadline.
    pending: VecDeque<(Instant, Weak<Pending>)>,
}

impl EventLoop {
    pub(super) fn new(
        group: Arc<SharedGroup>,
        workers: Workers,
        counters: Arc<Counters>,
        options: Options,
        stopped: PipeReader,
    ) -> Self {
        let Options {
            failure,
            answer_within,
            heartbeat,
        } = options;
        let common = Arc::new(Common {
            group,
            counters,
            failure,
            held: AtomicUsize::new(0),
        });
        Self {
            common,
            workers,
            answer_within,
            heartbeat,
            stopped,
            pending: VecDeque::new(),
        }
    }

    pub(super) fn start(mut self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("front".to_owned()).spawn(move || {
            let group = self.common.group.clone();
            close_after(&group, || self.run());
            // Only now may the rest be dropped: it could wait, and nothing waits for it any more.
        })
    }

    /// Until the front is dropped.
    fn run(&mut self) -> io::Result<()> {
        loop {
            if let Some(heartbeat) = &mut self.heartbeat {
                heartbeat.beat(&self.common.counters.watchdog_restarted);
            }
            self.expire(Instant::now());
            let (is_stopped, is_asked) = self.wait()?;
            if is_stopped {
                return Ok(());
            }
            if is_asked {
                self.take()?;
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool)> {
        let is_full = self.common.held.load(Ordering::Relaxed) >= HELD_AT_MOST;
        let next = self
            .pending
            .front()
            .map(|(deadline, _)| deadline.saturating_duration_since(Instant::now()));
        let timeout = next.unwrap_or(BEAT).min(if is_full { HELD_PAUSE } else { BEAT });
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        self.common.group.with(|group| {
            let asked = if is_full { PollFlags::empty() } else { PollFlags::POLLIN };
            let mut descriptors = [
                PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
                PollFd::new(group.as_fd(), asked),
            ];
            match poll(&mut descriptors, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [is_stopped, is_asked] = descriptors.map(|descriptor| descriptor.any() == Some(true));
            Ok((is_stopped, is_asked))
        })
    }

    fn take(&mut self) -> io::Result<()> {
        let counters = self.common.counters.clone();
        let Batch { questions, overflows } = match self.common.group.with(|group| group.read()) {
            Ok(batch) => batch,
            // The group itself is of no use any more.
            Err(error) if error.kind() == io::ErrorKind::InvalidData || is_ours(&error) => return Err(error),
            Err(error) => {
                counters.read_failed.increment();
                warn(
                    "fanotify could not hand over a file that is to be executed, and refused it",
                    &error,
                );
                return Ok(());
            }
        };
        counters.overflowed.add(overflows);
        counters.asked.add(questions.len() as u64);
        let deadline = Instant::now() + self.answer_within;
        for question in questions {
            let pending = Arc::new(Pending::new(&self.common, question));
            // Judging could wait for what the agent itself is about to do.
            if u32::try_from(pending.pid) == Ok(process::id()) {
                pending.allow_unjudged();
                continue;
            }
            self.pending.push_back((deadline, Arc::downgrade(&pending)));
            if !self.workers.judge(pending.clone()) {
                pending.fail(&counters.stalled);
            }
        }
        Ok(())
    }

    /// Answers what is overdue.
    fn expire(&mut self, now: Instant) {
        while let Some((deadline, pending)) = self.pending.front() {
            let pending = pending.upgrade();
            if pending.is_some() && *deadline > now {
                return;
            }
            self.pending.pop_front();
            let counters = &self.common.counters;
            let was_judging = pending.and_then(|pending| pending.fail(&counters.timed_out));
            if was_judging == Some(true) {
                self.workers.replace();
            }
        }
    }
}

fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EBADF | Errno::EFAULT | Errno::EINVAL)
    )
}

/// Runs the loop and closes the group, however the loop ends.
fn close_after(group: &SharedGroup, run: impl FnOnce() -> io::Result<()>) {
    let ended = catch_unwind(AssertUnwindSafe(run));
    group.close();
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn("the front has ended; the floor judges alone", &error),
        Err(_) => tracing::error!("the front's event thread panicked; the floor judges alone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fanotify::Group;

    #[track_caller]
    fn check(run: impl FnOnce() -> io::Result<()>) {
        let group = match Group::open() {
            Ok(group) => SharedGroup::new(group),
            Err(error) => return println!("skipped: the_group_is_closed_however_the_loop_ends: {error}"),
        };
        close_after(&group, run);
        assert_eq!(group.with(|_| Ok(())).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn the_group_is_closed_however_the_loop_ends() {
        check(|| Ok(()));
        check(|| Err(io::Error::other("broken")));
        check(|| panic!("on purpose"));
    }
}
