//! Modules that could not be compiled lately, so that nobody tries again at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::error::PrecompileError;

/// Failures that are remembered; what is over first goes first.
const LIMIT: usize = 1024;

/// Failures by the name of what was to be made: a module's digest and a compiler's key.
#[derive(Debug)]
pub(super) struct Failures {
    /// How long a failure lasts that another attempt may overcome; twice as long the next time, up to `longest`.
    retry: Duration,
    /// How long one lasts that is the module's own fault.
    longest: Duration,
    known: HashMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    error: PrecompileError,
    lasts: Duration,
    until: Instant,
}

impl Failures {
    pub(super) fn new(retry: Duration, longest: Duration) -> Self {
        Self { retry, longest, known: HashMap::new() }
    }

    /// The failure that still lasts.
    pub(super) fn get(&self, name: &str, now: Instant) -> Option<PrecompileError> {
        self.known.get(name).filter(|failure| now < failure.until).map(|failure| failure.error.clone())
    }

    pub(super) fn remember(&mut self, name: &str, error: &PrecompileError, now: Instant) {
        let before = self.known.get(name).map(|failure| failure.lasts.saturating_mul(2));
        let lasts = match error {
            PrecompileError::Invalid(_) => self.longest,
            PrecompileError::Failed(_) => before.unwrap_or(self.retry).min(self.longest),
            // A full disk, or a compiler that does not start, says nothing about the module.
            PrecompileError::NotRun(_) | PrecompileError::Store(_) => return,
        };
        // One that is over is kept for as long again, to know that the next one is not the first.
        self.known.retain(|_, failure| now < failure.until + failure.lasts);
        if self.known.len() >= LIMIT {
            let first =
                self.known.iter().min_by_key(|(_, failure)| failure.until).map(|(name, _)| name.clone());
            first.and_then(|name| self.known.remove(&name));
        }
        self.known.insert(name.to_owned(), Failure { error: error.clone(), lasts, until: now + lasts });
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn failures() -> (Failures, Instant) {
        (Failures::new(MINUTE, HOUR), Instant::now())
    }

    fn failed() -> PrecompileError {
        PrecompileError::Failed("x".to_owned())
    }

    #[test]
    fn a_limit_that_was_met_is_tried_again_later_and_later() {
        let (mut failures, mut now) = failures();
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            failures.remember("m", &failed(), now);
            assert!(
                failures.get("m", now + minutes * MINUTE - Duration::from_secs(1)).is_some(),
                "{minutes}"
            );
            now += minutes * MINUTE;
            assert!(failures.get("m", now).is_none(), "{minutes}");
        }
        failures.forget("m");
        failures.remember("m", &failed(), now);
        assert!(failures.get("m", now + MINUTE).is_none(), "what has succeeded begins anew");
    }

    #[test]
    fn a_module_that_is_wrong_stays_so_for_long_and_no_others_fault_is_the_modules() {
        let (mut failures, now) = failures();
        failures.remember("m", &PrecompileError::Invalid("x".to_owned()), now);
        assert!(failures.get("m", now + HOUR - MINUTE).is_some() && failures.get("m", now + HOUR).is_none());
        failures.remember("n", &PrecompileError::NotRun("x".to_owned()), now);
        assert!(failures.get("n", now).is_none());
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (mut failures, now) = failures();
        for number in 0..2 * LIMIT {
            failures.remember(&number.to_string(), &failed(), now + Duration::from_millis(number as u64));
        }
        assert_eq!(failures.known.len(), LIMIT);
        assert!(failures.get("0", now).is_none());
        assert!(failures.get(&(2 * LIMIT - 1).to_string(), now).is_some());
        failures.remember("late", &failed(), now + HOUR);
        assert_eq!(failures.known.len(), 1, "the others are over");
    }
}
