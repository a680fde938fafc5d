//! What the front counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $documentation:literal])+ $name:ident,)+) => {
        /// Counts since the front was started. `asked = allowed + denied` when nothing is pending; the others say why, or how.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts {
            $($(#[doc = $documentation])+ pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)+
        }

        impl Counters {
            pub(super) fn read(&self) -> Counts {
                Counts { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
            }
        }

        impl Counts {
            /// Each with its name, for metrics.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Questions that the kernel asked.
    asked,
    /// Answered with "go on", for whatever reason.
    allowed,
    /// Answered with EPERM, for whatever reason.
    denied,
    /// Files that are not asked for again.
    ignored,
    /// Processes that got SIGKILL.
    killed,
    /// Processes that should have got it: gone, or not to be seen.
    kill_failed,
    /// Answered with the failure because the judge was late.
    timed_out,
    /// Answered with the failure because the judge panicked.
    panicked,
    /// Answered with the failure at once because every judging thread hangs.
    stalled,
    /// Answered with the failure because it was not found out which file it is.
    unplaced,
    /// Answered with the failure because a thread ended that had it.
    lost,
    /// Ignore marks that the kernel refused; the file is asked for again.
    ignore_failed,
    /// Answers that the kernel did not take.
    answer_failed,
    /// Questions that the kernel could not hand over, and refused by itself.
    read_failed,
    /// How often the kernel's queue was full.
    overflowed,
    /// How often the watchdog was gone and another was started.
    watchdog_restarted,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn increment(&self) {
        self.add(1);
    }
}
