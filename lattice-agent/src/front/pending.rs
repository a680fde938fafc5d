//! One question, answered exactly once: by the judge, by the clock, or, where it was lost, when it is dropped.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use super::{
    Answer, Failure,
    counters::{Counter, Counters},
    group::SharedGroup,
    warn,
};
use crate::kernel::{fanotify::Question, pidfd};

const WAITING: u8 = 0;
const JUDGING: u8 = 1;
const SETTLED: u8 = 2;

/// What all questions have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) group: Arc<SharedGroup>,
    pub(super) counters: Arc<Counters>,
    pub(super) failure: Failure,
    /// Questions whose descriptors are held.
    pub(super) held: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Pending {
    common: Arc<Common>,
    /// Stays open until this is dropped, so that its number cannot come to mean another question before the answer is given.
    file: OwnedFd,
    process: Option<OwnedFd>,
    pub(super) pid: i32,
    stage: AtomicU8,
}

impl Pending {
    pub(super) fn new(common: &Arc<Common>, question: Question) -> Self {
        common.held.fetch_add(1, Ordering::Relaxed);
        let Question { file, process, pid } = question;
        Self {
            common: common.clone(),
            file,
            process,
            pid,
            stage: AtomicU8::new(WAITING),
        }
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        self.stage
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Begins judging; `None` where it has been answered. Else what [`Self::settle`] wants.
    pub(super) fn begin(&self) -> Option<u64> {
        let flushes = self.common.group.flushes();
        self.advance(WAITING, JUDGING).then_some(flushes)
    }

    /// Gives the judge's answer; `false` where the clock was faster, and then it has no effect at all.
    pub(super) fn settle(&self, answer: Answer, flushes: u64) -> bool {
        if !self.advance(JUDGING, SETTLED) {
            return false;
        }
        match answer {
            Answer::Allow => self.answer(true),
            Answer::AllowAndIgnore => {
                self.ignore(flushes);
                self.answer(true);
            }
            Answer::Deny => self.answer(false),
            Answer::KillAndDeny => {
                self.kill();
                self.answer(false);
            }
        }
        true
    }

    /// Lets it go on without judging it.
    pub(super) fn allow_unjudged(&self) {
        if self.advance(WAITING, SETTLED) {
            self.answer(true);
        }
    }

    /// Gives the failure as answer, counts why, and says whether it was being judged; `None` where it has been answered.
    pub(super) fn fail(&self, cause: &Counter) -> Option<bool> {
        let was_judging = match self.stage.swap(SETTLED, Ordering::AcqRel) {
            SETTLED => return None,
            stage => stage == JUDGING,
        };
        // Before the answer: who waited for it may look at the counts.
        cause.increment();
        self.answer(self.common.failure == Failure::Allow);
        Some(was_judging)
    }

    fn answer(&self, is_allowed: bool) {
        let counters = &self.common.counters;
        if is_allowed {
            &counters.allowed
        } else {
            &counters.denied
        }
        .increment();
        match self.common.group.with(|group| group.answer(self.file(), is_allowed)) {
            Ok(()) => {}
            // A closed group has let everything go on.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => {
                counters.answer_failed.increment();
                warn("an answer to fanotify was not taken", &error);
            }
        }
    }

    fn ignore(&self, flushes: u64) {
        let counters = &self.common.counters;
        match self.common.group.ignore(flushes, self.file()) {
            Ok(true) => counters.ignored.increment(),
            Ok(false) => {}
            Err(error) => {
                counters.ignore_failed.increment();
                warn(
                    "fanotify does not ignore a file that may be ignored; it is asked for again",
                    &error,
                );
            }
        }
    }

    /// The descriptor is the very process that asked: the kernel made it with the question.
    fn kill(&self) {
        let counters = &self.common.counters;
        match self.process.as_ref().map(|process| pidfd::kill(process.as_fd())) {
            Some(Ok(())) => counters.killed.increment(),
            result => {
                counters.kill_failed.increment();
                match result {
                    Some(Err(error)) => warn("a process that was to be killed is refused only", &error),
                    _ => tracing::warn!(
                        pid = self.pid,
                        "a process that was to be killed is not to be seen, and refused only"
                    ),
                }
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Lost on the way: a thread ended that should not have.
        self.fail(&self.common.counters.lost);
        self.common.held.fetch_sub(1, Ordering::Relaxed);
    }
}
