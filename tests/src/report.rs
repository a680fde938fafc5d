//! What a suite prints: a line a case, and a sum that `cargo xtask test` understands.

use std::{process::ExitCode, time::Duration};

/// What came of the cases.
#[derive(Debug, Default)]
pub struct Report {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Report {
    /// A case ended.
    pub fn case(&mut self, name: &str, result: &anyhow::Result<()>, duration: Duration) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok {name} ({} ms)", duration.as_millis());
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED: {name}: {}", format!("{error:#}").replace('\n', " | "));
            }
        }
    }

    /// A case was not run.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("skipped: {name}: {reason}");
    }

    /// Whether any case failed.
    pub fn has_failures(&self) -> bool {
        self.failed != 0
    }

    /// The last line, and how the program ends.
    pub fn finish(self) -> ExitCode {
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
