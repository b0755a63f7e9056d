//! The two clocks that the lifecycle goes by.
//!
//! Timers (delays, deadlines, periods) are [`Moment`]s of a steady clock, which nobody can set. What people and
//! other machines read, and what the provider tells, are readings of the wall clock. [`Now`] has both, and is the
//! only way from one to the other.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A reading of the agent's steady clock: it goes on evenly from the start of the agent, whatever becomes of the
/// wall clock. It is spelt as the time that the wall clock would show had nobody set it since.
///
/// Moments of different runs of the agent do not compare: see [`Now::translate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(Timestamp);

impl Default for Moment {
    /// Long ago.
    fn default() -> Self {
        Self(Timestamp::UNIX_EPOCH)
    }
}

impl Moment {
    /// The moment at which the steady clock shows this.
    #[must_use]
    pub const fn new(reading: Timestamp) -> Self {
        Self(reading)
    }

    /// So much later; the end of time where that does not exist.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.checked_add(duration).unwrap_or(Timestamp::MAX))
    }

    /// So much earlier; the beginning of time where that does not exist.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.checked_sub(duration).unwrap_or(Timestamp::MIN))
    }

    /// The time since `earlier`; none when it is still to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }
}

/// The present on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// For timers.
    pub steady: Moment,
    /// For what is shown, and to be compared with what others show.
    pub wall: Timestamp,
}

impl Now {
    /// The moment of a reading of the wall clock. What it says of the future is now.
    #[must_use]
    pub fn moment_of(self, wall: Timestamp) -> Moment {
        self.steady.before(Moment(self.wall).since(Moment(wall)))
    }

    /// Between `before` and now, in the same run of the agent, nobody has set the wall clock by more than a second.
    #[must_use]
    pub fn agrees_with(self, before: Self) -> bool {
        let ahead = |now: Self| now.wall.duration_since(now.steady.0);
        ahead(self).as_secs().abs_diff(ahead(before).as_secs()) <= 1
    }

    /// A moment of another run of the agent, which read its clocks as `then`, on the clock of this one. The wall
    /// clock is what connects them; how far it was set in between nobody can tell, so that the result is to be
    /// bounded.
    #[must_use]
    pub fn translate(self, then: Self, moment: Moment) -> Moment {
        let ahead = moment.since(then.steady);
        let ago = then.steady.since(moment);
        let wall = Moment(then.wall).after(ahead).before(ago);
        let present = Moment(self.wall);
        self.steady.after(wall.since(present)).before(present.since(wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn now(steady: i64, wall: i64) -> Now {
        Now { steady: Moment(at(steady)), wall: at(wall) }
    }

    #[test]
    fn what_the_wall_clock_shows_is_as_long_ago_as_it_says_and_never_ahead() {
        // Somebody has set the wall clock forward by an hour.
        let now = now(100, 3700);
        assert_eq!(now.moment_of(at(3690)), Moment(at(90)));
        assert_eq!(now.moment_of(at(3700)), Moment(at(100)));
        assert_eq!(now.moment_of(at(9999)), Moment(at(100)));
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let before = now(100, 3700);
        for (later, agrees) in
            [(now(200, 3800), true), (now(200, 3801), true), (now(200, 4000), false), (now(200, 200), false)]
        {
            assert_eq!(later.agrees_with(before), agrees, "{later:?}");
        }
    }

    #[test]
    fn a_moment_of_an_earlier_run_is_found_by_the_wall_clock() {
        // Set forward by an hour while the first run lasted; the second begins five seconds later.
        let (then, now) = (now(100, 3700), now(3705, 3705));
        for (before, after) in [(100, 3700), (70, 3670), (130, 3730)] {
            assert_eq!(now.translate(then, Moment(at(before))), Moment(at(after)));
        }
    }
}
