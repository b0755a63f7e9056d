//! When a watch tries again, and when it gives up. Pure.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::{error::Error, transport::TransportError};

/// Between the first failure and the second try; it doubles from there.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause of our own choice: somebody is looking.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest that the API server can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(120);
/// How often a user may be unknown in a row: credentials are renewed when they were refused once.
const UNAUTHORIZED: u32 = 3;

/// What comes of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What is known is too old to go on from.
    Relist,
    /// The same again, after a pause.
    Again {
        /// How long.
        pause: Duration,
    },
    /// No pause would help.
    Fatal,
}

/// What has failed, and how often in a row.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// The API server has answered before: that it does not now will pass.
    has_connected: bool,
    /// The user has been told of a failure, and is to be told that it is over.
    is_interrupted: bool,
    failures: u32,
    unauthorized: u32,
    relists: u32,
    pause: Option<Duration>,
}

impl Retry {
    /// What to wait before anything else is done, once.
    pub(super) fn take_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    /// A request was answered. Returns whether that ends an interruption.
    pub(super) fn succeed(&mut self) -> bool {
        self.has_connected = true;
        self.unauthorized = 0;
        std::mem::take(&mut self.is_interrupted)
    }

    /// A watch has delivered something.
    pub(super) fn fruitful(&mut self) {
        self.failures = 0;
        self.relists = 0;
    }

    /// A watch has ended, as they all do after a while. One that has delivered nothing may be one of many that do so at once.
    pub(super) fn ended(&mut self, is_fruitful: bool) {
        if !is_fruitful {
            self.pause = Some(self.next_pause());
        }
    }

    pub(super) fn judge(&mut self, error: &Error) -> Verdict {
        let verdict = match error {
            Error::Api(status) => self.judge_status(status),
            Error::Transport(TransportError::Denied) => Verdict::Fatal,
            Error::Transport(_) if self.has_connected => Verdict::Again { pause: self.next_pause() },
            // A list that broke off
            Error::Answer(..) if self.has_connected && self.failures < 5 => {
                Verdict::Again { pause: self.next_pause() }
            }
            _ => Verdict::Fatal,
        };
        if let Verdict::Again { pause } = verdict {
            self.is_interrupted = true;
            self.pause = Some(pause);
        }
        verdict
    }

    fn judge_status(&mut self, status: &Status) -> Verdict {
        let asked = status.details.as_ref().and_then(|details| details.retry_after_seconds);
        let asked =
            asked.and_then(|seconds| u64::try_from(seconds).ok()).map_or(Duration::ZERO, Duration::from_secs);
        match status.code.unwrap_or_default() {
            410 => self.relist(),
            // A server whose state is older than what was seen: that of a backup.
            504 if is_too_large(status) && self.failures > 2 => self.relist(),
            401 if self.has_connected && self.unauthorized < UNAUTHORIZED => {
                self.unauthorized += 1;
                Verdict::Again { pause: self.next_pause() }
            }
            429 | 500..=599 if self.has_connected => {
                Verdict::Again { pause: self.next_pause().max(asked.min(LONGEST_ASKED)) }
            }
            _ => Verdict::Fatal,
        }
    }

    /// Lists are dear: one at once, more of them after pauses.
    fn relist(&mut self) -> Verdict {
        self.relists += 1;
        if self.relists > 1 {
            self.pause = Some(self.next_pause());
        }
        Verdict::Relist
    }

    fn next_pause(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

fn is_too_large(status: &Status) -> bool {
    let causes = status.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
    causes.iter().any(|cause| cause.reason.as_deref() == Some("ResourceVersionTooLarge"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::status;

    fn api(code: u16) -> Error {
        Error::Api(Box::new(status(code, None, b"")))
    }

    fn connected() -> Retry {
        let mut retry = Retry::default();
        assert!(!retry.succeed());
        retry
    }

    fn again(seconds: u64) -> Verdict {
        Verdict::Again { pause: Duration::from_secs(seconds) }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_when_something_came() {
        let mut retry = connected();
        let refused = Error::Transport(TransportError::Refused);
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(retry.judge(&refused), again(seconds));
            assert_eq!(retry.take_pause(), Some(Duration::from_secs(seconds)));
        }
        assert!(retry.succeed(), "an interruption has an end");
        assert!(!retry.succeed(), "once");
        assert_eq!(
            retry.judge(&refused),
            again(10),
            "an answer alone may be that of a server that ends at once"
        );
        retry.fruitful();
        assert_eq!(retry.judge(&refused), again(1));
    }

    #[test]
    fn what_waiting_does_not_heal_ends_it() {
        assert_eq!(connected().judge(&api(403)), Verdict::Fatal);
        assert_eq!(connected().judge(&api(404)), Verdict::Fatal);
        assert_eq!(connected().judge(&Error::Transport(TransportError::Denied)), Verdict::Fatal);
        assert_eq!(Retry::default().judge(&Error::Transport(TransportError::Refused)), Verdict::Fatal);
        assert_eq!(Retry::default().judge(&api(503)), Verdict::Fatal);
        assert_eq!(Retry::default().judge(&api(401)), Verdict::Fatal);
    }

    #[test]
    fn refused_credentials_get_time_to_be_renewed() {
        let mut retry = connected();
        for seconds in [1, 2, 4] {
            assert_eq!(retry.judge(&api(401)), again(seconds));
        }
        assert_eq!(retry.judge(&api(401)), Verdict::Fatal);
    }

    #[test]
    fn what_is_too_old_is_listed_anew_and_not_in_a_tight_loop() {
        let mut retry = connected();
        assert_eq!((retry.judge(&api(410)), retry.take_pause()), (Verdict::Relist, None));
        assert_eq!((retry.judge(&api(410)), retry.take_pause()), (Verdict::Relist, Some(FIRST)));
        retry.fruitful();
        assert_eq!((retry.judge(&api(410)), retry.take_pause()), (Verdict::Relist, None));
    }

    #[test]
    fn a_version_of_the_future_is_given_up_after_some_tries() {
        let body = br#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Timeout", "code": 504,
            "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}}"#;
        let error = Error::Api(Box::new(status(504, None, body)));
        let mut retry = connected();
        for seconds in [1, 2, 4] {
            assert_eq!(retry.judge(&error), again(seconds));
        }
        assert_eq!(retry.judge(&error), Verdict::Relist);
    }

    #[test]
    fn a_server_that_asks_for_a_pause_gets_it() {
        let busy = |seconds| Error::Api(Box::new(status(429, Some(seconds), b"")));
        assert_eq!(connected().judge(&busy(30)), again(30));
        assert_eq!(connected().judge(&busy(0)), again(1));
        assert_eq!(connected().judge(&busy(100_000)), again(120));
    }

    #[test]
    fn watches_that_end_at_once_are_not_begun_at_once() {
        let mut retry = connected();
        retry.ended(true);
        assert_eq!(retry.take_pause(), None);
        retry.ended(false);
        assert_eq!(retry.take_pause(), Some(FIRST));
    }
}
