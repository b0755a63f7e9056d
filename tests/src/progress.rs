//! What long set-up says while it works.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

/// Writes one line to standard error, past the test harness, which would keep it back until a test
/// has failed.
pub fn say(line: &str) {
    // Nobody is helped by a test that fails because its terminal is gone.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A step that takes seconds: says what begins and, when [`Step::done`] is called, how long it took.
#[derive(Debug)]
pub struct Step {
    name: String,
    start: Instant,
}

impl Step {
    /// Says that `name` begins.
    #[must_use]
    pub fn begin(name: &str) -> Self {
        say(&format!("  {name} ..."));
        Self { name: name.to_owned(), start: Instant::now() }
    }

    /// Says that it is done, and returns the time that it took.
    pub fn done(self) -> Duration {
        let took = self.start.elapsed();
        say(&format!("  {}: done in {:.1} s", self.name, took.as_secs_f64()));
        took
    }
}
