//! Looks at the directory when something in it changed, and every few seconds besides.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::watch;

use super::{DirectoryReader, ObjectSet, log_problems};

/// A look without a reason: events get lost, and a directory that was replaced sends none.
const RESCAN_INTERVAL: Duration = Duration::from_secs(5);
/// An editor writes a file in several steps; the look waits until nothing happened for so long.
const QUIET: Duration = Duration::from_millis(100);
/// It waits no longer than this.
const QUIET_AT_MOST: Duration = Duration::from_secs(1);

/// Takes the first look, and then keeps looking on a thread of its own until nobody holds the receiver.
///
/// # Errors
/// When the thread cannot be started.
pub fn watch(mut reader: DirectoryReader) -> std::io::Result<watch::Receiver<ObjectSet>> {
    reader.scan();
    let first = reader.objects();
    log_problems(&first, None);
    let (sender, receiver) = watch::channel(first);
    std::thread::Builder::new()
        .name("objects-watcher".to_owned())
        .spawn(move || run(reader, &sender))?;
    Ok(receiver)
}

fn run(mut reader: DirectoryReader, sender: &watch::Sender<ObjectSet>) {
    let (events, incoming) = mpsc::channel();
    let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading makes events too.
        let is_change = event.is_ok_and(|event| match event.kind {
            EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
            _ => true,
        });
        if is_change {
            // The receiver outlives the watcher, but for the moment in which the thread ends.
            let _ = events.send(());
        }
    })
    .and_then(|mut watcher| {
        watcher.watch(reader.directory(), RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    let _watcher = watching
        .inspect_err(|error| {
            let seconds = RESCAN_INTERVAL.as_secs();
            tracing::warn!(%error, "the directory cannot be watched; changes are seen within {seconds} s");
        })
        .ok();
    while !sender.is_closed() {
        match incoming.recv_timeout(RESCAN_INTERVAL) {
            Ok(()) => wait_for_quiet(&incoming),
            Err(RecvTimeoutError::Timeout) => {}
            // No watcher.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(RESCAN_INTERVAL),
        }
        if reader.scan() {
            let set = reader.objects();
            log_problems(&set, Some(&sender.borrow()));
            sender.send_replace(set);
        }
    }
}

fn wait_for_quiet(incoming: &mpsc::Receiver<()>) {
    let end = Instant::now() + QUIET_AT_MOST;
    while Instant::now() < end && incoming.recv_timeout(QUIET).is_ok() {}
}
