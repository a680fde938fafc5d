//! What the demo tells while it plays: a spinner for what takes long on a terminal, plain lines elsewhere.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// One thing that takes a while.
pub(super) struct Task {
    label: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Task {
    pub(super) fn begin(label: &str) -> Self {
        let bar = io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(format!("{label} …"));
            // A template that is a literal is right or never was.
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            label: label.to_owned(),
            started: Instant::now(),
            bar,
        }
    }

    /// Says what came of it.
    pub(super) fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f32();
        println!("  {}: {result} ({seconds:.1} s)", self.label);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The heading of a step.
pub(super) fn heading(number: u8, text: &str) {
    println!("\n── {number}. {text}");
}

/// One line below a heading.
pub(super) fn say(text: &str) {
    println!("  {text}");
}

/// Lines of another program, as it printed them.
pub(super) fn quote(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}
